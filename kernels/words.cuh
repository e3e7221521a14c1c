// Words: the machine words of a tensor as the codec sees them (docs/format.md §3), and how a warp reads and writes them.
//
// Nothing here or in the other files needs a header of CUDA: NVRTC compiles them alone, and g++ compiles them behind
// emulate.hpp, which stands in for the few intrinsics.
#pragma once

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;

struct __align__(16) Vector { u32 at[4]; };

// All shared memory is dynamic: the planner decides how much, and no kernel has any of its own.
extern __shared__ Vector tpde_shared[];

__device__ __forceinline__ u32* shared_words() { return tpde_shared[0].at; }

constexpr u32 ALL_LANES = 0xffffffffu;
constexpr u32 WARP = 32;

__device__ __forceinline__ u32 lane_of_thread() { return threadIdx.x & (WARP - 1); }
__device__ __forceinline__ u32 warp_of_thread() { return threadIdx.x / WARP; }
__device__ __forceinline__ u32 lanes_below() { return (1u << lane_of_thread()) - 1; }
__device__ __forceinline__ u32 smaller(u32 a, u32 b) { return a < b ? a : b; }

// Where this lane's item goes in a list that all lanes with `keep` append to, in the order of lanes.
__device__ __forceinline__ u32 rank_in(u32 votes) { return __popc(votes & lanes_below()); }

// What the bits of a word mean. `FLOAT` is known to the compiler; the width of the mantissa is not (F16 and BF16 share kernels).
template <typename Word, bool FLOAT> struct Layout {
    static constexpr u32 BITS = 8 * sizeof(Word);
    static constexpr u32 TOP = 1u << (BITS - 1);
    static constexpr u32 MASK = (TOP - 1) | TOP;
    // Values of key(): a sign and at most 8 exponent bits, or a bit length of at most 32.
    static constexpr u32 KEYS = 512;

    u32 mantissa_bits;
    u32 exponent_mask;
    u32 is_signed;

    // A number that decides the exponent. Cheaper than it: a float keeps its sign on top.
    __device__ __forceinline__ u32 key(u32 word) const {
        if (FLOAT) return word >> mantissa_bits;
        u32 bits = is_signed && (word & TOP) ? ~word & MASK : word;
        return 32 - __clz(bits);
    }

    __device__ __forceinline__ u32 exponent_of_key(u32 key) const { return FLOAT ? key & exponent_mask : key; }

    // base + d in ulps, modulo the width; d is a magnitude with a sign.
    __device__ __forceinline__ u32 moved(u32 base, u32 magnitude, u32 negative) const {
        u32 sum = ordinal(base) + (negative ? 0u - magnitude : magnitude);
        return ordinal(sum & MASK);
    }

    // Its own inverse.
    __device__ __forceinline__ u32 ordinal(u32 word) const {
        if (!FLOAT) return word;
        return word & TOP ? word ^ (TOP - 1) : word;
    }
};

__device__ __forceinline__ bool is_aligned(const void* pointer, u32 bytes) { return ((u64)pointer & (bytes - 1)) == 0; }

// Eight words, as a group of SPARSE has them: 16-bit words two in one register.
template <typename Word> struct Eight {
    static constexpr u32 REGISTERS = 2 * sizeof(Word);
    u32 at[REGISTERS];

    __device__ __forceinline__ u32 word(u32 j) const {
        if (sizeof(Word) == 4) return at[j % REGISTERS];
        return j & 1 ? at[j / 2] >> 16 : at[j / 2] & 0xffffu;
    }

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (u32 i = 0; i < REGISTERS; i++) at[i] = 0;
    }

    // `aligned`: whether the first word lies on 16 bytes. `count` words are there, at most 8; the others read as 0.
    __device__ __forceinline__ void load(const Word* from, bool aligned, u32 count) {
        if (aligned && count == 8) {
#pragma unroll
            for (u32 i = 0; i < REGISTERS; i += 4) {
                Vector v = *(const Vector*)(from + i * 4 / sizeof(Word));
                for (u32 k = 0; k < 4; k++) at[i + k] = v.at[k];
            }
            return;
        }
        clear();
#pragma unroll
        for (u32 j = 0; j < 8; j++) {
            u32 word = j < count ? (u32)from[j] : 0u;
            if (sizeof(Word) == 4) at[j % REGISTERS] = word;
            else at[j / 2] |= word << (j & 1) * 16;
        }
    }

    __device__ __forceinline__ void store(Word* to, bool aligned, u32 count) const {
        if (aligned && count == 8) {
#pragma unroll
            for (u32 i = 0; i < REGISTERS; i += 4) {
                Vector v;
                for (u32 k = 0; k < 4; k++) v.at[k] = at[i + k];
                *(Vector*)(to + i * 4 / sizeof(Word)) = v;
            }
            return;
        }
#pragma unroll
        for (u32 j = 0; j < 8; j++)
            if (j < count) to[j] = (Word)word(j);
    }
};
