// Copy: SAME out of place, and RAW, at any word width: a CTA moves the bytes of one tile.
//
// Words lie on their own size in base and output; a body lies on 2 bytes. Rows of 16 bytes where both sides allow it.
#include "stream.cuh"

__device__ __forceinline__ void copy_tile(const Plan& plan, u32 word_bytes) {
    const Job job = plan.jobs[plan.first_job + blockIdx.x];
    const Frame& frame = plan.frames[job.frame];
    for (u32 i = 0; i < job.tasks; i++) {
        const Task task = plan.tasks[job.first_task + i];
        u64 first = (u64)task.first * word_bytes;
        u32 halves = task.elems * (word_bytes / 2);
        u16* out = (u16*)(plan.out + frame.out_at + first);
        const u16* from = (const u16*)(plan.bytes + task.bytes_at);
        if (task.is_copy_of_base) from = frame.has_base ? (const u16*)(plan.base + frame.base_at + first) : nullptr;
        u32 rows = 0;
        if (from != out) {
            if (is_aligned(out, 16) && is_aligned(from, 16)) {
                rows = halves / 8;
                const Vector zero = {0, 0, 0, 0};
                for (u32 row = threadIdx.x; row < rows; row += blockDim.x)
                    ((Vector*)out)[row] = from ? ((const Vector*)from)[row] : zero;
            }
            for (u32 half = 8 * rows + threadIdx.x; half < halves; half += blockDim.x) out[half] = from ? from[half] : (u16)0;
        }
        if (threadIdx.x == 0) plan.status[job.first_task + i] = GOOD;
    }
}

extern "C" __global__ void copy_16(const Plan plan) { copy_tile(plan, 2); }
extern "C" __global__ void copy_32(const Plan plan) { copy_tile(plan, 4); }
