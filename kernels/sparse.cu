// SPARSE: few elements of a block change (docs/format.md §4.6). One warp a block; a group of 8 elements in each thread.
//
//   groups, 32 at a time ─exponents─▶ chances ─chain─▶ boundaries ─slot─▶ first change ─▶ list (shared memory)
//   list ─▶ magnitudes ─▶ elements;  list ─▶ next change behind the last one ─▶ list … until it is empty
//
// The boundaries of a group do not depend on the coder's state, so they are ready before it is. In place only elements that
// change are written. The first 15·L changes wait in a queue: their signs are in the states that the block ends with.
//
// Departures from the scalar form: 1. the chain runs over T = S - 9 + j, T' = (T·(2^16 - p) + 2^16 - 1) >> 16, all eight steps;
// steps that the group does not have get p = 0, which leaves T as it is. 2. The symbol is found by three comparisons of eight.
#include "stream.cuh"

#ifndef SPARSE_CTAS
#define SPARSE_CTAS 4
#endif
constexpr u32 CHANGE_BITS = 14;
constexpr u32 SEGMENT = 4096;
constexpr u32 GROUP = 8;
constexpr u32 ROW = WARP * GROUP;
constexpr u32 NEVER = 1u << 16; // 2^16 - p of a step that does not occur
constexpr u32 NO_CHANGE = GROUP;
constexpr u32 QUEUE = SEED_BITS * WARP;

// A warp's part of the shared memory.
template <typename Word> struct Scratch {
    u16 list[SEGMENT / GROUP];  // elements of the segment
    Word words[SEGMENT / GROUP]; // what the base has there, of elements that change
    u16 queued[QUEUE];         // elements of the block
    Word magnitudes[QUEUE];
    u16 seeds[WARP];
};
static_assert(sizeof(Scratch<u16>) == 4032 && sizeof(Scratch<u32>) == 6016, "plan/shape.rs counts on these bytes");

// Shared by the CTA: what a key of a base word says.
struct Chances {
    u16 never[512]; // 2^16 - change probability
    u32 table[512]; // the magnitude table: its first slot, and its first span above it
};

// Magnitude tables as the CTA keeps them: a byte for the symbol of a slot, a word for the span of a symbol. That is a third of what entries
// take, so it fits the shared memory of every frame; entries of several tables would crowd one another out of the L1 cache.
struct Spans {
    const u8* symbol_of;
    const u32* span_of; // first slot in bits 0-15, frequency above

    __device__ __forceinline__ Spans of(u32 table) const { return {symbol_of + (table & 0xffffu), span_of + (table >> 16)}; }

    // The symbol, and the state behind it.
    __device__ __forceinline__ u32 next(const Shape& tokens, u32 state, u32& symbol) const {
        u32 slot = state & tokens.slot_mask;
        symbol = symbol_of[slot];
        u32 span = span_of[symbol];
        return (span >> 16) * (state >> tokens.prob_bits) + slot - (span & 0xffffu);
    }
};

