"""What ``torch.distributed.checkpoint`` knows about a checkpoint, as JSON, and back.

DCP itself keeps it as a pickle, which may run anything when it is opened. Here every class is written out::

    {"format": 1,
     "state":   {"model.w": {"kind": "tensor", "dtype": "float32", …, "size": [8, 4], "chunks": [[[0, 0], [4, 4]], [[4, 0], [4, 4]]]},
                 "step":    {"kind": "bytes"}},
     "stored":  [["model.w", [0, 0], 0, {"file": "rank-0.safetensors", "tensor": "model.w:@0,0"}],
                 ["step", null, null, {"file": "rank-0.bytes", "bytes": [4, 430]}]],
     "planner": …}

``planner`` is data of the planner's own, such as the paths of flattened names, as :mod:`tpde._tree` writes it.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import (
    STORAGE_TYPES,
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from tpde import _tree
from tpde._errors import CorruptError, InputError, NewerError

#: Version of the JSON.
FORMAT = 1
#: What DCP's own writers say of the metadata that they write.
_DCP_VERSION = "1.0.0"


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """Where a tensor, or a shard of one, is kept."""

    file: str
    name: str
    #: A dtype that has no name of its own in the file.
    was: str | None = None


@dataclasses.dataclass(frozen=True)
class StoredBytes:
    """Where an item that is no tensor is kept."""

    file: str
    start: int
    end: int


def encode(metadata: Metadata) -> bytes:
    """The metadata as JSON; ``storage_data`` has a :class:`StoredTensor` or :class:`StoredBytes` for each index.

    Raises :class:`InputError` for data of a planner that are no data.
    """
    planner = _tree.flatten(metadata.planner_data, "planner_data")
    if planner.arrays:
        raise InputError("planner_data: there are tensors in it. Use a planner that keeps names and numbers there")
    written = {
        "format": FORMAT,
        "state": {fqn: _encode_entry(entry) for fqn, entry in metadata.state_dict_metadata.items()},
        "stored": [
            [index.fqn, None if index.offset is None else list(index.offset), index.index, _encode_stored(stored)]
            for index, stored in metadata.storage_data.items()
        ],
        "planner": planner.tree,
    }
    text = json.dumps(written, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "surrogatepass")


def _encode_entry(entry: STORAGE_TYPES) -> dict[str, Any]:
    if isinstance(entry, BytesStorageMetadata):
        return {"kind": "bytes"}
    properties = entry.properties
    strides = getattr(properties, "strides", None)
    return {
        "kind": "tensor",
        "dtype": _name(properties.dtype),
        "layout": _name(properties.layout),
        "requires_grad": properties.requires_grad,
        "memory_format": _name(properties.memory_format),
        "pin_memory": properties.pin_memory,
        "strides": None if strides is None else list(strides),
        "size": list(entry.size),
        "chunks": [[list(chunk.offsets), list(chunk.sizes)] for chunk in entry.chunks],
    }


def _encode_stored(stored: StoredTensor | StoredBytes) -> dict[str, Any]:
    if isinstance(stored, StoredBytes):
        return {"file": stored.file, "bytes": [stored.start, stored.end]}
    written = {"file": stored.file, "tensor": stored.name}
    return written if stored.was is None else {**written, "was": stored.was}


def _name(constant: Any) -> str:
    return str(constant).removeprefix("torch.")


def decode(text: bytes, shown: str) -> Metadata:
    """Inverse of :func:`encode`.

    * ``shown``: what to call the checkpoint in an error.

    Raises :class:`CorruptError` for what :func:`encode` does not write, :class:`NewerError` for what a later version wrote.
    """
    try:
        written = json.loads(text.decode("utf-8", "surrogatepass"))
        version = written["format"]
        if type(version) is int and version > FORMAT:
            raise NewerError(f"{shown} was saved for DCP by a newer version of tpde. Load it with that one")
        if version != FORMAT:
            raise ValueError(f"format {version!r}")
        return Metadata(
            state_dict_metadata={fqn: _decode_entry(entry) for fqn, entry in written["state"].items()},
            planner_data=_tree.unflatten(written["planner"], _no_array, "planner_data"),
            storage_data={
                MetadataIndex(fqn, None if offset is None else _size(offset), index): _decode_stored(stored)
                for fqn, offset, index, stored in written["stored"]
            },
            version=_DCP_VERSION,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptError(f"{shown}: what DCP has to know of it is not what was saved: {error!r}") from error


def _no_array(name: str, library: str, was: str | None) -> Any:
    raise ValueError(f"a tensor {name} among the planner's data")


def _decode_entry(entry: dict[str, Any]) -> STORAGE_TYPES:
    if entry["kind"] == "bytes":
        return BytesStorageMetadata()
    if entry["kind"] != "tensor":
        raise ValueError(f"kind {entry['kind']!r}")
    strides = entry["strides"]
    properties = {
        "dtype": _constant(entry["dtype"], torch.dtype),
        "layout": _constant(entry["layout"], torch.layout),
        "requires_grad": bool(entry["requires_grad"]),
        "memory_format": _constant(entry["memory_format"], torch.memory_format),
        "pin_memory": bool(entry["pin_memory"]),
        "strides": None if strides is None else tuple(_size(strides)),
    }
    # Earlier versions of torch have no strides there.
    known = {field.name for field in dataclasses.fields(TensorProperties)}
    size = _size(entry["size"])
    chunks = [ChunkStorageMetadata(_size(offsets), _size(sizes)) for offsets, sizes in entry["chunks"]]
    if any(len(chunk.offsets) != len(size) or len(chunk.sizes) != len(size) for chunk in chunks):
        raise ValueError("a part of a tensor that has other dimensions than the tensor")
    return TensorStorageMetadata(
        TensorProperties(**{name: value for name, value in properties.items() if name in known}), size, chunks
    )


def _decode_stored(stored: dict[str, Any]) -> StoredTensor | StoredBytes:
    if "bytes" in stored:
        start, end = _size(stored["bytes"])
        return StoredBytes(str(stored["file"]), start, end)
    return StoredTensor(str(stored["file"]), str(stored["tensor"]), stored.get("was"))


def _constant(name: str, kind: type) -> Any:
    found = getattr(torch, name, None)
    if not isinstance(found, kind):
        raise ValueError(f"torch has no {kind.__name__} {name!r}")
    return found


def _size(numbers: list[int]) -> torch.Size:
    if any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError(f"{numbers} are no sizes")
    return torch.Size(numbers)
