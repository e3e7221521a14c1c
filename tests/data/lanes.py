"""Exact patches between two model.safetensors of 16-bit tensors, on arbitrary-precision integers.

The picture: both files' tensors are joined in the target's order, read as one long row of 16-bit lanes, and
subtracted lane by lane. The signed difference is folded (0, -1, 1, -2 ... -> 0, 1, 2, 3 ...), so that small
steps either way leave a zero high byte, and the two byte planes are then left to xz:

    patch = xz( target header, verbatim  ++  low bytes of all lanes  ++  high bytes of all lanes )

A Python integer holds the whole row, so each step is one pass of machine arithmetic instead of a loop over elements.
"""

import json
import struct

LANE_BYTES = 2


def split_safetensors(blob):
    """Returns (the length field and header, verbatim; {name: bytes}), the names in the order of their bytes."""
    (header_bytes,) = struct.unpack_from("<Q", blob)
    body = 8 + header_bytes
    entries = json.loads(blob[8:body])
    entries.pop("__metadata__", None)
    tensors, end = {}, 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = entry["data_offsets"]
        if start != end:
            raise ValueError(f"{name}: starts at byte {start}, expected {end}: tensors must follow one another")
        tensors[name], end = blob[body + start : body + stop], stop
    if body + end != len(blob):
        raise ValueError(f"{len(blob) - body} bytes of tensors, the header tells of {end}")
    return blob[:body], tensors


def tensor_sizes(header):
    """{name: size in bytes}, in the order of the bytes, from a header returned by `split_safetensors`."""
    entries = json.loads(header[8:])
    entries.pop("__metadata__", None)
    ordered = sorted(entries.items(), key=lambda item: item[1]["data_offsets"])
    return {name: entry["data_offsets"][1] - entry["data_offsets"][0] for name, entry in ordered}


def base_row(sizes, base_tensors):
    """The base's bytes in the target's order; zeros stand in for a tensor that the base lacks or has in another size."""
    row = (base_tensors.get(name, b"") for name in sizes)
    return b"".join(b if len(b) == size else bytes(size) for b, size in zip(row, sizes.values()))


def _lanes(size_bytes):
    ones = int.from_bytes(b"\x01\x00" * (size_bytes // LANE_BYTES), "little")
    return ones, ones * 0x7FFF, ones * 0x8000


def subtract_folded(target, base):
    """Lane-wise fold(target - base) modulo 2^16. Inverse: `add_unfolded`."""
    if len(target) != len(base) or len(target) % LANE_BYTES:
        raise ValueError("rows must be of one length, in whole lanes")
    ones, low, high = _lanes(len(target))
    t, b = int.from_bytes(target, "little"), int.from_bytes(base, "little")
    # The top bit of every lane is kept out of the subtraction, so no borrow leaves its lane.
    difference = ((t | high) - (b & low)) ^ (t & high) ^ high ^ (b & high)
    negative = ((difference >> 15) & ones) * 0xFFFF
    return (((difference & low) << 1) ^ negative).to_bytes(len(target), "little")


def add_unfolded(base, folded):
    """Lane-wise base + unfold(folded) modulo 2^16. Inverse of `subtract_folded`."""
    if len(base) != len(folded) or len(base) % LANE_BYTES:
        raise ValueError("rows must be of one length, in whole lanes")
    ones, low, high = _lanes(len(base))
    b, f = int.from_bytes(base, "little"), int.from_bytes(folded, "little")
    difference = ((f >> 1) & low) ^ ((f & ones) * 0xFFFF)
    total = ((b & low) + (difference & low)) ^ ((b ^ difference) & high)
    return total.to_bytes(len(base), "little")


def to_planes(row):
    """The low bytes of all lanes, then the high bytes."""
    return row[0::2] + row[1::2]


def from_planes(planes):
    """Inverse of `to_planes`."""
    row = bytearray(len(planes))
    row[0::2], row[1::2] = planes[: len(planes) // 2], planes[len(planes) // 2 :]
    return bytes(row)