template <typename Word, bool FLOAT, bool FULL> struct Sparse {
    const Layout<Word, FLOAT> layout;
    const Chances& chances;
    const Spans tables;
    const Shape tokens;
    Scratch<Word>& scratch;
    const Place<Word> place;
    const u32 elems;
    const bool aligned; // there is a base, and it and the output lie on 16 bytes
    Stream<FULL, true> stream;
    u32 changes;
    u32 status;
    u32 worst; // magnitude - 1; 0 becomes the largest of all

    // Elements of the group that begins at `first` of the segment's `segment_elems`.
    __device__ __forceinline__ static u32 members(u32 segment_elems, u32 first) {
        return first < segment_elems ? smaller(segment_elems - first, GROUP) : 0;
    }

    // Loads the group at `element` of the block; zeros without a base. WHOLE: it has eight elements, on 16 bytes.
    template <bool WHOLE> __device__ __forceinline__ void load(Eight<Word>& group, u32 element, u32 count) const {
        if (WHOLE) group.load_whole(place.base + element);
        else if (place.base) group.load(place.base + element, count);
        else group.clear();
    }

    // Boundaries of the symbols: [k] is S after k elements. PARTIAL: only elements from `start` to below `count` take part.
    template <bool PARTIAL> __device__ __forceinline__ void chain(u32 (&bound)[GROUP + 1], const Eight<Word>& group, u32 start, u32 count) const {
        u32 t = (1u << CHANGE_BITS) - 9 + (PARTIAL ? start : 0);
        bound[0] = t + 9;
        u32 takes_part = 0xffu << start & ((1u << count) - 1);
#pragma unroll
        for (u32 j = 0; j < GROUP; j++) {
            u32 never = chances.never[group.key(layout, j)];
            if (PARTIAL && !(takes_part >> j & 1)) never = NEVER;
            t = (t * never + (NEVER - 1)) >> 16;
            bound[j + 1] = t + 8 - j;
        }
        // The boundary of "none" is that after the last element of the group.
        if (PARTIAL) bound[GROUP] = t + 9 - count;
    }

    // The symbol "first change": the element of the group, or NO_CHANGE. Threads without `part` get NO_CHANGE.
    __device__ __forceinline__ u32 first_change(const u32 (&bound)[GROUP + 1], bool part) {
        u32 found = NO_CHANGE;
        for (u32 turn = 0; turn < WARP; turn += stream.lanes) {
            bool active = part && stream.has_turn(turn);
            u32 slot = stream.state & ((1u << CHANGE_BITS) - 1);
            bool past_4 = slot < bound[4];
            u32 high = past_4 ? bound[4] : bound[0];
            u32 low = past_4 ? bound[8] : bound[4];
            u32 second = past_4 ? bound[6] : bound[2];
            u32 first = past_4 ? bound[5] : bound[1];
            u32 third = past_4 ? bound[7] : bound[3];
            bool past_2 = slot < second;
            high = past_2 ? second : high;
            low = past_2 ? low : second;
            u32 middle = past_2 ? third : first;
            bool past_1 = slot < middle;
            high = past_1 ? middle : high;
            low = past_1 ? low : middle;
            bool none = slot < bound[GROUP];
            u32 start = none ? 0 : low;
            u32 frequency = none ? bound[GROUP] : high - low;
            if (active) {
                found = none ? NO_CHANGE : (past_4 ? 4 : 0) + (past_2 ? 2 : 0) + (past_1 ? 1 : 0);
                stream.state = frequency * (stream.state >> CHANGE_BITS) + slot - start;
            }
            stream.refill(active);
            stream.share(turn);
            if (FULL) break;
        }
        return found;
    }

    // Appends to the list of `count` entries, for threads with `keep`; returns where.
    __device__ __forceinline__ u32 append(u32& count, bool keep, u32 element) {
        u32 votes = __ballot_sync(ALL_LANES, keep);
        u32 at = count + stream.rank_in(votes);
        if (keep) scratch.list[at] = (u16)element;
        count += __popc(votes);
        return at;
    }

    // Appends the change at `found` of the group that begins at `first`, with its base word: the group is at hand, and a later look
    // at it would wait for memory.
    __device__ __forceinline__ void append_change(u32& count, u32 found, u32 first, const Eight<Word>& group) {
        bool keep = found != NO_CHANGE;
        u32 at = append(count, keep, first + found);
        if (keep) scratch.words[at] = (Word)group.chosen(found);
    }

    // The first look at every group of a segment; returns the length of the list. `next` is the segment's first row, and then that of the
    // next segment. WHOLE: the block has whole segments up to `whole`.
    template <bool WHOLE> __device__ __forceinline__ u32 all_groups(u32 segment, u32 segment_elems, u32 whole, Eight<Word>& next) {
        u32 count = 0;
        u32 first = lane_of_thread() * GROUP;
        for (u32 row = 0; row < segment_elems; row += ROW, first += ROW) {
            Eight<Word> group = next;
            // Behind the last row it loads that again, for nothing.
            u32 ahead = WHOLE ? smaller(segment + first + ROW, whole - ROW + lane_of_thread() * GROUP) - segment : first + ROW;
            load<WHOLE>(next, segment + ahead, members(segment_elems, ahead));
            u32 has = WHOLE ? GROUP : members(segment_elems, first);
            u32 bound[GROUP + 1];
            chain<!WHOLE>(bound, group, 0, has);
            if (!place.in_place) {
                Word* to = place.out + segment + first;
                if (WHOLE) group.store_whole(to);
                else group.store(to, has);
            }
            u32 found = first_change(bound, has != 0);
            append_change(count, found, first, group);
        }
        return count;
    }

    // The magnitude of every change on the list, which keeps those behind which their group goes on; returns its length.
    template <bool WHOLE> __device__ __forceinline__ u32 magnitudes(u32 count, u32 segment, u32 segment_elems) {
        u32 kept = 0;
        u32 in_seeds = SEED_BITS * stream.lanes;
        for (u32 row = 0; row < count; row += WARP) {
            u32 item = row + lane_of_thread();
            bool part = item < count;
            u32 element = part ? scratch.list[item] : 0;
            u32 word = part ? scratch.words[item] : 0;
            const Spans table = tables.of(chances.table[layout.key(word)]);
            bool waits = changes + item < in_seeds;
            u32 magnitude = 0;
            u32 negative = 0;
            for (u32 turn = 0; turn < WARP; turn += stream.lanes) {
                bool active = part && stream.has_turn(turn);
                u32 sign;
                u32 number = stream.template token<Layout<Word, FLOAT>::BITS>(tokens, table, active, waits ? 0 : 1, sign);
                stream.share(turn);
                if (active) {
                    magnitude = number;
                    negative = sign;
                }
                if (FULL) break;
            }
            if (part) {
                worst = larger(worst, magnitude - 1);
                if (waits) {
                    scratch.queued[changes + item] = (u16)(segment + element);
                    scratch.magnitudes[changes + item] = (Word)magnitude;
                } else {
                    place.out[segment + element] = (Word)layout.moved(word, magnitude, negative);
                }
            }
            __syncwarp();
            bool keep = part && (element + 1) % GROUP != 0 && (WHOLE || element + 1 < segment_elems);
            append(kept, keep, element + 1);
        }
        changes += count;
        __syncwarp();
        return kept;
    }

    // The next look at the groups on the list, from the element that it names; returns its new length. Groups are loaded a row ahead.
    template <bool WHOLE> __device__ __forceinline__ u32 listed_groups(u32 count, u32 segment, u32 segment_elems) {
        u32 kept = 0;
        Listed next = load_listed<WHOLE>(lane_of_thread(), count, segment, segment_elems);
        for (u32 row = 0; row < count; row += WARP) {
            Listed now = next;
            next = load_listed<WHOLE>(row + WARP + lane_of_thread(), count, segment, segment_elems);
            u32 first = now.element & ~(GROUP - 1);
            u32 bound[GROUP + 1];
            chain<true>(bound, now.group, now.element - first, now.has);
            u32 found = first_change(bound, row + lane_of_thread() < count);
            __syncwarp();
            append_change(kept, found, first, now.group);
        }
        __syncwarp();
        return kept;
    }

    // An entry of the list, and its group.
    struct Listed {
        u32 element;
        u32 has;
        Eight<Word> group;
    };

    template <bool WHOLE> __device__ __forceinline__ Listed load_listed(u32 item, u32 count, u32 segment, u32 segment_elems) const {
        Listed listed;
        // Threads without an entry look at the segment's first group, for nothing.
        listed.element = item < count ? scratch.list[item] : 0;
        u32 first = listed.element & ~(GROUP - 1);
        listed.has = WHOLE ? GROUP : members(segment_elems, first);
        load<WHOLE>(listed.group, segment + first, listed.has);
        return listed;
    }

    // Changes whose signs the final states hold.
    __device__ __forceinline__ void settle() {
        u32 lane = lane_of_thread();
        u32 in_seeds = SEED_BITS * stream.lanes;
        u32 waiting = smaller(changes, in_seeds);
        if (lane < stream.lanes) scratch.seeds[lane] = (u16)(stream.state & (STATE_LOW - 1));
        __syncwarp();
        const Seeds seeds = {scratch.seeds};
        for (u32 i = lane; i < waiting; i += WARP) {
            u32 element = scratch.queued[i];
            u32 word = place.base ? (u32)place.base[element] : 0;
            place.out[element] = (Word)layout.moved(word, scratch.magnitudes[i], seeds.bit(i));
        }
        for (u32 i = waiting + lane; i < in_seeds; i += WARP)
            if (seeds.bit(i)) status |= BAD_SEEDS;
        __syncwarp();
    }

    template <bool WHOLE> __device__ __forceinline__ void run_segment(u32 segment, u32 segment_elems, u32 whole, Eight<Word>& next) {
        u32 count = all_groups<WHOLE>(segment, segment_elems, whole, next);
        __syncwarp();
        while (count != 0) {
            count = magnitudes<WHOLE>(count, segment, segment_elems);
            if (count != 0) count = listed_groups<WHOLE>(count, segment, segment_elems);
        }
    }

    __device__ __forceinline__ u32 run(const u8* block, u32 bytes, u32 lanes) {
        if (!stream.open(block, bytes, lanes)) return BAD_STATES;
        changes = 0;
        status = GOOD;
        worst = 0;
        u32 segment = 0;
        u32 whole = aligned ? elems / SEGMENT * SEGMENT : 0;
        u32 first = lane_of_thread() * GROUP;
        Eight<Word> next;
        if (whole) load<true>(next, first, GROUP);
        for (; segment < whole; segment += SEGMENT) run_segment<true>(segment, SEGMENT, whole, next);
        for (; segment < elems; segment += SEGMENT) {
            u32 segment_elems = smaller(elems - segment, SEGMENT);
            load<false>(next, segment + first, members(segment_elems, first));
            run_segment<false>(segment, segment_elems, 0, next);
        }
        settle();
        // Without tables no change has a magnitude.
        if (worst >= layout.TOP || (changes != 0 && tokens.slot_mask == 0)) status |= BAD_MAGNITUDE;
        return status | stream.close(block + bytes);
    }
};

