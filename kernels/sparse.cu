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
// 3. After the first look a group's words are not read again: the classes of its elements are kept, and a change of a later look is
// finished one round later, when its base word has come.
#include "stream.cuh"

constexpr u32 CHANGE_BITS = 14;
constexpr u32 SEGMENT = 4096;
constexpr u32 GROUP = 8;
constexpr u32 ROW = WARP * GROUP;
constexpr u32 NEVER = 1u << 16; // 2^16 - p of a step that does not occur
constexpr u32 NO_CHANGE = GROUP;
constexpr u32 CLASSES = 16;
constexpr u32 CLASS_AT = 12; // bit of a list entry
constexpr u32 QUEUE = SEED_BITS * WARP;

// A warp's part of the shared memory.
template <typename Word> struct Scratch {
    u32 classes[SEGMENT / GROUP]; // of the elements of a group that has a change, 4 bits each
    u16 list[SEGMENT / GROUP];    // elements of the segment; of those that change the class above
    Word words[SEGMENT / GROUP];  // what the base has where the list's elements change, after the first look
    u16 queued[QUEUE];            // elements of the block
    Word magnitudes[QUEUE];
    u16 seeds[WARP];
};
static_assert(sizeof(Scratch<u16>) == 6080 && sizeof(Scratch<u32>) == 8064, "plan/shape.rs counts on these bytes");

// Shared by the CTA. never: 2^16 - change probability.
struct Chances {
    u32 of_key[512];  // of a base word: never in bits 0-15, class in 28-31
    u32 never_of[CLASSES];
    u32 table_of[CLASSES]; // the magnitude table: its first slot, and its first span above it
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
    // A change of a later look: its base word comes from memory, and is not waited for before the next round.
    struct Pending {
        bool is_any;
        u32 element; // of the block
        u32 word;
        u32 magnitude;
        u32 negative;
    } pending;

    // Elements of the group that begins at `first` of the segment's `segment_elems`.
    __device__ __forceinline__ static u32 members(u32 segment_elems, u32 first) {
        return first < segment_elems ? smaller(segment_elems - first, GROUP) : 0;
    }

    // Boundaries of the symbols: [k] is S after k elements. PARTIAL: only elements from `start` to below `count` take part.
    template <bool PARTIAL> __device__ __forceinline__ void chain(u32 (&bound)[GROUP + 1], const u32 (&never)[GROUP], u32 start, u32 count) const {
        u32 t = (1u << CHANGE_BITS) - 9 + (PARTIAL ? start : 0);
        bound[0] = t + 9;
        u32 takes_part = 0xffu << start & ((1u << count) - 1);
#pragma unroll
        for (u32 j = 0; j < GROUP; j++) {
            u32 step = PARTIAL && !(takes_part >> j & 1) ? NEVER : never[j];
            t = (t * step + (NEVER - 1)) >> 16;
            bound[j + 1] = t + 8 - j;
        }
        // The boundary of "none" is that after the last element of the group.
        if (PARTIAL) bound[GROUP] = t + 9 - count;
    }

