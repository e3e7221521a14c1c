// Emulate: just enough of CUDA for g++ to run the kernels of this folder on a CPU, one CTA after another.
//
// A thread of CUDA is a fiber; all fibers of a CTA run on one thread of the machine. A fiber gives way where its warp or
// CTA has to meet: at __syncwarp, a shuffle, a ballot, __syncthreads. Between two meetings a fiber runs alone, first lane first
// or last lane first, so a kernel that forgets to meet shows other bytes in one of the two orders. Warp-wide functions
// must be called by all 32 lanes, which is how the kernels use them; one that stays away is found and said.
#pragma once

#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __device__
#define __global__
#define __shared__
#define __forceinline__ inline
#define __align__(bytes) alignas(bytes)
#define __launch_bounds__(...)

namespace emulate {

struct Index { unsigned x = 0; };

enum class Wait { NONE, WARP, CTA, DONE };

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    Wait wait = Wait::NONE;
    unsigned index = 0;
    unsigned long long value = 0; // what it brings to the meeting
};

constexpr unsigned WARP_LANES = 32;
constexpr size_t STACK_BYTES = 256 << 10;

struct Cta {
    std::vector<Fiber> fibers;
    ucontext_t scheduler;
    Fiber* running = nullptr;
    // Values of the warp's lanes at its last meeting.
    std::vector<unsigned long long> met;
};

inline Cta cta;
inline std::function<void()> kernel;
inline Index block_index, block_size;

[[noreturn]] inline void fail(const char* what) {
    std::fprintf(stderr, "emulate: %s\n", what);
    std::exit(3);
}

inline void give_way(Wait wait) {
    Fiber& self = *cta.running;
    self.wait = wait;
    swapcontext(&self.context, &cta.scheduler);
}

// Brings a value to the warp's meeting; afterwards all 32 can be read.
inline const unsigned long long* meet_warp(unsigned long long value) {
    cta.running->value = value;
    give_way(Wait::WARP);
    return &cta.met[cta.running->index / WARP_LANES * WARP_LANES];
}

inline void enter() {
    kernel();
    give_way(Wait::DONE);
}

// Lets go all lanes of a warp once every one of them waits for it.
inline void release_warps() {
    for (size_t first = 0; first < cta.fibers.size(); first += WARP_LANES) {
        bool all = true;
        for (unsigned lane = 0; lane < WARP_LANES; lane++) all = all && cta.fibers[first + lane].wait == Wait::WARP;
        if (!all) continue;
        for (unsigned lane = 0; lane < WARP_LANES; lane++) {
            cta.met[first + lane] = cta.fibers[first + lane].value;
            cta.fibers[first + lane].wait = Wait::NONE;
        }
    }
}

inline bool all_wait_for(Wait wait) {
    for (const Fiber& fiber : cta.fibers)
        if (fiber.wait != wait) return false;
    return true;
}

// Runs one CTA of `threads` to its end.
inline void run_cta(unsigned block, unsigned threads, bool backwards) {
    if (threads % WARP_LANES != 0) fail("a CTA of broken warps");
    block_index.x = block;
    block_size.x = threads;
    cta.met.assign(threads, 0);
    if (cta.fibers.size() < threads) cta.fibers.resize(threads);
    if (cta.fibers.size() > threads) cta.fibers.resize(threads);
    for (unsigned i = 0; i < threads; i++) {
        Fiber& fiber = cta.fibers[i];
        if (!fiber.stack) fiber.stack = std::make_unique<char[]>(STACK_BYTES);
        fiber.wait = Wait::NONE;
        fiber.index = i;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = STACK_BYTES;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, enter, 0);
    }
    while (!all_wait_for(Wait::DONE)) {
        bool moved = false;
        for (unsigned step = 0; step < threads; step++) {
            Fiber& fiber = cta.fibers[backwards ? threads - 1 - step : step];
            if (fiber.wait != Wait::NONE) continue;
            cta.running = &fiber;
            swapcontext(&cta.scheduler, &fiber.context);
            moved = true;
        }
        release_warps();
        if (all_wait_for(Wait::CTA)) {
            for (Fiber& fiber : cta.fibers) fiber.wait = Wait::NONE;
            moved = true;
        }
        bool any = false;
        for (const Fiber& fiber : cta.fibers) any = any || fiber.wait == Wait::NONE;
        if (!moved && !any && !all_wait_for(Wait::DONE)) fail("a lane stays away from a meeting of its warp or CTA");
    }
}

} // namespace emulate

#define threadIdx (emulate::Index{emulate::cta.running->index})
#define blockIdx (emulate::block_index)
#define blockDim (emulate::block_size)

// The vector type that CUDA has of its own.
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

inline void require_all(unsigned mask) {
    if (mask != 0xffffffffu) emulate::fail("a warp-wide function for some lanes only");
}

inline void __syncwarp(unsigned mask = 0xffffffffu) {
    require_all(mask);
    emulate::meet_warp(0);
}
inline void __syncthreads() { emulate::give_way(emulate::Wait::CTA); }

inline unsigned __ballot_sync(unsigned mask, int vote) {
    require_all(mask);
    const unsigned long long* votes = emulate::meet_warp(vote != 0);
    unsigned all = 0;
    for (unsigned lane = 0; lane < 32; lane++) all |= unsigned(votes[lane]) << lane;
    return all;
}
inline int __any_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) != 0; }

inline unsigned __shfl_sync(unsigned mask, unsigned value, unsigned from) {
    require_all(mask);
    return unsigned(emulate::meet_warp(value)[from % 32]);
}
inline unsigned __shfl_up_sync(unsigned mask, unsigned value, unsigned step) {
    require_all(mask);
    unsigned lane = emulate::cta.running->index % 32;
    const unsigned long long* values = emulate::meet_warp(value);
    return unsigned(values[lane >= step ? lane - step : lane]);
}
inline unsigned __shfl_xor_sync(unsigned mask, unsigned value, unsigned flip) {
    require_all(mask);
    unsigned lane = emulate::cta.running->index % 32;
    return unsigned(emulate::meet_warp(value)[lane ^ flip]);
}

inline unsigned __reduce_max_sync(unsigned mask, unsigned value) {
    require_all(mask);
    const unsigned long long* values = emulate::meet_warp(value);
    unsigned long long most = 0;
    for (unsigned lane = 0; lane < 32; lane++) most = values[lane] > most ? values[lane] : most;
    return unsigned(most);
}

// Bytes 0 to 3 are those of `a`, 4 to 7 those of `b`.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    unsigned long long bytes = (unsigned long long)b << 32 | a;
    unsigned chosen = 0;
    for (unsigned i = 0; i < 4; i++) chosen |= unsigned(bytes >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
    return chosen;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __clz(unsigned bits) { return bits == 0 ? 32 : __builtin_clz(bits); }