template <typename Word, bool FLOAT, bool FULL>
__device__ __forceinline__ void sparse_block(const Plan& plan, const Frame& frame, const Chances& chances, const Spans& tables, Scratch<Word>& scratch, u32 number) {
    const Task task = plan.tasks[number];
    const Place<Word> place(plan, frame, task);
    bool aligned = uniform(place.base && is_aligned(place.base, 16) && is_aligned(place.out, 16)) != 0;
    Sparse<Word, FLOAT, FULL> block = {
        layout_of<Word, FLOAT>(frame), chances, tables, Shape(frame.magnitudes), scratch, place, uniform(task.elems), aligned, {}, 0, 0, 0};
    report(plan, number, block.run(plan.bytes + task.bytes_at, task.bytes, uniform(frame.lanes_sparse)));
}

// Makes spans of `entries` entries of tables, by the whole CTA.
__device__ __forceinline__ void stage_spans(u32* span_of, u32* symbol_of, const u32* from, u32 entries, u32 prob_bits, u32 alphabet) {
    for (u32 slot = 4 * threadIdx.x; slot < entries; slot += 4 * blockDim.x) {
        Vector four = *(const Vector*)(from + slot);
        const u32 entry[4] = {four.x, four.y, four.z, four.w};
        u32 symbols = 0;
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            u32 symbol = entry[i] & 255;
            symbols |= symbol << 8 * i;
            bool starts = (entry[i] >> 8 & 4095) == 0;
            u32 start = (slot + i) & ((1u << prob_bits) - 1);
            if (starts) span_of[(slot >> prob_bits) * alphabet + symbol] = start | ((entry[i] >> 20) + 1) << 16;
        }
        symbol_of[slot / 4] = symbols;
    }
}

