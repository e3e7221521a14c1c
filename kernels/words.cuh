// Words: the machine words of a tensor as the codec sees them (docs/format.md §3), and how a warp reads and writes them.
//
// Nothing here or in the other files needs a header of CUDA: NVRTC compiles them alone, and g++ compiles them behind
// emulate.hpp, which stands in for the few intrinsics.
#pragma once

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;

using Vector = uint4;

// All shared memory is dynamic: the planner decides how much, and no kernel has any of its own.
extern __shared__ Vector tpde_shared[];

__device__ __forceinline__ u32* shared_words() { return &tpde_shared[0].x; }

constexpr u32 ALL_LANES = 0xffffffffu;
constexpr u32 WARP = 32;

__device__ __forceinline__ u32 lane_of_thread() { return threadIdx.x & (WARP - 1); }
// A number that all lanes of the warp have: tells the compiler so, who then knows that they take the same branches.
__device__ __forceinline__ u32 uniform(u32 number) { return __reduce_max_sync(ALL_LANES, number); }

__device__ __forceinline__ u32 warp_of_thread() { return uniform(threadIdx.x / WARP); }

// Bits of the lanes below this one.
__device__ __forceinline__ u32 lanes_below() {
#ifdef __CUDA_ARCH__
    // Volatile keeps it in a register: made anew it costs more than it is worth, once a symbol.
    u32 mask;
    asm volatile("mov.u32 %0, %%lanemask_lt;" : "=r"(mask));
    return mask;
#else
    return (1u << lane_of_thread()) - 1;
#endif
}

__device__ __forceinline__ u32 smaller(u32 a, u32 b) { return a < b ? a : b; }

__device__ __forceinline__ u32 larger(u32 a, u32 b) { return a > b ? a : b; }

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

// Loads of words that nobody reads again soon: they leave the L1 cache to tables and streams.
__device__ __forceinline__ Vector load_vector_once(const void* from) {
#ifdef __CUDA_ARCH__
    Vector v;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from) : "memory");
    return v;
#else
    return *(const Vector*)from;
#endif
}

__device__ __forceinline__ u32 load_once(const void* from) {
#ifdef __CUDA_ARCH__
    u32 word;
    asm volatile("ld.global.L1::no_allocate.u32 %0, [%1];" : "=r"(word) : "l"(from) : "memory");
    return word;
#else
    return *(const u32*)from;
#endif
}

// Asks a line of memory into the L2 cache.
__device__ __forceinline__ void prefetch_l2(const void* at) {
#ifdef __CUDA_ARCH__
    asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
#else
    (void)at;
#endif
}

// One store of 16 bytes; of 16-bit words the compiler would make four.
__device__ __forceinline__ void store_vector(void* to, u32 x, u32 y, u32 z, u32 w) {
#ifdef __CUDA_ARCH__
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(x), "r"(y), "r"(z), "r"(w) : "memory");
#else
    *(Vector*)to = Vector{x, y, z, w};
#endif
}

// Eight words, as a group of SPARSE has them: 16-bit words two in one register.
template <typename Word> struct Eight {
    static constexpr u32 REGISTERS = 2 * sizeof(Word);
    u32 at[REGISTERS];

    __device__ __forceinline__ u32 word(u32 j) const {
        if (sizeof(Word) == 4) return at[j % REGISTERS];
        return j & 1 ? at[j / 2] >> 16 : at[j / 2] & 0xffffu;
    }

    // word(j) for a j that the compiler does not know, below 8.
    __device__ __forceinline__ u32 chosen(u32 j) const {
        if (sizeof(Word) == 4) {
            u32 low = j & 2 ? (j & 1 ? at[3] : at[2]) : (j & 1 ? at[1] : at[0]);
            u32 high = j & 2 ? (j & 1 ? word(7) : word(6)) : (j & 1 ? word(5) : word(4));
            return j & 4 ? high : low;
        }
        u32 pair = j & 4 ? (j & 2 ? at[3] : at[2]) : (j & 2 ? at[1] : at[0]);
        return j & 1 ? pair >> 16 : pair & 0xffffu;
    }

    // layout.key(word(j)), without cutting the word out first.
    template <bool FLOAT> __device__ __forceinline__ u32 key(const Layout<Word, FLOAT>& layout, u32 j) const {
        if (sizeof(Word) == 4 || !FLOAT) return layout.key(word(j));
        u32 shift = layout.mantissa_bits;
        return j & 1 ? at[j / 2] >> (16 + shift) : at[j / 2] >> shift & (0xffffu >> shift);
    }

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (u32 i = 0; i < REGISTERS; i++) at[i] = 0;
    }

    // All eight, from an address on 16 bytes.
    __device__ __forceinline__ void load_whole(const Word* from) {
#pragma unroll
        for (u32 i = 0; i < REGISTERS; i += 4) {
            Vector v = load_vector_once(from + i * 4 / sizeof(Word));
            at[i] = v.x;
            at[i + 1] = v.y;
            at[i + 2] = v.z;
            at[i + 3] = v.w;
        }
    }

    __device__ __forceinline__ void store_whole(Word* to) const {
#pragma unroll
        for (u32 i = 0; i < REGISTERS; i += 4) {
            store_vector(to + i * 4 / sizeof(Word), at[i], at[i + 1], at[i + 2], at[i + 3]);
        }
    }

    // `count` words, at most 8, from any address; the others read as 0.
    __device__ __forceinline__ void load(const Word* from, u32 count) {
        clear();
#pragma unroll
        for (u32 j = 0; j < 8; j++) {
            u32 word = j < count ? (u32)from[j] : 0u;
            if (sizeof(Word) == 4) at[j % REGISTERS] = word;
            else at[j / 2] |= word << (j & 1) * 16;
        }
    }

    __device__ __forceinline__ void store(Word* to, u32 count) const {
#pragma unroll
        for (u32 j = 0; j < 8; j++)
            if (j < count) to[j] = (Word)word(j);
    }
};
