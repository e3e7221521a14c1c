// Expand: a CTA of 256 threads turns one table's frequencies (u16, by symbol) into entries (u32, by slot).
#include "stream.cuh"

extern "C" __global__ void expand_tables(const Plan plan) {
    const Table table = plan.tables[plan.first_job + blockIdx.x];
    u32 symbol = threadIdx.x;
    u32 frequency = symbol < table.symbols ? plan.frequencies[table.frequencies_at + symbol] : 0;
    u32* starts = shared_words();

    // Inclusive sums within warps, then over warps.
    u32 end = frequency;
    for (u32 step = 1; step < WARP; step *= 2) {
        u32 below = __shfl_up_sync(ALL_LANES, end, step);
        if (lane_of_thread() >= step) end += below;
    }
    u32* of_warp = starts + 256;
    const u32 own = warp_of_thread();
    if (lane_of_thread() == WARP - 1) of_warp[own] = end;
    __syncthreads();
    for (u32 warp = 0; warp < own; warp++) end += of_warp[warp];
    starts[symbol] = end - frequency;
    __syncthreads();

    u32* slots = plan.slots + table.slots_at;
    for (u32 slot = threadIdx.x; slot < 1u << table.prob_bits; slot += blockDim.x) {
        // The last symbol that starts at or before the slot; of several, the last is the one that occurs.
        u32 found = 0;
        for (u32 half = 128; half > 0; half /= 2)
            if (starts[found + half] <= slot) found += half;
        u32 next = found + 1 < 256 ? starts[found + 1] : 1u << table.prob_bits;
        slots[slot] = entry_of(found, next - starts[found], slot - starts[found]);
    }
}
