// Streams: interleaved rANS, a lane of the stream in each thread of a warp (docs/format.md §4.4).
//
// state  x in 2^15 .. 2^31, one a thread. words  u16, little-endian, taken by the lanes that fall below 2^15, lane 0 first:
// a ballot says who, a popcount says which word. Every function is called by all 32 threads of a warp together.
//
// Words are not checked one by one: a block of 2^16 elements takes at most OVERREAD_BYTES, the planner puts that many
// behind the last frame, and whoever took more than the block has is found at its end. That the states stay in
// range needs no check: x >> b is at least 2 for b <= 14, so one word is always enough.
#pragma once
#include "records.cuh"

constexpr u32 STATE_LOW = 1u << 15;
constexpr u32 SEED_BITS = 15;

// Decoding entries: symbol in bits 0-7, slot - start in 8-19, frequency - 1 in 20-31.
__device__ __forceinline__ u32 entry_of(u32 symbol, u32 frequency, u32 offset) {
    return symbol | offset << 8 | (frequency - 1) << 20;
}

// What the kernels need of Tokens, in registers: stores through the output might alias a record.
struct Shape {
    u32 prob_bits;
    u32 slot_mask;
    u32 limit;      // symbols below it are numbers themselves
    u32 top;
    u32 leading;    // 2^top
    u32 fewest_low; // low bits of the first symbol from `limit` on

    __device__ __forceinline__ explicit Shape(const Tokens& tokens)
        : prob_bits(tokens.prob_bits),
          slot_mask((1u << tokens.prob_bits) - 1),
          limit(1u << tokens.direct),
          top(tokens.top),
          leading(1u << tokens.top),
          fewest_low(tokens.direct - tokens.top) {}
};

// Entries in memory, a whole table of them from `at` on.
struct Entries {
    const u32* at;

    // The symbol, and the state behind it.
    __device__ __forceinline__ u32 next(const Shape& tokens, u32 state, u32& symbol) const {
        u32 entry = at[state & tokens.slot_mask];
        symbol = entry & 255;
        u32 rest = state >> tokens.prob_bits;
        return (entry >> 20) * rest + (rest + (entry >> 8 & 4095));
    }
};

