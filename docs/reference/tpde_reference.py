"""The reference decoder of TPDE: format.md in Python, as slow and as plain as possible.

    python tpde_reference.py STORE list                    runs, commits and tags
    python tpde_reference.py STORE restore RUN STEP OUT    the files of a checkpoint, into a new folder OUT
    python tpde_reference.py FOLDER frames                 its frames (§4) NAME.frame, with NAME.base and NAME.given where
                                                           these are there, into NAME.slice; prints the modes of their tiles

It was written from format.md alone, and fails where a reader MUST. Read it in the order of that page:
elements.py (§2, §3), frames.py (§4.1, §4.9), tables.py (§4.2, §4.3), tiles.py (§4.4 to §4.7), digests.py (§4.8), packs.py (§5),
history.py (§6 to §8), and here the writing of files.
It needs Python 3.11 and the packages blake3 and zstandard.
"""

import sys
from pathlib import Path

from blake3 import blake3

from digests import merge
from elements import FormatError, need
from frames import Frame
from history import DIRECTORY, OPAQUE, SAFETENSORS, TORCH, Store
from packs import Contents
from tiles import MODE_NAMES

USAGE = __doc__.split("\n\n")[1]


def list_store(store):
    for run in store.runs():
        for commit in store.commits(run):
            print(f"{run}\tcommit {commit.seq}\tstep {commit.numbers[0]}\tmanifest {commit.manifest.hex()}")
    for name, run, seq, step in store.tags():
        print(f"tag {name}\t{run}\tcommit {seq}\tstep {step}")


def restore(store, run, step, out):
    manifest = store.checkpoint(run, step)
    contents = Contents(store.folder / "packs")
    out.mkdir(parents=True)
    modes = []
    for file in manifest.files:
        # `checked_path` has refused all that could lead out of the folder.
        path = out / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if file.kind == DIRECTORY:
            path.mkdir(exist_ok=True)
        else:
            with path.open("xb") as writing:
                writing.write(file_bytes(file, contents))
        modes.append((path, file.mode))
    # Last, and inner folders first: a folder may forbid that something is written to it.
    for path, mode in sorted(modes, reverse=True):
        path.chmod(mode & 0o777)


def file_bytes(file, contents):
    data = b"".join(checked(contents.blob(row.id), row, file) for row in file.blobs)
    if file.kind == OPAQUE:
        need(blake3(data).digest() == file.digest, f"§6: {file.path} is not the file that was saved")
    if file.kind == SAFETENSORS:
        need(8 + int.from_bytes(data[:8], "little") == len(data), f"§6: the header of {file.path} has another length")
        data += b"".join(checked(contents.tensor(row.id, row.dtype), row, file) for row in file.tensors)
    if file.kind == TORCH:
        parts, at = [], 0
        for gap, row in zip(file.gaps, file.tensors):
            parts += [data[at : at + gap], checked(contents.tensor(row.id, row.dtype), row, file)]
            at += gap
        data = b"".join([*parts, data[at:]])
    return data


def checked(data, row, file):
    need(len(data) == row.bytes, f"§6: {row.id.hex()} in {file.path} has {len(data)} bytes, its row says {row.bytes}")
    return data


def decode_frames(folder):
    """Decodes each NAME.frame, with the slices NAME.base and NAME.given where these are there, into NAME.slice."""
    for path in sorted(folder.glob("*.frame")):
        frame = Frame(path.read_bytes())
        others = []
        for suffix, start, what in ((".base", frame.base_start, "base"), (".given", frame.given_start, "given tensor")):
            other = path.with_suffix(suffix)
            others.append(other.read_bytes() if other.exists() else None)
            if None not in (others[-1], start) and frame.slices == 1:
                need(blake3(others[-1]).digest()[:4] == start, f"§4.1: {path.name} was encoded with another {what}")
        data = frame.decode(*others)
        if frame.slices == 1 and frame.digests:
            need(merge(frame.digests, root=True) == blake3(data).digest(), f"§4.8: the digests of {path.name} are wrong")
        path.with_suffix(".slice").write_bytes(data)
        print(path.stem, *(MODE_NAMES[mode] for mode in frame.modes))


def main(arguments):
    match arguments:
        case [store, "list"]:
            list_store(Store(store))
        case [store, "restore", run, step, out]:
            restore(Store(store), run, int(step), Path(out))
        case [folder, "frames"]:
            decode_frames(Path(folder))
        case _:
            sys.exit(f"usage:\n{USAGE}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except FormatError as error:
        sys.exit(f"refused: {error}")