    // The symbol "first change": the element of the group, or NO_CHANGE. Threads without `part` get NO_CHANGE.
    __device__ __forceinline__ u32 first_change(const u32 (&bound)[GROUP + 1], bool part) {
        u32 found = NO_CHANGE;
        u32 own = 0; // slot
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
            u32 next = frequency * (stream.state >> CHANGE_BITS) + slot - start;
            if (FULL) found = none || !part ? NO_CHANGE : (past_4 ? 4 : 0) + (past_2 ? 2 : 0) + (past_1 ? 1 : 0);
            own = active ? slot : own;
            // The states of threads that do not have their turn are overwritten below.
            stream.state = part ? next : stream.state;
            stream.refill(active);
            stream.share(turn);
            if (FULL) break;
        }
        // All turns together take at most a word a thread.
        stream.advance();
        if (FULL) return found;
        // With turns it is looked for once, behind them.
        bool past_4 = own < bound[4];
        bool past_2 = own < (past_4 ? bound[6] : bound[2]);
        u32 low = past_4 ? bound[5] : bound[1];
        u32 high = past_4 ? bound[7] : bound[3];
        bool past_1 = own < (past_2 ? high : low);
        return !part || own < bound[GROUP] ? NO_CHANGE : (past_4 ? 4 : 0) + (past_2 ? 2 : 0) + (past_1 ? 1 : 0);
    }

    // Appends to the list of `count` entries, for threads with `keep`; returns where.
    __device__ __forceinline__ u32 append(u32& count, bool keep, u32 element) {
        u32 votes = __ballot_sync(ALL_LANES, keep);
        u32 at = count + stream.rank_in(votes);
        if (keep) scratch.list[at] = (u16)element;
        count += __popc(votes);
        return at;
    }

    // Appends the change at `found` of the group that begins at `first`; returns where. `classes` are the group's.
    __device__ __forceinline__ u32 append_change(u32& count, u32 found, u32 first, u32 classes) {
        u32 of = classes >> 4 * (found & (GROUP - 1)) & (CLASSES - 1);
        return append(count, found != NO_CHANGE, (first + found) | of << CLASS_AT);
    }

    // The first look at the group that begins at `first` of the segment and has `has` elements.
    template <bool WHOLE> __device__ __forceinline__ void look(const Eight<Word>& group, u32 segment, u32 first, u32 has, u32& count) {
        u32 never[GROUP];
        u32 classes = 0;
#pragma unroll
        for (u32 j = GROUP; j-- > 0;) {
            u32 chance = chances.of_key[group.key(layout, j)];
            never[j] = chance & 0xffffu;
            classes = classes << 4 | chance >> 28;
        }
        u32 bound[GROUP + 1];
        chain<!WHOLE>(bound, never, 0, has);
        if (!place.in_place) {
            Word* to = place.out + segment + first;
            if (WHOLE) group.store_whole(to);
            else group.store(to, has);
        }
        u32 found = first_change(bound, WHOLE || has != 0);
        u32 at = append_change(count, found, first, classes);
        // What later looks need: the group itself would have to come from memory again.
        if (found != NO_CHANGE) {
            scratch.words[at] = (Word)group.chosen(found);
            scratch.classes[first / GROUP] = classes;
        }
    }

    // Rows that far ahead are asked into the L2 cache: two rows of time are less than memory takes.
    static constexpr u32 FAR = 8 * ROW;

    // Two rows of the block's whole segments. The row behind the last is the last again, for nothing.
    struct Rows {
        Eight<Word> at[2];
    };

    // Loads two rows once those of `here` have come: a warp can wait for all of its loads only, and would else wait for these too
    // before it looks at those. `zero` is 0, which the compiler does not know.
    __device__ __forceinline__ void load_rows(Rows& rows, u32 element, u32 whole, const Rows& here, u32 zero) const {
        element += here.at[1].at[0] & zero;
#pragma unroll
        for (u32 i = 0; i < 2; i++) rows.at[i].load_whole(place.base + smaller(element + i * ROW, whole - ROW) + lane_of_thread() * GROUP);
    }

    __device__ __forceinline__ void look_at(const Rows& rows, u32 segment, u32 row, u32& count) {
#pragma unroll
        for (u32 i = 0; i < 2; i++) look<true>(rows.at[i], segment, row + i * ROW + lane_of_thread() * GROUP, GROUP, count);
    }

    // The first look at every group of a segment; returns the length of the list. The block has whole segments up to `whole`; `rows` are
    // the segment's first, and then those of the next one.
    __device__ __forceinline__ u32 all_groups(u32 segment, u32 whole, Rows& rows) {
        const u32 zero = elems >> 31;
        u32 count = 0;
        Rows next;
        for (u32 row = 0; row < SEGMENT; row += 4 * ROW) {
            prefetch_l2(place.base + smaller(segment + row + FAR + lane_of_thread() * (4 * ROW / WARP), whole - GROUP));
            load_rows(next, segment + row + 2 * ROW, whole, rows, zero);
            look_at(rows, segment, row, count);
            load_rows(rows, segment + row + 4 * ROW, whole, next, zero);
            look_at(next, segment, row + 2 * ROW, count);
        }
        return count;
    }

    // The same of a segment that is short, or not on 16 bytes, or without a base.
    __device__ __forceinline__ u32 all_groups_of_short(u32 segment, u32 segment_elems) {
        u32 count = 0;
        for (u32 row = 0; row < segment_elems; row += ROW) {
            u32 first = row + lane_of_thread() * GROUP;
            u32 has = members(segment_elems, first);
            Eight<Word> group;
            if (place.base) group.load(place.base + segment + first, has);
            else group.clear();
            look<false>(group, segment, first, has, count);
        }
        return count;
    }

    __device__ __forceinline__ void finish_pending() {
        if (pending.is_any) place.out[pending.element] = (Word)layout.moved(pending.word, pending.magnitude, pending.negative);
        pending.is_any = false;
    }

    // The magnitude of every change on the list, which keeps those behind which their group goes on; returns its length.
    // has_words: they come from the first look.
    template <bool WHOLE> __device__ __forceinline__ u32 magnitudes(u32 count, bool has_words, u32 segment, u32 segment_elems) {
        u32 kept = 0;
        u32 in_seeds = SEED_BITS * stream.lanes;
        for (u32 row = 0; row < count; row += WARP) {
            u32 item = row + lane_of_thread();
            bool part = item < count;
            u32 entry = part ? scratch.list[item] : 0;
            u32 element = entry & (SEGMENT - 1);
            const Spans table = tables.of(chances.table_of[entry >> CLASS_AT]);
            bool waits = changes + item < in_seeds;
            if (!has_words) {
                finish_pending();
                pending.is_any = part && !waits;
                pending.element = segment + element;
                pending.word = 0;
                if (place.base && pending.is_any) pending.word = place.base[pending.element];
            }
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
                } else if (has_words) {
                    place.out[segment + element] = (Word)layout.moved(scratch.words[item], magnitude, negative);
                }
            }
            if (!has_words) {
                pending.magnitude = magnitude;
                pending.negative = negative;
            }
            __syncwarp();
            bool keep = part && (element + 1) % GROUP != 0 && (WHOLE || element + 1 < segment_elems);
            append(kept, keep, element + 1);
        }
        changes += count;
        __syncwarp();
        return kept;
    }

    // The next look at the groups on the list, from the element that it names; returns its new length.
    template <bool WHOLE> __device__ __forceinline__ u32 listed_groups(u32 count, u32 segment_elems) {
        u32 kept = 0;
        for (u32 row = 0; row < count; row += WARP) {
            u32 item = row + lane_of_thread();
            bool part = item < count;
            // Threads without an entry look at a group of class 0, for nothing.
            u32 element = part ? scratch.list[item] : 0;
            u32 first = element & ~(GROUP - 1);
            u32 classes = part ? scratch.classes[element / GROUP] : 0;
            u32 never[GROUP];
#pragma unroll
            for (u32 j = 0; j < GROUP; j++) never[j] = chances.never_of[classes >> 4 * j & (CLASSES - 1)];
            u32 bound[GROUP + 1];
            chain<true>(bound, never, element - first, WHOLE ? GROUP : members(segment_elems, first));
            u32 found = first_change(bound, part);
            __syncwarp();
            append_change(kept, found, first, classes);
        }
        __syncwarp();
        return kept;
    }

    // Changes whose signs the final states hold.
    __device__ __forceinline__ void settle() {
        u32 lane = lane_of_thread();
        u32 in_seeds = SEED_BITS * stream.lanes;
        u32 waiting = smaller(changes, in_seeds);
        if (lane < stream.lanes) scratch.seeds[lane] = (u16)(stream.state & (STATE_LOW - 1));
        __syncwarp();
        const Seeds seeds = {scratch.seeds};
        // Several at a time: each waits for memory.
        constexpr u32 TOGETHER = 5;
        for (u32 from = lane; from < waiting; from += TOGETHER * WARP) {
            u32 word[TOGETHER];
#pragma unroll
            for (u32 k = 0; k < TOGETHER; k++) {
                u32 i = from + k * WARP;
                word[k] = place.base && i < waiting ? (u32)place.base[scratch.queued[i]] : 0;
            }
#pragma unroll
            for (u32 k = 0; k < TOGETHER; k++) {
                u32 i = from + k * WARP;
                if (i < waiting) place.out[scratch.queued[i]] = (Word)layout.moved(word[k], scratch.magnitudes[i], seeds.bit(i));
            }
        }
        for (u32 i = waiting + lane; i < in_seeds; i += WARP)
            if (seeds.bit(i)) status |= BAD_SEEDS;
        __syncwarp();
    }

    // All looks at a segment behind the first, which made a list of `count`.
    template <bool WHOLE> __device__ __forceinline__ void later_looks(u32 count, u32 segment, u32 segment_elems) {
        __syncwarp();
        for (bool has_words = true; count != 0; has_words = false) {
            count = magnitudes<WHOLE>(count, has_words, segment, segment_elems);
            if (count != 0) count = listed_groups<WHOLE>(count, segment_elems);
        }
    }

    __device__ __forceinline__ u32 run(const u8* block, u32 bytes, u32 lanes) {
        if (!stream.open(block, bytes, lanes)) return BAD_STATES;
        changes = 0;
        status = GOOD;
        worst = 0;
        u32 segment = 0;
        u32 whole = aligned ? elems / SEGMENT * SEGMENT : 0;
        if (whole) {
            Rows rows = {};
            load_rows(rows, 0, whole, rows, 0);
            for (; segment < whole; segment += SEGMENT) later_looks<true>(all_groups(segment, whole, rows), segment, SEGMENT);
        }
        for (; segment < elems; segment += SEGMENT) {
            u32 segment_elems = smaller(elems - segment, SEGMENT);
            later_looks<false>(all_groups_of_short(segment, segment_elems), segment, segment_elems);
        }
        finish_pending();
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
        layout_of<Word, FLOAT>(frame), chances, tables, Shape(frame.magnitudes), scratch, place, uniform(task.elems), aligned, {}, 0, 0, 0, {}};
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
        chances.of_key[key] = (NEVER - frame.change_probability[of]) | of << 28;
    }
    if (threadIdx.x < CLASSES) {
        u32 table = tokens.table_of[threadIdx.x];
        chances.never_of[threadIdx.x] = NEVER - frame.change_probability[threadIdx.x];
        chances.table_of[threadIdx.x] = table << tokens.prob_bits | table * alphabet << 16;
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

extern "C" __global__ void __launch_bounds__(256, 3) sparse_float_16(const Plan plan) { sparse<u16, true>(plan); }
extern "C" __global__ void __launch_bounds__(256, 2) sparse_float_32(const Plan plan) { sparse<u32, true>(plan); }
extern "C" __global__ void __launch_bounds__(256, 3) sparse_int_16(const Plan plan) { sparse<u16, false>(plan); }
extern "C" __global__ void __launch_bounds__(256, 2) sparse_int_32(const Plan plan) { sparse<u32, false>(plan); }