// FULL: the stream has 32 lanes, or those that it lacks stay idle. With fewer, thread t holds a copy of the state of lane t mod L, and threads take turns.
// HELD: the next words are in registers, two a thread, and those behind them under way, so no round waits for memory; else they are read
// from the L1 cache, which takes fewer instructions.
template <bool FULL, bool HELD> struct Stream {
    u32 state;
    u32 lanes;
    const u16* words;
    u32 used;  // of the words
    u32 below; // lanes_below()
    u32 held;  // words[lane], and words[32 + lane] above it
    u32 ahead; // words[64 + lane]

    // Where this lane's item goes among those of the lanes that voted, in the order of lanes.
    __device__ __forceinline__ u32 rank_in(u32 votes) const { return __popc(votes & below); }

    // Reads the states; whether they fit the block. `bytes` is even and so is the address.
    __device__ __forceinline__ bool open(const u8* block, u32 bytes, u32 lane_count) {
        lanes = lane_count;
        u32 lane = lane_of_thread() & (lanes - 1);
        u32 halves = (lanes + 1) / 2;
        u32 half = block[lane / 2] >> (lane & 1) * 4;
        bool stray = lanes == 1 && half > 15;
        u32 width = SEED_BITS + (half & 15);
        u32 end = lane_of_thread() < lanes ? width : 0;
        for (u32 step = 1; step < WARP; step *= 2) {
            u32 below = __shfl_up_sync(ALL_LANES, end, step);
            if (lane_of_thread() >= step) end += below;
        }
        u32 total = __shfl_sync(ALL_LANES, end, lanes - 1);
        u32 first = __shfl_sync(ALL_LANES, end, lane) - width;
        u32 size = halves + (total + 7) / 8;
        const u8* bits = block + halves;
        u64 window = 0;
        for (u32 i = 0; i < 5; i++) window |= (u64)bits[first / 8 + i] << 8 * i;
        state = 1u << width | ((u32)(window >> (first & 7)) & ((1u << width) - 1));
        u32 padding = total & 7 ? bits[total / 8] >> (total & 7) : 0;
        if (size & 1) padding |= block[size];
        size += size & 1;
        words = (const u16*)(block + size);
        used = 0;
        below = lanes_below();
        if (HELD) {
            held = words[lane_of_thread()] | (u32)words[WARP + lane_of_thread()] << 16;
            ahead = words[2 * WARP + lane_of_thread()];
        }
        return !__any_sync(ALL_LANES, stray || padding != 0 || size > bytes);
    }

    // Threads beyond the lanes never fall below 2^15, so they need no further thought.
    __device__ __forceinline__ void idle_others() {
        if (lane_of_thread() >= lanes) state = STATE_LOW;
    }

    // Step 2: threads that took part read a word if they have to. All others are above 2^15, or are not to move.
    __device__ __forceinline__ void refill(bool part) {
        bool low = state < STATE_LOW;
        if (!FULL) low = low && part;
        u32 votes = __ballot_sync(ALL_LANES, low);
        if (!HELD) {
            if (low) state = state << 16 | words[used + rank_in(votes)];
            used += __popc(votes);
            return;
        }
        u32 at = used + rank_in(votes); // below 64
        u32 pair = __shfl_sync(ALL_LANES, held, at & (WARP - 1));
        // Bytes 0 and 1 of the pair or its bytes 2 and 3, below those of the state.
        if (low) state = __byte_perm(pair, state, at & WARP ? 0x5432 : 0x5410);
        used += __popc(votes);
    }

    // HELD: lets go what was used; after at most 32 more words each time.
    __device__ __forceinline__ void advance() {
        // While, not if: it turns once at most, but as predicated code it would wait for memory each time, also for loads of others.
#pragma unroll 1
        while (HELD && used >= WARP) {
            used -= WARP;
            words += WARP;
            held = held >> 16 | ahead << 16;
            ahead = words[2 * WARP + lane_of_thread()];
        }
    }

    // Asks for the words that will be read next but one or two rounds: half a line of cache each is what a round takes at most.
    __device__ __forceinline__ void look_ahead() const {
#ifdef __CUDA_ARCH__
        asm volatile("prefetch.global.L1 [%0];" ::"l"(words + used + 128));
#endif
    }

    // Ends the turn of threads `turn` … `turn` + L - 1: their states become those of their lanes.
    __device__ __forceinline__ void share(u32 turn) {
        if (!FULL) state = __shfl_sync(ALL_LANES, state, turn + (lane_of_thread() & (lanes - 1)));
    }

    __device__ __forceinline__ bool has_turn(u32 turn) const { return FULL || lane_of_thread() - turn < lanes; }

    // A token (docs/format.md §4.2) by a table; threads without `part` get 0. `signs`: 0 none, 1 all symbols carry a sign,
    // 2 those other than 0. BITS: of the widest number; with 16, low bits never need a second turn.
    template <u32 BITS, typename Lookup> __device__ __forceinline__ u32 token(const Shape& tokens, const Lookup& table, bool part, u32 signs, u32& negative) {
        u32 symbol = 0;
        negative = 0;
        if (part) {
            u32 next = table.next(tokens, state, symbol);
            bool has_sign = signs == 1 || (signs == 2 && symbol != 0);
            negative = has_sign ? next & 1 : 0;
            state = has_sign ? next >> 1 : next;
        }
        refill(part);
        advance();
        bool wide = symbol >= tokens.limit;
        if (!__any_sync(ALL_LANES, wide)) return symbol;
        u32 above = symbol - tokens.limit;
        u32 lacking = wide ? tokens.fewest_low + (above >> tokens.top) : 0;
        u32 number = wide ? (tokens.leading | (above & (tokens.leading - 1))) << lacking : symbol;
        if (BITS == 16) {
            number |= state & ((1u << lacking) - 1);
            state >>= lacking;
            refill(lacking != 0);
            advance();
            return number;
        }
        u32 have = 0;
        while (__any_sync(ALL_LANES, lacking != 0)) {
            bool takes = lacking != 0;
            u32 count = smaller(lacking, 15);
            number |= (state & ((1u << count) - 1)) << have;
            state >>= count;
            have += count;
            lacking -= count;
            refill(takes);
            advance();
        }
        return number;
    }

    // The status of a stream that ends at `end`.
    __device__ __forceinline__ u32 close(const u8* end) const {
        u32 status = (const u8*)(words + used) == end ? GOOD : BAD_LENGTH;
        return state >= STATE_LOW && state < 2 * STATE_LOW ? status : status | BAD_END;
    }
};

// Seeds of one stream, from lane 0 on, once they are known.
struct Seeds {
    const u16* of_lane;

    // Bit i of all of them.
    __device__ __forceinline__ u32 bit(u32 i) const { return of_lane[i / SEED_BITS] >> i % SEED_BITS & 1; }
};

// The warp's verdict on a block, written by its first lane.
__device__ __forceinline__ void report(const Plan& plan, u32 task, u32 status) {
    for (u32 step = WARP / 2; step > 0; step /= 2) status |= __shfl_xor_sync(ALL_LANES, status, step);
    if (lane_of_thread() == 0) plan.status[task] = status;
}

// Copies table entries to shared memory, by the whole CTA.
__device__ __forceinline__ void stage(u32* to, const u32* from, u32 entries) {
    // Tables have at least 2^10 entries and lie on 16 bytes.
    for (u32 i = 4 * threadIdx.x; i < entries; i += 4 * blockDim.x) *(Vector*)(to + i) = *(const Vector*)(from + i);
}
