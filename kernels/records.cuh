// Records: what the planner (tpde-infer/src/plan) tells the kernels. Its twin, byte for byte, is plan/records.rs.
#pragma once
#include "words.cuh"

// Why a block is bad, as bits of its status word; 0 is good. The planner fills the words with ones, so a block that
// nobody decoded is not good either.
enum Status : u32 {
    GOOD = 0,
    BAD_STATES = 1,    // the lane states do not fit the block, or their padding is not zero
    BAD_LENGTH = 2,    // words are left over, or missing
    BAD_END = 4,       // a lane does not end in a 15-bit number above 2^15
    BAD_SEEDS = 8,     // seeds that the mode does not use are not zero
    BAD_MAGNITUDE = 16 // a residual that the width does not have
};

// Token tables of one use (docs/format.md §4.2, §4.3).
struct Tokens {
    u32 direct;
    u32 top;
    u32 prob_bits;
    u32 slots_at;   // first entry of table 0 in Plan.slots
    u32 slots;      // entries of all tables: tables << prob_bits
    u8 table_of[16]; // by class
};

struct Frame {
    u64 base_at; // byte of the frame's first element in Plan.base
    u64 out_at;  // and in Plan.out
    u32 has_base; // else the base is all zero bits
    u32 mantissa_bits;
    u32 exponent_mask; // of a float
    u32 is_signed;     // of an integer
    u32 class_origin;
    u32 fresh_origin;
    u32 lanes_sparse;
    u32 lanes;         // of DENSE and FRESH
    u16 change_probability[16]; // by class, 1/65536
    Tokens magnitudes;
    Tokens dense;
    Tokens fresh;
};

// One block of a tile, or a whole tile of SAME and RAW.
struct Task {
    u64 bytes_at; // in Plan.bytes
    u32 bytes;    // 0 for SAME
    u32 elems;
    u32 first;    // element of the frame
    u32 is_copy_of_base;
};

// What one CTA does: some blocks of one frame, in one mode; one of its warps takes one block after another.
struct Job {
    u32 frame;
    u32 first_task;
    u32 tasks;
    u32 staged; // entries of the token tables, which the CTA keeps in shared memory
};

// A table as the frame's header has it.
struct Table {
    u32 frequencies_at; // in Plan.frequencies
    u32 symbols;
    u32 prob_bits;
    u32 slots_at;       // in Plan.slots
};

// The one argument of every kernel.
struct Plan {
    const u8* bytes;    // frames, each on 16 bytes, and OVERREAD_BYTES behind the last
    const Frame* frames;
    const Task* tasks;
    const Job* jobs;
    const Table* tables;
    const u16* frequencies;
    u32* slots;
    const u8* base;
    u8* out;
    u32* status;        // a word for every task
    u64 first_job;      // of this launch
};

static_assert(sizeof(Tokens) == 36 && sizeof(Frame) == 192, "plan/records.rs writes these bytes");
static_assert(sizeof(Task) == 24 && sizeof(Job) == 16 && sizeof(Table) == 16, "plan/records.rs writes these bytes");
static_assert(sizeof(Plan) == 88, "plan/records.rs writes these bytes");

template <typename Word, bool FLOAT> __device__ __forceinline__ Layout<Word, FLOAT> layout_of(const Frame& frame) {
    Layout<Word, FLOAT> layout;
    layout.mantissa_bits = frame.mantissa_bits;
    layout.exponent_mask = frame.exponent_mask;
    layout.is_signed = frame.is_signed;
    return layout;
}

__device__ __forceinline__ u32 class_of(u32 origin, u32 exponent) {
    return origin > exponent ? smaller(origin - exponent, 15) : 0;
}

// The block's words in the base (null: zero bits) and in the output.
template <typename Word> struct Place {
    const Word* base;
    Word* out;
    bool in_place;

    __device__ __forceinline__ Place(const Plan& plan, const Frame& frame, const Task& task) {
        base = frame.has_base ? (const Word*)(plan.base + frame.base_at) + task.first : nullptr;
        out = (Word*)(plan.out + frame.out_at) + task.first;
        in_place = uniform(base == out) != 0;
    }
};
