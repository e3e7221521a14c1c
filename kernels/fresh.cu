// FRESH: a block without a base: of floats the exponents coded, mantissas and signs raw (docs/format.md §4.5).
//
// One warp a block, one row (row.cuh) in each thread. The last raw bits, 15·L of them, are in the states that the block
// ends with: those words are written without them first, and completed then.
#include "row.cuh"
#include "stream.cuh"

// A warp's part of the shared memory.
struct Ends { u16 seeds[WARP]; };

template <typename Word, bool FLOAT> struct Fresh {
    const Layout<Word, FLOAT> layout;
    const u32* slots;
    const Shape shape;
    Ends& ends;
    Word* const out;
    const bool aligned; // the output, on 4 bytes
    const u32 elems;
    const u32 origin;
    const u16* raw;
    u32 raw_bits;
    Stream<true, false> stream;

    __device__ __forceinline__ u32 raw_width() const { return layout.mantissa_bits + 1; }

    // Raw bits of an element, as far as the block has them outside its states.
    __device__ __forceinline__ u32 raw_of(u32 element) const {
        u32 bit = element * raw_width();
        u32 have = bit < raw_bits ? smaller(raw_bits - bit, raw_width()) : 0;
        // Two halves are enough: 11 bits at any offset, 8 and 24 at multiples of 8. They may lie behind the block, never behind
        // the planner's OVERREAD_BYTES.
        u32 window = raw[bit / 16] | (u32)raw[bit / 16 + 1] << 16;
        return window >> (bit & 15) & ((1u << have) - 1);
    }

    // Sign and mantissa where the word has them.
    __device__ __forceinline__ u32 spread(u32 bits) const {
        u32 mantissa = bits & ((1u << layout.mantissa_bits) - 1);
        return mantissa | bits >> layout.mantissa_bits << (layout.BITS - 1);
    }

    __device__ __forceinline__ u32 word_of(u32 number, u32 raw_part) const {
        if (FLOAT) return ((origin - number) & layout.exponent_mask) << layout.mantissa_bits | spread(raw_part);
        return layout.is_signed ? (number >> 1 ^ (0u - (number & 1))) & layout.MASK : number;
    }

    template <bool WHOLE> __device__ __forceinline__ void row(u32 first, u32 count) {
        Row<Word> to = {0};
        stream.look_ahead();
        // Bytes of a BF16 pair lie in one half.
        bool is_pair = FLOAT && raw_width() == 8;
        u32 pair = is_pair && WHOLE ? raw[first / 2] : 0;
#pragma unroll
        for (u32 j = 0; j < Row<Word>::WORDS; j++) {
            bool part = WHOLE || j < count;
            u32 negative;
            u32 number = stream.template token<Layout<Word, FLOAT>::BITS>(shape, Entries{slots}, part, 0, negative);
            u32 raw_part = 0;
            if (FLOAT && part) raw_part = is_pair && WHOLE ? pair >> 8 * j & 255 : raw_of(first + j);
            to.put(j, word_of(number, raw_part));
        }
        if (WHOLE) *(u32*)(out + first) = to.bits;
        else to.store(out + first, count);
    }

    // Completes the words whose raw bits the states hold, and checks that the seeds hold no more.
    __device__ __forceinline__ u32 settle(u32 seeded) {
        u32 lane = lane_of_thread();
        if (lane < stream.lanes) ends.seeds[lane] = (u16)(stream.state & (STATE_LOW - 1));
        __syncwarp();
        const Seeds seeds = {ends.seeds};
        u32 status = GOOD;
        if (seeded) {
            for (u32 element = raw_bits / raw_width() + lane; element < elems; element += WARP) {
                u32 bit = element * raw_width();
                u32 bits = 0;
                for (u32 i = 0; i < raw_width(); i++)
                    if (bit + i >= raw_bits) bits |= seeds.bit(bit + i - raw_bits) << i;
                out[element] = (Word)(out[element] | spread(bits));
            }
        }
        for (u32 i = seeded + lane; i < SEED_BITS * stream.lanes; i += WARP)
            if (seeds.bit(i)) status |= BAD_SEEDS;
        __syncwarp();
        return status;
    }

    __device__ __forceinline__ u32 run(const u8* block, u32 bytes, u32 lanes) {
        u32 all = FLOAT ? elems * raw_width() : 0;
        u32 seeded = smaller(all, SEED_BITS * lanes);
        raw_bits = all - seeded;
        u32 raw_bytes = (raw_bits + 7) / 8;
        u32 padded = raw_bytes + (raw_bytes & 1);
        if (padded > bytes) return BAD_LENGTH;
        const u8* end = block + bytes - padded;
        raw = (const u16*)end;
        u32 padding = raw_bits & 7 ? end[raw_bits / 8] >> (raw_bits & 7) : 0;
        if (raw_bytes & 1) padding |= end[raw_bytes];
        if (padding) return BAD_LENGTH;
        if (!stream.open(block, bytes - padded, lanes)) return BAD_STATES;
        stream.idle_others();

        constexpr u32 WORDS = Row<Word>::WORDS;
        u32 stride = WORDS * lanes;
        u32 own = lane_of_thread() < lanes ? WORDS * lane_of_thread() : elems;
        u32 at = 0;
        if (aligned && lanes == WARP) {
            // Rows whose raw bits all lie outside the states.
            u32 outside = FLOAT ? raw_bits / raw_width() : elems;
            for (; at + stride <= outside; at += stride) row<true>(own + at, WORDS);
        }
        for (; at < elems; at += stride) row<false>(own + at, Row<Word>::members(elems, own + at));
        __syncwarp();
        u32 status = settle(seeded);
        return status | stream.close(end);
    }
};

template <typename Word, bool FLOAT> __device__ __forceinline__ void fresh(const Plan& plan) {
    const Job job = plan.jobs[plan.first_job + blockIdx.x];
    const Frame& frame = plan.frames[job.frame];
    const Layout<Word, FLOAT> layout = layout_of<Word, FLOAT>(frame);
    u32* staged = shared_words();
    Ends* ends = (Ends*)(staged + job.staged);
    stage(staged, plan.slots + frame.fresh.slots_at, job.staged);
    __syncthreads();

    const u32 warp = warp_of_thread();
    for (u32 i = warp; i < uniform(job.tasks); i += blockDim.x / WARP) {
        const Task task = plan.tasks[job.first_task + i];
        Word* out = (Word*)(plan.out + frame.out_at) + task.first;
        Fresh<Word, FLOAT> block = {
            layout, staged, Shape(frame.fresh), ends[warp], out, uniform(is_aligned(out, 4)) != 0, uniform(task.elems), frame.fresh_origin, nullptr, 0, {}};
        report(plan, job.first_task + i, block.run(plan.bytes + task.bytes_at, task.bytes, uniform(frame.lanes)));
    }
}

extern "C" __global__ void __launch_bounds__(512) fresh_float_16(const Plan plan) { fresh<u16, true>(plan); }
extern "C" __global__ void __launch_bounds__(512) fresh_float_32(const Plan plan) { fresh<u32, true>(plan); }
extern "C" __global__ void __launch_bounds__(512) fresh_int_16(const Plan plan) { fresh<u16, false>(plan); }
extern "C" __global__ void __launch_bounds__(512) fresh_int_32(const Plan plan) { fresh<u32, false>(plan); }
