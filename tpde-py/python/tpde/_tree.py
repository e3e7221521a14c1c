"""State as JSON and arrays, and back: no pickle unless the caller asks for it.

A value that JSON has is itself. Whatever else is an object whose ``~`` says what it is::

    (1, nan)        {"~": "tuple", "v": [1, {"~": "float", "v": "7ff8000000000000"}]}
    {0: tensor}     {"~": "dict", "v": [[0, {"~": "array", "v": "state.0", "lib": "torch"}]]}

The arrays stand apart, by name.
"""

from __future__ import annotations

import base64
import pickle
import struct
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

import numpy as np

from tpde import _arrays
from tpde._arrays import Array
from tpde._errors import CorruptError, InputError

#: Says what an object of JSON stands for.
_KIND = "~"
#: A name that a safetensors file keeps for itself.
_RESERVED = "__metadata__"


class Flattened:
    """A state taken apart."""

    def __init__(self) -> None:
        self.tree: Any = None
        #: Every array, by name.
        self.arrays: dict[str, Array] = {}


def flatten(value: Any, path: str, allow_pickle: bool = False) -> Flattened:
    """Takes a state apart.

    * ``path``: what to call it in an error.
    * ``allow_pickle``: keep objects that JSON cannot have as pickles.

    Raises :class:`InputError`, naming the place, for what cannot be kept.
    """
    flattened = Flattened()
    flattened.tree = _Writer(flattened.arrays, allow_pickle).write(value, path, ())
    return flattened


def unflatten(tree: Any, array: Callable[[str, str, str | None], Any], path: str, allow_pickle: bool = False) -> Any:
    """Inverse of :func:`flatten`.

    * ``array``: gives the array of a name, for a library, of a dtype that has no name of its own.

    Raises :class:`CorruptError` for a tree that :func:`flatten` does not make, :class:`InputError` for a pickle that is not asked for.
    """
    return _Reader(array, allow_pickle).read(tree, path)


def arrays_of(tree: Any) -> list[tuple[str, str, str | None]]:
    """The arrays that a tree names: name, library, dtype that has no name of its own."""
    found: list[tuple[str, str, str | None]] = []

    def note(name: str, library: str, was: str | None) -> None:
        found.append((name, library, was))

    # Pickles are not opened: none can name an array.
    _Reader(note, None).read(tree, "state")
    return found


class _Writer:
    def __init__(self, arrays: dict[str, Array], allow_pickle: bool) -> None:
        self.arrays = arrays
        self.allow_pickle = allow_pickle
        self.above: set[int] = set()

    def write(self, value: Any, path: str, keys: tuple[str, ...]) -> Any:
        if value is None or (isinstance(value, (bool, str)) and type(value) in (bool, str)):
            return value
        if type(value) is int:
            return value
        if type(value) is float:
            return _float(value)
        array = _arrays.look(value, path)
        if array is not None:
            return self._array(array, keys)
        if id(value) in self.above:
            raise InputError(f"{path}: it contains itself. Save what it is made of without the loop")
        self.above.add(id(value))
        try:
            return self._compound(value, path, keys)
        finally:
            self.above.remove(id(value))

    def _array(self, array: Array, keys: tuple[str, ...]) -> Any:
        base = name = ".".join(keys) or "value"
        again = 1
        while name in self.arrays or name == _RESERVED:
            again += 1
            name = f"{base}~{again}"
        self.arrays[name] = array
        node = {_KIND: "array", "v": name, "lib": array.library}
        if array.was is not None:
            node["was"] = array.was
        return node

    def _compound(self, value: Any, path: str, keys: tuple[str, ...]) -> Any:
        def items(values: Any) -> list[Any]:
            return [self.write(item, f"{path}[{i}]", (*keys, str(i))) for i, item in enumerate(values)]

        kind = type(value)
        if kind is list:
            return items(value)
        if kind is tuple:
            return {_KIND: "tuple", "v": items(value)}
        if kind is dict and all(type(key) is str for key in value) and _KIND not in value:
            return {key: self.write(item, f"{path}.{key}", (*keys, key)) for key, item in value.items()}
        if kind in (dict, OrderedDict, Counter):
            pairs = [
                [
                    self.write(key, f"{path} key {key!r}", (*keys, f"key {i}")),
                    self.write(item, f"{path}[{key!r}]", (*keys, str(key))),
                ]
                for i, (key, item) in enumerate(value.items())
            ]
            # A state_dict is an OrderedDict that carries versions of its modules beside its items.
            node = {_KIND: {dict: "dict", OrderedDict: "OrderedDict", Counter: "Counter"}[kind], "v": pairs}
            versions = value.__dict__.get("_metadata") if kind is OrderedDict else None
            if versions is not None:
                node["_metadata"] = self.write(versions, f"{path}._metadata", (*keys, "_metadata"))
            return node
        if kind is deque:
            return {_KIND: "deque", "v": items(value), "most": value.maxlen}
        if kind in (set, frozenset):
            # In one order, so that the same state is the same bytes.
            return {_KIND: kind.__name__, "v": items(sorted(value, key=lambda item: (type(item).__name__, repr(item))))}
        if kind in (bytes, bytearray):
            return {_KIND: kind.__name__, "v": base64.b64encode(value).decode()}
        if kind is complex:
            return {_KIND: "complex", "v": [_float(value.real), _float(value.imag)]}
        if isinstance(value, np.generic) and value.dtype.names is None and value.dtype.kind in "biufc":
            return {_KIND: "scalar", "v": value.tobytes().hex(), "dtype": value.dtype.str}
        if isinstance(value, np.dtype) and value.names is None and value.kind in "biufc":
            return {_KIND: "numpy.dtype", "v": value.str}
        if isinstance(value, PurePath):
            return {_KIND: "path", "v": str(value)}
        return self._torch(value) or self._pickle(value, path)

    def _torch(self, value: Any) -> Any:
        torch = _arrays.torch_or_none()
        if torch is None:
            return None
        if isinstance(value, torch.Size):
            return {_KIND: "torch.Size", "v": list(value)}
        if isinstance(value, torch.dtype):
            return {_KIND: "torch.dtype", "v": str(value).removeprefix("torch.")}
        if isinstance(value, torch.device):
            return {_KIND: "torch.device", "v": str(value)}
        return None

    def _pickle(self, value: Any, path: str) -> Any:
        name = f"{type(value).__module__}.{type(value).__qualname__}"
        if not self.allow_pickle:
            raise InputError(
                f"{path}: an object of {name} cannot be kept as data. "
                "Leave it out, turn it into numbers and arrays, or save and load with allow_pickle=True if you trust the store"
            )
        try:
            return {_KIND: "pickle", "v": base64.b64encode(pickle.dumps(value)).decode(), "type": name}
        except Exception as error:
            raise InputError(f"{path}: an object of {name} cannot be pickled: {error}. Leave it out") from error


