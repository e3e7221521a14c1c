"""The state of a training loop as the files of a checkpoint, and back.

::

    model, optimizer, …  ─ state_dict ─▶ tree + arrays ─▶ tpde-state.json, model.safetensors, optimizer.safetensors, …

Every component has a safetensors file of its own arrays, under the names that its state has for them, so that other tools read them; the
rest of all states is one JSON file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from tpde import _arrays, _tree
from tpde._arrays import Array
from tpde._errors import CorruptError, InputError, NotFoundError, TpdeError
from tpde._tpde import Checkpoint, Tensor

#: The file that has all but the arrays.
STATE_FILE = "tpde-state.json"
#: Version of that file.
FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}\Z")


class ArrayFile(NamedTuple):
    """A safetensors file that is to be written."""

    path: str
    header: bytes
    #: In the order of the file.
    arrays: list[Array]


class Snapshot(NamedTuple):
    """What is to be saved, its arrays still where the training loop has them."""

    files: list[ArrayFile]
    #: Path of the file that has the rest, and what is in it.
    state: tuple[str, bytes]


def capture(components: Mapping[str, Any], folder: str = "", allow_pickle: bool = False) -> Snapshot:
    """Looks at the state of every component.

    * ``folder``: what the files' paths begin with.

    Raises :class:`InputError`, naming the place, for what cannot be saved.
    """
    files, trees = [], {}
    for name, component in components.items():
        if not _NAME.match(name):
            raise InputError(f"component {name!r}: its name becomes a file's. Use letters, digits, - and _")
        flattened = _tree.flatten(state_of(component, name), name, allow_pickle)
        trees[name] = flattened.tree
        if flattened.arrays:
            arrays = list(flattened.arrays.values())
            files.append(ArrayFile(f"{folder}{name}.safetensors", header(flattened.arrays), arrays))
    state = {"format": FORMAT, "components": trees}
    text = json.dumps(state, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Snapshot(files, (folder + STATE_FILE, text.encode("utf-8", "surrogatepass")))


def state_of(component: Any, name: str) -> Any:
    """What a component has to be kept of it: its ``state_dict``, or itself if it is data."""
    if hasattr(component, "state_dict"):
        return component.state_dict()
    if isinstance(component, (Mapping, list, tuple)) or _arrays.look(component, name) is not None:
        return component
    hint = "Pass an object with state_dict() and load_state_dict(), or a dict of data"
    if name == "dataloader":
        hint = "Use torchdata.stateful_dataloader.StatefulDataLoader, or keep your own position in a dict"
    raise InputError(f"{name}: {type(component).__name__} has no state_dict. {hint}")


def header(arrays: Mapping[str, Array]) -> bytes:
    """A safetensors header for arrays that follow one another in this order."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, array in arrays.items():
        end = at + array.len_bytes
        entries[name] = {"dtype": array.dtype, "shape": list(array.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    # The data starts at a multiple of eight.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


class Saved:
    """A checkpoint that :func:`capture` made the files of."""

    def __init__(self, checkpoint: Checkpoint, folder: str = "") -> None:
        """Raises :class:`NotFoundError` if it was not saved from a training loop, :class:`CorruptError` if it does not hold together."""
        self.checkpoint = checkpoint
        self.folder = folder
        file = next((file for file in checkpoint.files() if file.path == folder + STATE_FILE), None)
        if file is None:
            raise NotFoundError(
                f"{shown(checkpoint)}: {folder + STATE_FILE} was not found. "
                "It was not saved with run.save(...): load its tensors with tpde.load, or restore its files"
            )
        try:
            state = json.loads(checkpoint.read_file(file.number).decode("utf-8", "surrogatepass"))
            version, self.components = state["format"], dict(state["components"])
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptError(f"{file.path} of {shown(checkpoint)} is not what was saved: {error}") from error
        if version != FORMAT:
            raise InputError(f"{shown(checkpoint)} was saved by another version of tpde. Load it with that one")

    def load(self, names: list[str], allow_pickle: bool = False) -> dict[str, Any]:
        """The states of some components; every array is verified.

        Raises :class:`InputError` for one that it does not have, :class:`CorruptError` for one that cannot be decoded.
        """
        missing = [name for name in names if name not in self.components]
        if missing:
            raise InputError(
                f"{shown(self.checkpoint)} has no {', '.join(missing)}. It has: {', '.join(self.components) or 'nothing'}"
            )
        tensors = {(tensor.file, tensor.name): tensor for tensor in self.checkpoint.tensors()}
        wanted: dict[tuple[str, str], _arrays.Empty] = {}
        reads = []
        for component in names:
            file = f"{self.folder}{component}.safetensors"
            for name, library, was in _tree.arrays_of(self.components[component]):
                tensor = self._tensor(tensors, file, name)
                made = _arrays.empty(library, tensor.dtype, tuple(tensor.shape), was, f"{component}.{name}")
                wanted[file, name] = made
                reads.append((tensor.number, made.address, made.len_bytes))
        self.checkpoint.read_tensors(reads)
        loaded = {}
        for component in names:
            file = f"{self.folder}{component}.safetensors"

            def array(name: str, library: str, was: str | None, file: str = file) -> Any:
                made = wanted[file, name]
                return made.finish(made.array)

            loaded[component] = _tree.unflatten(self.components[component], array, component, allow_pickle)
        return loaded

    def _tensor(self, tensors: Mapping[tuple[str, str], Tensor], file: str, name: str) -> Tensor:
        tensor = tensors.get((file, name))
        if tensor is None:
            raise CorruptError(f"{shown(self.checkpoint)}: {file} lacks {name}, which its {STATE_FILE} names")
        return tensor


def check(component: Any, state: Any, name: str) -> None:
    """Refuses a state that does not fit, before any component is touched; what has rules of its own tells when it is loaded.

    Raises :class:`InputError`, with the names or shapes that do not fit.
    """
    torch = _arrays.torch_or_none()
    if torch is None or not isinstance(component, torch.nn.Module) or not isinstance(state, Mapping):
        return
    if type(component).load_state_dict is not torch.nn.Module.load_state_dict or any(
        module._load_state_dict_pre_hooks for module in component.modules()
    ):
        return
    live = component.state_dict()
    lacking, unknown = [key for key in live if key not in state], [key for key in state if key not in live]
    hint = "Build the model as it was when the checkpoint was saved, or leave it out"
    if lacking or unknown:
        what = [f"the checkpoint lacks {some(lacking)}"] * bool(lacking) + [f"the module lacks {some(unknown)}"] * bool(unknown)
        raise InputError(f"{name}: {' and '.join(what)}. {hint}")
    for key, value in live.items():
        saved = state[key]
        if isinstance(value, torch.Tensor) and isinstance(saved, torch.Tensor) and value.shape != saved.shape:
            raise InputError(
                f"{name}.{key}: its shape is {tuple(saved.shape)} in the checkpoint and {tuple(value.shape)} in the module. {hint}"
            )


def some(names: list[str]) -> str:
    """The first few of many names."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def apply(component: Any, state: Any, name: str) -> None:
    """Gives a component its state back.

    Raises :class:`InputError` if it refuses: it may then have taken some of it.
    """
    if hasattr(component, "load_state_dict"):
        try:
            component.load_state_dict(state)
        except TpdeError:
            raise
        except Exception as error:
            raise InputError(
                f"{name}: it does not take the state that was saved: {error}. "
                "Build it as it was when the checkpoint was saved, or leave it out"
            ) from error
        _undo_casts(component, state)
    elif isinstance(component, dict):
        component.clear()
        component.update(state)
    elif isinstance(component, list):
        component[:] = state
    else:
        raise InputError(f"{name}: {type(component).__name__} has no load_state_dict. Pass an object that has, or a dict")


def _undo_casts(component: Any, state: Any) -> None:
    """Torch's optimizers cast what they load to the dtype of the parameter: puts the saved values back where one did."""
    torch = _arrays.torch_or_none()
    if torch is None or not isinstance(component, torch.optim.Optimizer) or not isinstance(state, dict):
        return
    numbers = [number for group in state.get("param_groups", ()) for number in group["params"]]
    params = [param for group in component.param_groups for param in group["params"]]
    for number, param in zip(numbers, params, strict=False):
        saved, live = state["state"].get(number), component.state.get(param)
        if not isinstance(saved, dict) or not isinstance(live, dict):
            continue
        for key, value in saved.items():
            now = live.get(key)
            if isinstance(value, torch.Tensor) and isinstance(now, torch.Tensor) and now.dtype != value.dtype:
                live[key] = value.to(now.device)


def shown(checkpoint: Checkpoint) -> str:
    """A checkpoint for a message."""
    return f"{checkpoint.run}@{checkpoint.step}" if checkpoint.run else checkpoint.commit[:12]
