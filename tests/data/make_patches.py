#!/usr/bin/env python3
"""Made tests/data/tinycode from four whole model directories; kept so that the fixture can be judged and made again.

    make_patches.py SOURCE      SOURCE holds base/, rl-step00040/, rl-step00050/ and rl-far/

The base is copied as it is; every later step becomes one patch (see lanes.py) against the nearest earlier step.
`steps.json` records what each directory must hash to; expand.py refuses to produce anything else.
Standard library only; about half a minute.
"""

import hashlib
import json
import lzma
import shutil
import sys
from pathlib import Path

import lanes

HERE = Path(__file__).resolve().parent
RUN = "tinycode"
MODEL = "model.safetensors"
ALONGSIDE = ("config.json", "tokenizer.json")
# (step, directory, the directory it is patched against). The 40 -> 50 patch is half the size of base -> 50; for
# rl-far, another run from the base, no nearer step exists.
CHAIN = ((0, "base", None), (40, "rl-step00040", "base"), (50, "rl-step00050", "rl-step00040"), (200, "rl-far", "base"))
# Planes of one byte have no literal context worth keeping (lc = 0), nor any alignment (pb = 0).
XZ_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 0, "pb": 0}]


def make_patch(base_blob, target_blob):
    header, tensors = lanes.split_safetensors(target_blob)
    _, base_tensors = lanes.split_safetensors(base_blob)
    sizes = {name: len(raw) for name, raw in tensors.items()}
    folded = lanes.subtract_folded(b"".join(tensors.values()), lanes.base_row(sizes, base_tensors))
    return lzma.compress(header + lanes.to_planes(folded), check=lzma.CHECK_CRC32, filters=XZ_FILTERS)


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: make_patches.py SOURCE, the folder that holds base/, rl-step00040/, rl-step00050/ and rl-far/")
    source, out = Path(sys.argv[1]), HERE / RUN
    (out / "base").mkdir(parents=True, exist_ok=True)
    steps = []
    for step, name, base in CHAIN:
        files = {}
        for file in (*ALONGSIDE, MODEL):
            blob = (source / name / file).read_bytes()
            files[file] = {"bytes": len(blob), "sha256": hashlib.sha256(blob).hexdigest()}
            if base is None:
                shutil.copyfile(source / name / file, out / name / file)
            elif file in ALONGSIDE and files[file] != steps[0]["files"][file]:
                sys.exit(f"{name}/{file} differs from the base's; patches carry {MODEL} alone")
        patch = None
        if base is not None:
            patch = f"{name}.patch.xz"
            packed = make_patch((source / base / MODEL).read_bytes(), (source / name / MODEL).read_bytes())
            (out / patch).write_bytes(packed)
            print(f"{patch}: {len(packed):,} bytes against {base}")
        steps.append({"step": step, "name": name, "base": base, "patch": patch, "files": files})
    (out / "steps.json").write_text(json.dumps({"run": RUN, "same_as_base": ALONGSIDE, "steps": steps}, indent=2) + "\n")


if __name__ == "__main__":
    main()