template <typename Word, bool FLOAT> __device__ __forceinline__ void sparse(const Plan& plan) {
    const Job job = plan.jobs[plan.first_job + blockIdx.x];
    const Frame& frame = plan.frames[job.frame];
    const Layout<Word, FLOAT> layout = layout_of<Word, FLOAT>(frame);
    const Tokens& tokens = frame.magnitudes;
    const u32 alphabet = (1u << tokens.direct) + ((layout.BITS - tokens.direct) << tokens.top);
    // Without tables there is one of one slot, whose symbol is 0.
    const u32 spans = job.staged ? (job.staged >> tokens.prob_bits) * alphabet : 1;
    Chances& chances = *(Chances*)shared_words();
    u32* span_of = shared_words() + sizeof(Chances) / 4;
    u32* symbol_of = span_of + spans;
    Scratch<Word>* scratch = (Scratch<Word>*)(symbol_of + (job.staged ? job.staged / 4 : 1));

    for (u32 key = threadIdx.x; key < layout.KEYS; key += blockDim.x) {
        u32 of = class_of(frame.class_origin, layout.exponent_of_key(key));
        u32 table = tokens.table_of[of];
        chances.never[key] = (u16)(NEVER - frame.change_probability[of]);
        chances.table[key] = table << tokens.prob_bits | table * alphabet << 16;
    }
    if (job.staged) stage_spans(span_of, symbol_of, plan.slots + tokens.slots_at, job.staged, tokens.prob_bits, alphabet);
    else if (threadIdx.x == 0) span_of[0] = symbol_of[0] = 0;
    const Spans tables = {(const u8*)symbol_of, span_of};
    __syncthreads();

    const u32 warp = warp_of_thread();
    Scratch<Word>& own = scratch[warp];
    for (u32 i = warp; i < uniform(job.tasks); i += blockDim.x / WARP) {
        if (uniform(frame.lanes_sparse) == WARP) sparse_block<Word, FLOAT, true>(plan, frame, chances, tables, own, job.first_task + i);
        else sparse_block<Word, FLOAT, false>(plan, frame, chances, tables, own, job.first_task + i);
    }
}

extern "C" __global__ void __launch_bounds__(256, SPARSE_CTAS) sparse_float_16(const Plan plan) { sparse<u16, true>(plan); }
extern "C" __global__ void __launch_bounds__(512) sparse_float_32(const Plan plan) { sparse<u32, true>(plan); }
extern "C" __global__ void __launch_bounds__(512) sparse_int_16(const Plan plan) { sparse<u16, false>(plan); }
extern "C" __global__ void __launch_bounds__(512) sparse_int_32(const Plan plan) { sparse<u32, false>(plan); }
