// Runs the launches of one plan on the CPU: plan file in, output and status words out. Written by tpde-infer/tests/emulated.
//
// The file is little-endian: u64 magic, u64 backwards, then nine arrays (bytes, frames, tasks, jobs, tables, frequencies, base,
// out, slots), each u64 bytes and the bytes; u64 status words; u64 in place (base is the output); u64 launches, and for each u64 length of the
// kernel's name, the name, u64 first job, u64 CTAs, u64 threads, u64 shared bytes. Each array is an allocation of its own and of its
// exact size, so the address sanitizer sees the first byte beyond it.
#include "emulate.hpp"

#include <string>

#include "../words.cuh"

Vector tpde_shared[99 * 1024 / sizeof(Vector)];

#include "../expand.cu"
#include "../copy.cu"
#include "../dense.cu"
#include "../fresh.cu"
#include "../sparse.cu"

namespace {

constexpr u64 MAGIC = 0x314e414c50454454ull;

struct File {
    std::FILE* file;

    u64 number() {
        u64 value;
        read(&value, sizeof value);
        return value;
    }
    void read(void* to, size_t bytes) {
        if (bytes && std::fread(to, 1, bytes, file) != bytes) emulate::fail("the plan file ends early");
    }
};

struct Array {
    u8* at;
    u64 bytes;

    explicit Array(File& in) : bytes(in.number()) {
        void* exact = nullptr;
        if (posix_memalign(&exact, 256, bytes ? bytes : 1) != 0) emulate::fail("out of memory");
        at = static_cast<u8*>(exact);
        in.read(at, bytes);
    }
};

struct Kernel {
    const char* name;
    void (*entry)(const Plan);
};

const Kernel KERNELS[] = {
    {"expand_tables", expand_tables},     {"copy_16", copy_16},
    {"copy_32", copy_32},                 {"sparse_float_16", sparse_float_16},
    {"sparse_float_32", sparse_float_32}, {"sparse_int_16", sparse_int_16},
    {"sparse_int_32", sparse_int_32},     {"dense_float_16", dense_float_16},
    {"dense_float_32", dense_float_32},   {"dense_int_16", dense_int_16},
    {"dense_int_32", dense_int_32},       {"fresh_float_16", fresh_float_16},
    {"fresh_float_32", fresh_float_32},   {"fresh_int_16", fresh_int_16},
    {"fresh_int_32", fresh_int_32},
};

void launch(const std::string& name, Plan plan, u64 ctas, u64 threads, u64 shared_bytes, bool backwards) {
    if (shared_bytes > sizeof tpde_shared) emulate::fail("more shared memory than 99 KB");
    for (const Kernel& kernel : KERNELS) {
        if (name != kernel.name) continue;
        for (u64 block = 0; block < ctas; block++) {
            // What a CTA finds in shared memory is what others left.
            std::memset(tpde_shared, 0xa5, sizeof tpde_shared);
            emulate::kernel = [&] { kernel.entry(plan); };
            emulate::run_cta(unsigned(block), unsigned(threads), backwards);
            const u8* behind = reinterpret_cast<const u8*>(tpde_shared) + shared_bytes;
            const u8* end = reinterpret_cast<const u8*>(tpde_shared) + sizeof tpde_shared;
            for (; behind < end; behind++)
                if (*behind != 0xa5) emulate::fail("a write behind the shared memory that the launch asked for");
        }
        return;
    }
    emulate::fail("no such kernel");
}

void write(std::FILE* file, const void* from, size_t bytes) {
    if (bytes && std::fwrite(from, 1, bytes, file) != bytes) emulate::fail("cannot write the result");
}

} // namespace

int main(int count, char** arguments) {
    if (count != 3) emulate::fail("usage: emulate PLAN RESULT");
    File in = {std::fopen(arguments[1], "rb")};
    if (!in.file || in.number() != MAGIC) emulate::fail("not a plan file");
    bool backwards = in.number() != 0;
    Array bytes(in), frames(in), tasks(in), jobs(in), tables(in), frequencies(in), base(in), out(in), slots(in);
    std::vector<u32> status(in.number(), 0xffffffffu);
    bool in_place = in.number() != 0;
    Plan plan = {bytes.at,
                 reinterpret_cast<const Frame*>(frames.at),
                 reinterpret_cast<const Task*>(tasks.at),
                 reinterpret_cast<const Job*>(jobs.at),
                 reinterpret_cast<const Table*>(tables.at),
                 reinterpret_cast<const u16*>(frequencies.at),
                 reinterpret_cast<u32*>(slots.at),
                 in_place ? out.at : base.at,
                 out.at,
                 status.data(),
                 0};
    for (u64 left = in.number(); left > 0; left--) {
        std::string name(in.number(), ' ');
        in.read(name.data(), name.size());
        plan.first_job = in.number();
        u64 ctas = in.number(), threads = in.number(), shared_bytes = in.number();
        launch(name, plan, ctas, threads, shared_bytes, backwards);
    }
    std::FILE* result = std::fopen(arguments[2], "wb");
    if (!result) emulate::fail("cannot make the result file");
    write(result, out.at, out.bytes);
    write(result, status.data(), status.size() * sizeof(u32));
    return std::fclose(result) == 0 ? 0 : 3;
}
