"""Tensors of checkpoints: all at once, into a live module, or a slice at a time."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from tpde import _arrays, _state
from tpde._errors import ConflictError, InputError, NotFoundError
from tpde._tpde import Checkpoint, Store, Tensor

_FRAMEWORKS = ("torch", "numpy", "jax")


@lru_cache(maxsize=16)
def _opened(location: str, pid: int) -> Store:
    return Store.open(location, False, 0)


def open_store(location: str | os.PathLike[str], create: bool, threads: int) -> Store:
    """A store, made there if there is none and ``create`` says so, whoever else does the same at this moment."""
    try:
        return Store.open(os.fspath(location), create, threads)
    except ConflictError:
        # Somebody made it after this one had found none.
        return Store.open(os.fspath(location), False, threads)


def store_of(store: Store | str | os.PathLike[str] | None) -> Store:
    """An open store: the one given, or that of a path or URL, or that of ``TPDE_STORE``."""
    if isinstance(store, Store):
        return store
    location = os.fspath(store) if store is not None else os.environ.get("TPDE_STORE", "")
    if not location:
        raise InputError("no store is named. Pass store=..., or set TPDE_STORE")
    return _opened(location, os.getpid())


def load(
    reference: str,
    tensors: str | None = None,
    *,
    store: Store | str | os.PathLike[str] | None = None,
    file: str | None = None,
    framework: str | None = None,
    device: Any = None,
    dtype: Any = None,
) -> dict[str, Any]:
    """The tensors of a checkpoint, by name, every one verified.

    * ``reference``: ``run@step``, ``run@latest``, ``run~2``, a tag or the beginning of an id.
    * ``tensors``: only those whose name matches, ``*`` and ``?`` standing for any text and any letter.
    * ``store``: where it is; by default what ``TPDE_STORE`` says.
    * ``file``: only those of one file of the checkpoint, such as ``model.safetensors``. By default those of all files but the states of
      optimizers and the like, if the checkpoint was saved from a training loop that had a ``model``.
    * ``framework``: ``"torch"``, ``"numpy"`` or ``"jax"``; by default torch if it is imported, else numpy.
    * ``device``, ``dtype``: what torch makes of them afterwards.

    Raises :class:`tpde.NotFoundError` if nothing matches, :class:`tpde.InputError` if two files have a tensor of one name.
    """
    checkpoint = store_of(store).checkpoint(reference)
    framework = _framework(framework)
    if framework != "torch" and not (device is None and dtype is None):
        raise InputError('device and dtype are for framework="torch". Convert the arrays yourself')
    if device is not None:
        _check_device(device)
    chosen = _choose(checkpoint, tensors, file)
    loaded = _read(checkpoint, chosen, framework)
    if device is not None or dtype is not None:
        loaded = {name: value.to(device=device, dtype=dtype) for name, value in loaded.items()}
    return loaded


def load_into(
    module: Any,
    reference: str,
    *,
    store: Store | str | os.PathLike[str] | None = None,
    file: str | None = None,
    strict: bool = True,
) -> None:
    """Puts the tensors of a checkpoint into a live torch module, in place: its parameters stay the objects that they are.

    Everything is read and verified before anything is changed.

    * ``strict``: refuse if one side has a tensor that the other lacks.

    Raises :class:`tpde.InputError` if names or shapes do not fit; the module is as it was then.
    """
    import torch

    state = module.state_dict()
    for value in state.values():
        if isinstance(value, torch.Tensor):
            _check_device(value.device)
    checkpoint = store_of(store).checkpoint(reference)
    chosen = _choose(checkpoint, None, file)
    if not strict:
        chosen = {name: tensor for name, tensor in chosen.items() if name in state}
    values = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    lacking, unknown = sorted(set(values) - set(chosen)), sorted(set(chosen) - set(values))
    shown = _state.shown(checkpoint)
    if strict and (lacking or unknown):
        what = [f"{shown} lacks {_state.some(lacking)}"] * bool(lacking) + [f"the module lacks {_state.some(unknown)}"] * bool(
            unknown
        )
        raise InputError(f"{' and '.join(what)}. Load it into the model that it was saved from, or pass strict=False")
    for name, tensor in chosen.items():
        if tuple(tensor.shape) != tuple(values[name].shape):
            raise InputError(
                f"{name}: it has the shape {tuple(tensor.shape)} in {shown} and {tuple(values[name].shape)} in the module. "
                "Load it into the model that it was saved from"
            )
    loaded = _read(checkpoint, chosen, "torch")
    with torch.no_grad():
        for name, value in loaded.items():
            values[name].copy_(value)


class LazyTensor:
    """A tensor of a checkpoint that is read when it is asked for: ``t[:]``, ``t[100:200]``, ``t[3, :, 5]``."""

    def __init__(self, checkpoint: Checkpoint, tensor: Tensor) -> None:
        self._checkpoint, self._tensor = checkpoint, tensor

    @property
    def name(self) -> str:
        """Its name."""
        return self._tensor.name

    @property
    def file(self) -> str:
        """Path of the file that it is in."""
        return self._tensor.file

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return tuple(self._tensor.shape)

    @property
    def dtype(self) -> str:
        """Its dtype, as safetensors names it."""
        return self._tensor.dtype

    @property
    def role(self) -> str:
        """What it is to the run: ``weight``, ``master``, ``exp_avg``, ``exp_avg_sq`` or ``other``."""
        return self._tensor.role

    @property
    def nbytes(self) -> int:
        """Its bytes."""
        return self._tensor.len_bytes

    @property
    def id(self) -> str:
        """BLAKE3 of its bytes, in hex: two tensors of one id are the same."""
        return self._tensor.id

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a tensor without dimensions has no length")
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        """Reads the rows that the first index names, and indexes those."""
        framework = _framework(None)
        first, rest = (index[0], index[1:]) if isinstance(index, tuple) and index else (index, ())
        if not self.shape or first is Ellipsis or first == () or not isinstance(first, (int, np.integer, slice)):
            whole = _read(self._checkpoint, {self.name: self._tensor}, framework)[self.name]
            return whole[index]
        rows = self.shape[0]
        if not isinstance(first, slice):
            at = int(first)
            if not -rows <= at < rows:
                raise IndexError(f"row {at} of {rows}")
            at %= rows
            return self._rows(at, at + 1, framework)[(0, *rest)]
        start, stop, step = first.indices(rows)
        if step < 1:
            whole = _read(self._checkpoint, {self.name: self._tensor}, framework)[self.name]
            return whole[index]
        part = self._rows(start, max(start, stop), framework)
        return part[(slice(None, None, step), *rest)]

    def _rows(self, start: int, stop: int, framework: str) -> Any:
        tensor = self._tensor
        shape = (stop - start, *self.shape[1:])
        made = _arrays.empty(framework, tensor.dtype, shape, None, tensor.name)
        words = tensor.len_bytes // tensor.word_bytes
        row = words // self.shape[0] if self.shape[0] else 0
        part = self._checkpoint.read_part(tensor.number, start * row, stop * row)
        # bytes that numpy may not write to: copied, as every load is the caller's own.
        if framework == "torch":
            torch = _arrays.torch_or_none()
            if part:
                made.array.view(-1).view(torch.uint8).copy_(torch.frombuffer(bytearray(part), dtype=torch.uint8))
        else:
            made.array.reshape(-1).view(np.uint8)[:] = np.frombuffer(part, np.uint8)
        return made.finish(made.array)

    def __repr__(self) -> str:
        return f"<tpde.LazyTensor {self.name} {self.dtype} {list(self.shape)}>"


class Lazy(Mapping[str, LazyTensor]):
    """A checkpoint whose tensors are read as they are asked for, by name: ``checkpoint["model.norm.weight"][:10]``.

    A tensor's name is ``file:name`` where two files have one of that name.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._tensors: dict[str, Tensor] = {}
        listed = checkpoint.tensors()
        names = [tensor.name for tensor in listed]
        twice = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
        for tensor in listed:
            name = f"{tensor.file}:{tensor.name}" if tensor.name in twice else tensor.name
            self._tensors[name] = tensor

    @property
    def commit(self) -> str:
        """Its id."""
        return self._checkpoint.commit

    @property
    def run(self) -> str | None:
        """The run that it is committed to."""
        return self._checkpoint.run

    @property
    def step(self) -> int:
        """Its training step."""
        return self._checkpoint.step

    @property
    def metrics(self) -> dict[str, float]:
        """What the trainer knew about it."""
        return self._checkpoint.metrics

    @property
    def note(self) -> str:
        """What somebody wanted to remember of it."""
        return self._checkpoint.note

    @property
    def files(self) -> list[str]:
        """Paths of its files."""
        return [file.path for file in self._checkpoint.files()]

    def read_file(self, path: str) -> bytes:
        """The bytes of one of its files."""
        file = next((file for file in self._checkpoint.files() if file.path == path), None)
        if file is None:
            raise NotFoundError(f"{path} is no file of {_state.shown(self._checkpoint)}. It has: {', '.join(self.files)}")
        return self._checkpoint.read_file(file.number)

    def __getitem__(self, name: str) -> LazyTensor:
        return LazyTensor(self._checkpoint, self._tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"<tpde.Lazy {_state.shown(self._checkpoint)}, {len(self)} tensors>"


def _framework(framework: str | None) -> str:
    if framework is None:
        return "numpy" if _arrays.torch_or_none() is None else "torch"
    if framework not in _FRAMEWORKS:
        raise InputError(f"framework {framework!r} is not known. It is one of {', '.join(_FRAMEWORKS)}")
    return framework


def _check_device(device: Any) -> None:
    if str(device).split(":")[0] != "cpu":
        raise InputError(f"device {device}: this version loads to the CPU only. Load, then move: tensor.to({str(device)!r})")


def _choose(checkpoint: Checkpoint, pattern: str | None, file: str | None) -> dict[str, Tensor]:
    listed = checkpoint.tensors()
    shown = _state.shown(checkpoint)
    if file is not None:
        listed = [tensor for tensor in listed if tensor.file == file]
    elif any(tensor.file == "model.safetensors" for tensor in listed) and _is_of_a_loop(checkpoint):
        listed = [tensor for tensor in listed if tensor.file == "model.safetensors"]
    if pattern is not None:
        wanted = re.compile("".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern), re.DOTALL)
        listed = [tensor for tensor in listed if wanted.fullmatch(tensor.name)]
    if not listed:
        what = f"a tensor like {pattern}" if pattern is not None else "a tensor"
        raise NotFoundError(
            f"{what} was not found in {shown}{f' in {file}' if file else ''}. Run `tpde ls {shown} --tensors` to see what there is"
        )
    chosen: dict[str, Tensor] = {}
    for tensor in listed:
        if tensor.name in chosen:
            raise InputError(
                f"{tensor.name} is in {chosen[tensor.name].file} and in {tensor.file} of {shown}. Name one of them: file=..."
            )
        chosen[tensor.name] = tensor
    return chosen


def _is_of_a_loop(checkpoint: Checkpoint) -> bool:
    return any(file.path == _state.STATE_FILE for file in checkpoint.files())


def _read(checkpoint: Checkpoint, chosen: Mapping[str, Tensor], framework: str) -> dict[str, Any]:
    made = {name: _arrays.empty(framework, tensor.dtype, tuple(tensor.shape), None, name) for name, tensor in chosen.items()}
    checkpoint.read_tensors([(chosen[name].number, empty.address, empty.len_bytes) for name, empty in made.items()])
    return {name: empty.finish(empty.array) for name, empty in made.items()}
