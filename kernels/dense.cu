// DENSE: most elements of a block change: a residual for each, its table chosen by the base (docs/format.md §4.5).
//
// One warp a block, one row (row.cuh) in each thread: base ─key─▶ table ─slot─▶ magnitude, sign ─▶ base + residual.
// Base words are loaded a row ahead. All words are written, also in place: hardly a sector has none that changes.
#include "row.cuh"
#include "stream.cuh"

// Shared by the CTA: the first entry of the table that a key of a base word chooses.
struct Choices { u16 table[512]; };

template <typename Word, bool FLOAT> struct Dense {
    const Layout<Word, FLOAT> layout;
    const Choices& choices;
    const u32* slots;
    const Shape shape;
    const Place<Word> place;
    const bool aligned; // there is a base, and it and the output lie on 4 bytes
    const u32 elems;
    Stream<true, false> stream;
    u32 worst; // magnitude

    __device__ __forceinline__ Row<Word> load(u32 first, u32 count) const {
        if (!place.base) return {0};
        return Row<Word>::load(place.base + first, count);
    }

    // Loads the row at `first` once `here` has come: a warp can wait for all of its loads only, and would else wait for this one too
    // before it uses that. `zero` is 0, which the compiler does not know.
    __device__ __forceinline__ Row<Word> load_whole(u32 first, Row<Word> here, u32 zero) const {
        return {load_once(place.base + first + (here.bits & zero))};
    }

    // The row at `first`, of which the block has `count` words. WHOLE: all threads have all of theirs, on 4 bytes.
    template <bool WHOLE> __device__ __forceinline__ void row(Row<Word> base, u32 first, u32 count) {
        Row<Word> out = {0};
        stream.look_ahead();
#pragma unroll
        for (u32 j = 0; j < Row<Word>::WORDS; j++) {
            bool part = WHOLE || j < count;
            u32 word = base.word(j);
            u32 negative;
            u32 magnitude = stream.template token<Layout<Word, FLOAT>::BITS>(shape, Entries{slots + choices.table[layout.key(word)]}, part, 2, negative);
            worst = larger(worst, magnitude);
            out.put(j, layout.moved(word, magnitude, negative));
        }
        if (WHOLE) *(u32*)(place.out + first) = out.bits;
        else out.store(place.out + first, count);
    }

    __device__ __forceinline__ u32 run(const u8* block, u32 bytes, u32 lanes) {
        if (!stream.open(block, bytes, lanes)) return BAD_STATES;
        stream.idle_others();
        worst = 0;
        constexpr u32 WORDS = Row<Word>::WORDS;
        u32 stride = WORDS * lanes;
        u32 own = lane_of_thread() < lanes ? WORDS * lane_of_thread() : elems;
        u32 whole = aligned && lanes == WARP ? elems / (2 * stride) * (2 * stride) : 0;
        u32 at = 0;
        if (whole) {
            const u32 zero = elems >> 31;
            Row<Word> here = load_whole(own, {0}, 0);
            for (; at < whole; at += 2 * stride) {
                Row<Word> next = load_whole(own + at + stride, here, zero);
                row<true>(here, own + at, WORDS);
                // Behind the last row it loads that again: a row whose words are never used.
                here = load_whole(own + smaller(at + 2 * stride, whole - stride), next, zero);
                row<true>(next, own + at + stride, WORDS);
            }
        }
        for (; at < elems; at += stride) {
            u32 count = Row<Word>::members(elems, own + at);
            row<false>(load(own + at, count), own + at, count);
        }
        u32 status = worst > layout.TOP ? BAD_MAGNITUDE : GOOD;
        if (stream.state != STATE_LOW) status |= BAD_SEEDS;
        return status | stream.close(block + bytes);
    }
};

template <typename Word, bool FLOAT> __device__ __forceinline__ void dense(const Plan& plan) {
    const Job job = plan.jobs[plan.first_job + blockIdx.x];
    const Frame& frame = plan.frames[job.frame];
    const Layout<Word, FLOAT> layout = layout_of<Word, FLOAT>(frame);
    Choices& choices = *(Choices*)shared_words();
    u32* staged = shared_words() + sizeof(Choices) / 4;

    for (u32 key = threadIdx.x; key < layout.KEYS; key += blockDim.x) {
        u32 of = class_of(frame.class_origin, layout.exponent_of_key(key));
        choices.table[key] = (u16)(frame.dense.table_of[of] << frame.dense.prob_bits);
    }
    const u32* slots = plan.slots + frame.dense.slots_at;
    stage(staged, slots, job.staged);
    __syncthreads();

    for (u32 i = warp_of_thread(); i < uniform(job.tasks); i += blockDim.x / WARP) {
        const Task task = plan.tasks[job.first_task + i];
        const Place<Word> place(plan, frame, task);
        bool aligned = uniform(place.base && is_aligned(place.base, 4) && is_aligned(place.out, 4)) != 0;
        Dense<Word, FLOAT> block = {
            layout, choices, staged, Shape(frame.dense), place, aligned, uniform(task.elems), {}, 0};
        report(plan, job.first_task + i, block.run(plan.bytes + task.bytes_at, task.bytes, uniform(frame.lanes)));
    }
}

extern "C" __global__ void __launch_bounds__(512, 3) dense_float_16(const Plan plan) { dense<u16, true>(plan); }
extern "C" __global__ void __launch_bounds__(512, 3) dense_float_32(const Plan plan) { dense<u32, true>(plan); }
extern "C" __global__ void __launch_bounds__(512, 3) dense_int_16(const Plan plan) { dense<u16, false>(plan); }
extern "C" __global__ void __launch_bounds__(512, 3) dense_int_32(const Plan plan) { dense<u32, false>(plan); }