class _Reader:
    """* ``allow_pickle``: ``None`` to pass pickles by."""

    def __init__(self, array: Callable[[str, str, str | None], Any], allow_pickle: bool | None) -> None:
        self.array = array
        self.allow_pickle = allow_pickle

    def read(self, node: Any, path: str) -> Any:
        if isinstance(node, list):
            return [self.read(item, f"{path}[{i}]") for i, item in enumerate(node)]
        if not isinstance(node, dict):
            return node
        if _KIND not in node:
            return {key: self.read(item, f"{path}.{key}") for key, item in node.items()}
        try:
            return self._kind(node, path)
        except (KeyError, TypeError, ValueError, struct.error, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise CorruptError(
                f"{path}: the state holds {str(node)[:80]}, which this version cannot read ({error}). "
                "Load it with the version that saved it"
            ) from error

    def _kind(self, node: dict[str, Any], path: str) -> Any:
        kind: str = node[_KIND]
        value: Any = node.get("v")
        if kind == "array":
            return self.array(value, node["lib"], node.get("was"))
        if kind == "float":
            return struct.unpack(">d", bytes.fromhex(value))[0]
        if kind in ("dict", "OrderedDict", "Counter"):
            pairs = [(self.read(key, path), self.read(item, f"{path}[{key!r}]")) for key, item in value]
            if self.allow_pickle is None:
                return None
            if kind == "OrderedDict":
                ordered: Any = OrderedDict(pairs)
                if "_metadata" in node:
                    ordered._metadata = self.read(node["_metadata"], path)
                return ordered
            return Counter(dict(pairs)) if kind == "Counter" else dict(pairs)
        if kind in ("tuple", "deque", "set", "frozenset"):
            items = self.read(value, path)
            if self.allow_pickle is None:
                return None
            return deque(items, node["most"]) if kind == "deque" else {"tuple": tuple, "set": set}.get(kind, frozenset)(items)
        if kind in ("bytes", "bytearray"):
            decoded = base64.b64decode(value, validate=True)
            return bytearray(decoded) if kind == "bytearray" else decoded
        if kind == "complex":
            return complex(self.read(value[0], path), self.read(value[1], path))
        if kind == "scalar":
            return np.frombuffer(bytes.fromhex(value), np.dtype(node["dtype"]))[0]
        if kind == "numpy.dtype":
            return np.dtype(value)
        if kind == "path":
            from pathlib import Path

            return Path(value)
        if kind in ("torch.Size", "torch.dtype", "torch.device"):
            if self.allow_pickle is None:
                return None
            import torch

            return getattr(torch, value) if kind == "torch.dtype" else getattr(torch, kind.removeprefix("torch."))(value)
        if kind == "pickle":
            return self._unpickle(node, path)
        raise ValueError(f"kind {kind!r}")

    def _unpickle(self, node: dict[str, Any], path: str) -> Any:
        if self.allow_pickle is None:
            return None
        if not self.allow_pickle:
            raise InputError(
                f"{path}: it was saved as a pickle of {node.get('type')}, which may run anything when it is opened. "
                "Pass allow_pickle=True if you trust the store"
            )
        return pickle.loads(base64.b64decode(node["v"], validate=True))


def _float(value: float) -> Any:
    if value - value == 0.0:
        return value
    return {_KIND: "float", "v": struct.pack(">d", value).hex()}
