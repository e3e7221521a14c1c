// Rows: the words that one lane of DENSE and FRESH takes together, 4 bytes of the tile (docs/format.md §4.5).
//
// 16-bit words: lane l has elements 64·r + 2·l and the one behind it, in rounds 2·r and 2·r + 1. 32-bit words: 32·r + l.
// A warp's row is 128 bytes.
#pragma once
#include "words.cuh"

template <typename Word> struct Row {
    static constexpr u32 WORDS = 4 / sizeof(Word);
    u32 bits;

    __device__ __forceinline__ u32 word(u32 j) const {
        if (WORDS == 1) return bits;
        return j ? bits >> 16 : bits & 0xffffu;
    }

    __device__ __forceinline__ void put(u32 j, u32 word) { bits = j ? bits | word << 16 : word; }

    // `count` words from any address; the other is 0.
    __device__ __forceinline__ static Row load(const Word* from, u32 count) {
        u32 low = count > 0 ? (u32)from[0] : 0;
        u32 high = WORDS == 2 && count > 1 ? (u32)from[1] : 0;
        return {low | high << (WORDS == 2 ? 16 : 0)};
    }

    __device__ __forceinline__ void store(Word* to, u32 count) const {
        for (u32 j = 0; j < WORDS; j++)
            if (j < count) to[j] = (Word)word(j);
    }

    // Words of the row at `first` that the block of `elems` has.
    __device__ __forceinline__ static u32 members(u32 elems, u32 first) {
        return first < elems ? smaller(elems - first, WORDS) : 0;
    }
};
