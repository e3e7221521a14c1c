#!/usr/bin/env python3
"""Writes every step of tests/data/tinycode as a whole model directory.

    expand.py OUT_DIR      leaves OUT_DIR/step-00000, step-00040, step-00050 and step-00200

Every file is checked against the SHA-256 in steps.json before it gets its name, and a directory appears whole or not
at all. Directories that are already right are left alone, so a second call only hashes; two calls at once are safe.
Standard library only; a second or two.
"""

import hashlib
import json
import lzma
import os
import shutil
import sys
import tempfile
from pathlib import Path

import lanes

FIXTURE = Path(__file__).resolve().parent / "tinycode"
MODEL = "model.safetensors"


def is_right(folder, files):
    """Whether `folder` holds exactly `files`, with the recorded contents."""
    if not folder.is_dir() or {entry.name for entry in folder.iterdir()} != set(files):
        return False
    return all(matches((folder / name).read_bytes(), want) for name, want in files.items())


def matches(blob, want):
    return len(blob) == want["bytes"] and hashlib.sha256(blob).hexdigest() == want["sha256"]


def apply_patch(base_blob, patch_blob):
    """Inverse of make_patches.make_patch."""
    unpacked = lzma.decompress(patch_blob)
    header = unpacked[: 8 + int.from_bytes(unpacked[:8], "little")]
    _, base_tensors = lanes.split_safetensors(base_blob)
    base = lanes.base_row(lanes.tensor_sizes(header), base_tensors)
    return header + lanes.add_unfolded(base, lanes.from_planes(unpacked[len(header) :]))


def place(folder, blobs):
    """Writes `blobs` beside `folder`, then renames; what stood there before is removed."""
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        beside.chmod(0o755)
        for name, blob in blobs.items():
            (beside / name).write_bytes(blob)
        if folder.exists():
            stale = Path(tempfile.mkdtemp(prefix=f".stale.{folder.name}.", dir=folder.parent))
            try:
                os.rename(folder, stale)
            finally:
                shutil.rmtree(stale, ignore_errors=True)
        os.rename(beside, folder)
    except OSError:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: expand.py OUT_DIR")
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    manifest = json.loads((FIXTURE / "steps.json").read_text())
    base_folder, models = FIXTURE / "base", {}

    def damaged(what):
        sys.exit(f"{what}: tests/data/tinycode is damaged; restore it with `git checkout -- tests/data`")

    def model_of(entry):
        # Built on demand: when every directory is right, no patch is read at all.
        if entry["name"] not in models:
            if entry["patch"] is None:
                models[entry["name"]] = (base_folder / MODEL).read_bytes()
            else:
                base = next(e for e in manifest["steps"] if e["name"] == entry["base"])
                try:
                    models[entry["name"]] = apply_patch(model_of(base), (FIXTURE / entry["patch"]).read_bytes())
                except (lzma.LZMAError, ValueError, KeyError) as error:
                    damaged(f"{entry['patch']}: {error}")
        return models[entry["name"]]

    for entry in manifest["steps"]:
        folder = out / f"step-{entry['step']:05}"
        if is_right(folder, entry["files"]):
            continue
        blobs = {name: (base_folder / name).read_bytes() for name in manifest["same_as_base"]}
        blobs[MODEL] = model_of(entry)
        for name, want in entry["files"].items():
            if not matches(blobs[name], want):
                damaged(f"{folder.name}/{name} does not hash to what steps.json says")
        try:
            place(folder, blobs)
        except OSError:
            # Another call may have put the same directory there first.
            if not is_right(folder, entry["files"]):
                raise
        print(f"{folder}: {sum(map(len, blobs.values())):,} bytes")


if __name__ == "__main__":
    main()
