"""nvCOMP on the XOR of the arrays that `speed --arrays DIR` wrote: bits an element and speed of decoding alone.

Usage: python3 nvcomp_xor.py DIR

Needs CuPy and the package nvidia-nvcomp-cu13. Each coding is tried on the words as they are and on their two byte planes, checked
for an exact round trip, and timed by events on its own stream, median of 15. What is not counted: applying the XOR to the base.
"""

import statistics
import sys
from pathlib import Path

import cupy
from nvidia import nvcomp

REPEATS = 15


def milliseconds(work, stream):
    times = []
    for repeat in range(REPEATS + 2):
        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        start.record(stream)
        work()
        end.record(stream)
        end.synchronize()
        if repeat >= 2:
            times.append(cupy.cuda.get_elapsed_time(start, end))
    return statistics.median(times)


def measure(algorithm, parts, stream):
    """Bytes and milliseconds of all parts together."""
    codec = nvcomp.Codec(algorithm=algorithm, cuda_stream=stream.ptr)
    coded = codec.encode(nvcomp.as_arrays(parts, cuda_stream=stream.ptr))
    stream.synchronize()
    stored = sum(coded.buffer_sizes)
    back = codec.decode(coded)
    stream.synchronize()
    for i, part in enumerate(parts):
        # Batches know their length and items, but do not iterate.
        if not bool((cupy.asarray(back[i]).view(cupy.uint8).ravel() == part.ravel()).all()):
            sys.exit(f"{algorithm}: the round trip is not exact")
    del back
    return stored, milliseconds(lambda: codec.decode(coded), stream)


def main():
    folder = Path(sys.argv[1])
    print(f"nvCOMP {nvcomp.__version__} on {cupy.cuda.runtime.getDeviceProperties(0)['name'].decode()}")
    print("| unchanged | coding | bits/elem | decode ms | G elem/s |")
    print("|-----------|--------|-----------|-----------|----------|")
    base = cupy.asarray(memoryview((folder / "base.bf16").read_bytes()).cast("H"))
    for path in sorted(folder.glob("new-*.bf16"), reverse=True):
        new = cupy.asarray(memoryview(path.read_bytes()).cast("H"))
        xor = new ^ base
        share = float((xor == 0).mean())
        del new
        planes = [(xor >> 8).astype(cupy.uint8), (xor & 0xFF).astype(cupy.uint8)]
        for name, algorithm, parts in (
            ("ANS, byte planes", "ANS", planes),
            ("ANS, as it is", "ANS", [xor.view(cupy.uint8)]),
            ("Bitcomp, as it is", "Bitcomp", [xor.view(cupy.uint8)]),
            ("zstd, byte planes", "Zstd", planes),
        ):
            with cupy.cuda.Stream() as stream:
                stored, took = measure(algorithm, parts, stream)
            print(
                f"| {100 * share:.2f} % | {name} | {8 * stored / xor.size:.4f} | {took:.3f} | {xor.size / took / 1e6:.0f} |",
                flush=True,
            )
        del xor, planes
        cupy.get_default_memory_pool().free_all_blocks()


main()
