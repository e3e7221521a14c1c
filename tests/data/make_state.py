#!/usr/bin/env python3
"""Cut tests/data/state from whole training states; kept so that the fixture can be judged and made again.

    make_state.py SOURCE      SOURCE holds step00500.safetensors, step00501.safetensors and step00510.safetensors

Keeps, of each step, the weights below with their f32 master and both Adam moments, in the order of the source's bytes.
A matrix too large for the budget is cut to its first rows, which are contiguous in C order.
"""

import json
import struct
import sys
from pathlib import Path

OUT = Path(__file__).resolve().parent / "state"
STEPS = (500, 501, 510)
ROLES = ("", "optimizer.master.", "optimizer.exp_avg.", "optimizer.exp_avg_sq.")
# weight -> rows to keep (None: all)
KEEP = {
    "model.layers.1.input_layernorm.weight": None,
    "model.layers.1.mlp.gate_proj.weight": 96,
    "model.layers.1.post_attention_layernorm.weight": None,
    "model.layers.1.self_attn.k_proj.weight": None,
    "model.norm.weight": None,
}


def cut(blob):
    (header_bytes,) = struct.unpack_from("<Q", blob)
    body = 8 + header_bytes
    source = json.loads(blob[8:body])
    header, parts, end = {"__metadata__": source.pop("__metadata__")}, [], 0
    wanted = {role + weight: rows for weight, rows in KEEP.items() for role in ROLES}
    for name, entry in sorted(source.items(), key=lambda item: item[1]["data_offsets"]):
        if name not in wanted:
            continue
        rows = wanted.pop(name) or entry["shape"][0]
        start, stop = entry["data_offsets"]
        size = (stop - start) // entry["shape"][0] * rows
        parts.append(blob[body + start : body + start + size])
        shape = [rows, *entry["shape"][1:]]
        header[name] = {"dtype": entry["dtype"], "shape": shape, "data_offsets": [end, end + size]}
        end += size
    if wanted:
        sys.exit(f"not in the source: {sorted(wanted)}")
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(parts)


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: make_state.py SOURCE")
    OUT.mkdir(exist_ok=True)
    for step in STEPS:
        name = f"step{step:05}.safetensors"
        blob = cut((Path(sys.argv[1]) / name).read_bytes())
        (OUT / name).write_bytes(blob)
        print(f"{name}: {len(blob):,} bytes")


if __name__ == "__main__":
    main()
