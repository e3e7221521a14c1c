"""Lightning's Trainer, whose checkpoints are those of a run::

    saver = TpdeCheckpointIO("ckpts", run="resnet")
    trainer = Trainer(plugins=[saver], callbacks=[ModelCheckpoint("out", save_top_k=2, save_last="link", monitor="val_loss")])
    trainer.fit(model, data, ckpt_path="last")

At the path of a checkpoint stands a small file that names the commit, so that ModelCheckpoint finds, links and removes it as ever::

    state_dict        ─▶ model.safetensors      ─┐
    optimizer_states  ─▶ optimizer.safetensors   ├─▶ commit of step global_step ─▶ out/epoch=3-step=500.ckpt
    the rest          ─▶ tpde-state.json, …     ─┘

Of several checkpoints of one step, those that differ from the first go to the runs ``resnet.2``, ``resnet.3``, …; what they have in common is
stored once. A path thus always means what was saved to it.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from tpde._commit import Committer, StepTakenError, numbers, open_to_save, storable
from tpde._errors import InputError, NotFoundError
from tpde._keep import Keep
from tpde._load import store_of
from tpde._newest import take_newest
from tpde._ranks import Alone
from tpde._run import Handle, Run
from tpde._state import Saved, shown
from tpde._tpde import Checkpoint, SaveReport, Store
from tpde._worker import Job

# Both packages are the same code under two names: that of the Trainer in use is taken.
if TYPE_CHECKING:
    from lightning.fabric.plugins import CheckpointIO, TorchCheckpointIO
    from lightning.fabric.utilities.cloud_io import _is_local_file_protocol, get_filesystem
elif "lightning" not in sys.modules and ("pytorch_lightning" in sys.modules or find_spec("lightning") is None):
    from lightning_fabric.plugins import CheckpointIO, TorchCheckpointIO
    from lightning_fabric.utilities.cloud_io import _is_local_file_protocol, get_filesystem
else:
    from lightning.fabric.plugins import CheckpointIO, TorchCheckpointIO
    from lightning.fabric.utilities.cloud_io import _is_local_file_protocol, get_filesystem

__all__ = ["TpdeCheckpointIO", "load"]

#: Keys of Lightning's dict that have a component of their own, whose file other tools then know.
_COMPONENTS = {"state_dict": "model", "optimizer_states": "optimizer"}
#: Component of the rest.
_REST = "lightning"
#: What a path begins with that is a reference to a checkpoint.
_SCHEME = "tpde:"
#: Key of the version of a pointer, and the version.
_MARK, _VERSION = "tpde", 1
#: A pointer is smaller than this, in bytes.
_MAX_POINTER_LEN = 1 << 16
#: The two places that a Trainer may have its interface from.
_INTERFACES = ("lightning.fabric.plugins", "lightning_fabric.plugins")


class TpdeCheckpointIO(CheckpointIO):
    """Saves Lightning's checkpoints to a run of a store, in the background.

    * ``location``: a path, or a URL such as ``s3://bucket/prefix``. A store is made there if there is none, unless ``create`` is false.
    * ``run``: its name.
    * ``keep``: which checkpoints of the run stay; all of them by default. A path whose checkpoint was forgotten can be loaded until
      ``tpde gc`` deletes what is in it.
    * ``threads``, ``copy_threads``, ``staging_bytes``: as for :func:`tpde.open`.
    * ``allow_pickle``: keep objects that are no data, such as those among the hyper-parameters, as pickles.

    Removing a path, as ``save_top_k`` does, leaves the checkpoint in the store: ``keep`` says what is forgotten there. What a save failed with
    is raised at the next save or load, and at the end of ``fit``, which waits for all saves.
    """

    def __init__(
        self,
        location: str | os.PathLike[str],
        run: str,
        *,
        keep: Keep | None = None,
        create: bool = True,
        threads: int | None = None,
        copy_threads: int | None = None,
        staging_bytes: int | None = None,
        allow_pickle: bool = False,
    ) -> None:
        self._location, self._name = _absolute(os.fspath(location)), run
        self._keep, self._create, self._threads = keep, create, threads
        self._copy_threads, self._staging_bytes = copy_threads, staging_bytes
        self._allow_pickle = allow_pickle
        self._forget_run()
        for interface in _INTERFACES:
            if interface in sys.modules:
                sys.modules[interface].CheckpointIO.register(type(self))

    def _forget_run(self) -> None:
        self._store: Store | None = None
        self._run: Run | None = None
        #: Of the run, and of the further ones for other checkpoints of its steps.
        self._committers: list[Committer] = []
        #: Whether a save failed of which the Trainer does not know yet.
        self._has_failed = False

    def __getstate__(self) -> dict[str, Any]:
        # A process that Lightning starts opens the run itself.
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy._forget_run()
        return copy.__dict__

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Saves Lightning's dict; returns once it is copied. The pointer at ``path`` is written once it is committed.

        * ``storage_options``: ``{"metrics": …, "note": …}`` for the checkpoint; by default what ModelCheckpoint monitors.

        Raises :class:`tpde.InputError`, naming the place, for what cannot be kept as data.
        """
        began = time.perf_counter()
        path = os.fspath(path)
        if os.path.basename(path).startswith("."):
            # Lightning's own notes, such as those of its tuner: they are loaded and removed in a moment.
            TorchCheckpointIO().save_checkpoint(checkpoint, path)
            return
        step = checkpoint.get("global_step")
        if not isinstance(step, int):
            raise InputError(
                f"{path}: what is to be saved is no checkpoint of Lightning's Trainer, for it has no global_step. "
                "With Fabric or a loop of your own use tpde.open(...)"
            )
        metrics, note = _described(checkpoint, storage_options)
        store, run = self._open()
        run._worker.check()
        parts = _parts(checkpoint)
        handle = Handle(step)
        used: list[Committer] = []

        def commit(files: list[Any]) -> None:
            try:
                committer, report = self._commit(store, files, step, metrics, note)
                used.append(committer)
                handle._report = report
                _write_pointer(path, _pointer(store, committer.run, step, report.commit))
            except BaseException:
                self._has_failed = True
                _remove_claim(path)
                raise
            self._has_failed = False

        def finish() -> None:
            handle.forgotten = used[0].prune(step)

        is_claimed = _claim(path, _pointer(store, self._name, step, None))
        try:
            run._in_background(handle, began, {"": parts}, self._allow_pickle, commit, finish)
        except BaseException:
            if is_claimed:
                _remove_claim(path)
            raise

    def _commit(
        self, store: Store, files: list[Any], step: int, metrics: dict[str, float], note: str
    ) -> tuple[Committer, SaveReport]:
        """Commits to the first run that does not hold the step with other content."""
        number = 0
        while True:
            if number == len(self._committers):
                self._committers.append(Committer(store, f"{self._name}.{number + 1}", self._keep))
            committer = self._committers[number]
            # Most likely the first run has the same weights.
            parent = self._committers[0].tip if number else None
            options = committer.options(step, metrics, note, False, parent)
            save = partial(store.save, files, committer.run, step)
            try:
                report = committer.commit(save, step, options)
            except StepTakenError:
                number += 1
                continue
            assert report is not None
            return committer, report

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Any | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Lightning's dict of a checkpoint, every tensor of it verified. Waits for saves that are going on.

        * ``path``: of a pointer, or a file that Lightning itself wrote; or ``tpde:latest``, ``tpde:500`` (a step), ``tpde:run@500`` and
          whatever else names a checkpoint of the store. For ``tpde:latest``, one that is damaged is passed over for the one before.
        * ``map_location``: as for ``torch.load``; by default the tensors are on the CPU.
        """
        if self._run is not None and self._run._worker.pid == os.getpid():
            self._run.flush()
        text = os.fspath(path)
        if text.startswith(_SCHEME):
            return _moved(self._referred(text.removeprefix(_SCHEME)), map_location)
        pointer = _read_pointer(text)
        if pointer is None:
            loaded: dict[str, Any] = TorchCheckpointIO().load_checkpoint(text, map_location, weights_only)
            return loaded
        return _moved(_lightning(_named(pointer, text, self._location), self._allow_pickle), map_location)

    def _referred(self, reference: str) -> dict[str, Any]:
        store = store_of(self._location)
        if reference != "latest":
            checkpoint = store.checkpoint(f"{self._name}@{reference}" if reference.isdecimal() else reference)
            return _lightning(checkpoint, self._allow_pickle)
        taken: list[dict[str, Any]] = []
        step = take_newest(
            store,
            self._name,
            lambda step: taken.append(_lightning(store.checkpoint(f"{self._name}@{step}"), self._allow_pickle)),
        )
        if step is None:
            raise NotFoundError(f"run {self._name} has no checkpoint. Begin without ckpt_path")
        return taken[0]

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Removes the pointer, once what was saved before is committed. The checkpoint stays in the store; see ``keep``."""
        path = os.fspath(path)

        def work() -> None:
            # What was to take its place is not there.
            if not self._has_failed:
                TorchCheckpointIO().remove_checkpoint(path)

        if self._run is not None and self._run._worker.is_busy():
            self._run._worker.put(Job(work))
        else:
            work()

    def teardown(self) -> None:
        """Waits for the saves that are going on; raises what one of them failed with."""
        try:
            if self._run is not None:
                self._run.close()
        finally:
            self._forget_run()

    def _open(self) -> tuple[Store, Run]:
        if self._store is None or self._run is None or self._run._worker.pid != os.getpid():
            self._store = open_to_save(self._location, self._create, self._threads)
            # Of the ranks of a Trainer only the first saves, and it saves everything.
            self._run = Run(
                self._store, self._name, self._keep, self._copy_threads, self._staging_bytes, ranks=Alone(by_choice=True)
            )
            self._committers = [self._run._committer]
        return self._store, self._run


def load(
    path: str | os.PathLike[str],
    *,
    store: Store | str | os.PathLike[str] | None = None,
    map_location: Any | None = None,
    allow_pickle: bool = False,
) -> dict[str, Any]:
    """Lightning's dict of the checkpoint that a pointer names: ``model.load_state_dict(load("out/last.ckpt")["state_dict"])``.

    * ``store``: where the checkpoint is, if the store was moved; by default where the pointer says.
    * ``map_location``: as for ``torch.load``; by default the tensors are on the CPU.
    * ``allow_pickle``: open pickles that are in it, which may run anything.
    """
    text = os.fspath(path)
    pointer = _read_pointer(text)
    if pointer is None:
        raise InputError(f"{text} names no checkpoint of a store. Load it with torch.load")
    return _moved(_lightning(_named(pointer, text, store), allow_pickle), map_location)


def _absolute(location: str) -> str:
    """A place that a pointer can name, whatever the working directory of who reads it."""
    return location if "://" in location else os.path.abspath(location)


def _parts(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Lightning's dict as components."""
    rest = {key: _on(value, _to_cpu) for key, value in checkpoint.items()}
    parts = {name: rest.pop(key) for key, name in _COMPONENTS.items() if key in rest}
    return {**parts, _REST: rest}


def _lightning(checkpoint: Checkpoint, allow_pickle: bool) -> dict[str, Any]:
    """Inverse of :func:`_parts`, from a store."""
    saved = Saved(checkpoint)
    if _REST not in saved.components:
        raise InputError(
            f"{shown(checkpoint)} was not saved by Lightning's Trainer. It has: {', '.join(saved.components)}. "
            "Resume it with tpde.open(...), or load its tensors with tpde.load"
        )
    parts = saved.load([name for name in (*_COMPONENTS.values(), _REST) if name in saved.components], allow_pickle)
    rest: dict[str, Any] = parts.pop(_REST)
    return {**rest, **{key: parts[name] for key, name in _COMPONENTS.items() if name in parts}}


def _described(checkpoint: Mapping[str, Any], storage_options: Any | None) -> tuple[dict[str, float], str]:
    """Metrics and note of a checkpoint."""
    if storage_options is not None:
        if not isinstance(storage_options, Mapping) or not set(storage_options) <= {"metrics", "note"}:
            raise InputError(f'storage_options is {storage_options!r}. Pass a dict with "metrics" and "note", or None')
        return numbers(storage_options.get("metrics")), str(storage_options.get("note", ""))
    metrics = {}
    for state in (checkpoint.get("callbacks") or {}).values():
        # What ModelCheckpoint says of itself.
        if isinstance(state, Mapping) and isinstance(state.get("monitor"), str) and state.get("current_score") is not None:
            metrics[state["monitor"]] = state["current_score"]
    return storable(numbers(metrics)), ""


def _on(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same containers with other tensors."""
    if isinstance(value, torch.Tensor):
        return change(value)
    kind = type(value)
    if kind in (list, tuple):
        return kind(_on(item, change) for item in value)
    if kind in (dict, OrderedDict):
        made = kind((key, _on(item, change)) for key, item in value.items())
        if hasattr(value, "_metadata"):
            made.__dict__["_metadata"] = value._metadata
        return made
    return value


def _to_cpu(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.device.type == "cpu" else tensor.cpu()


def _moved(checkpoint: dict[str, Any], map_location: Any | None) -> dict[str, Any]:
    """What ``torch.load`` does with tensors of the CPU."""

    def move(tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(map_location, Mapping):
            return tensor.to(map_location.get("cpu", "cpu"))
        if callable(map_location):
            storage = map_location(tensor.untyped_storage(), "cpu")
            return tensor if storage is None else tensor.to(storage.device)
        return tensor.to(map_location)

    moved: dict[str, Any] = checkpoint if map_location is None else _on(checkpoint, move)
    return moved


def _pointer(store: Store, run: str, step: int, commit: str | None) -> dict[str, Any]:
    """What stands at a path.

    * ``commit``: ``None`` before there is one.
    """
    return {_MARK: _VERSION, "store": store.location, "run": run, "step": step, "commit": commit}


def _named(pointer: dict[str, Any], path: str, place: Store | str | os.PathLike[str] | None) -> Checkpoint:
    """The checkpoint of a pointer.

    * ``place``: the store to look in first; if it is not there, the one that the pointer names.

    Raises :class:`NotFoundError` if it is in none, or was never committed.
    """
    commit, where = pointer["commit"], f"{pointer['run']}@{pointer['step']}"
    if commit is None:
        raise NotFoundError(
            f"{path}: the process that saved {where} ended before it was committed. "
            f"Run `tpde log {pointer['run']}` to see what there is, and load tpde:{pointer['run']}@latest"
        )
    places = [pointer["store"]] if place is None else [place, pointer["store"]]
    for number, candidate in enumerate(places):
        try:
            return store_of(candidate).checkpoint(commit)
        except NotFoundError as error:
            if number + 1 == len(places):
                raise NotFoundError(
                    f"{path}: {where} ({commit[:12]}) is not in {pointer['store']} ({error}). "
                    "If the store was moved, name its place; if keep had it forgotten, `tpde gc` has deleted it"
                ) from error
    raise AssertionError("a pointer names a store")


def _write_pointer(path: str, pointer: dict[str, Any]) -> None:
    """Puts a pointer at a path: the old one is there until the new one is, whole."""
    text = (json.dumps(pointer) + "\n").encode()
    files = get_filesystem(path)
    files.makedirs(os.path.dirname(path), exist_ok=True)
    if not _is_local_file_protocol(path):
        with files.open(path, "wb") as file:
            file.write(text)
        return
    local = files._strip_protocol(path)
    unfinished = f"{os.path.dirname(local)}/.tpde-{secrets.token_hex(4)}.partial"
    try:
        with open(unfinished, "xb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, local)
    except BaseException:
        if os.path.exists(unfinished):
            os.remove(unfinished)
        raise


def _read_pointer(path: str) -> dict[str, Any] | None:
    """What stands at a path; ``None`` if that is no pointer.

    Raises :class:`FileNotFoundError` if there is nothing, :class:`InputError` for a pointer of another version.
    """
    files = get_filesystem(path)
    if not files.exists(path):
        raise FileNotFoundError(f"Checkpoint file not found: {path}")
    if not files.isfile(path) or files.size(path) > _MAX_POINTER_LEN:
        return None
    with files.open(path, "rb") as file:
        text = file.read()
    try:
        pointer = json.loads(text)
    except ValueError:
        return None
    if not isinstance(pointer, dict) or _MARK not in pointer:
        return None
    if pointer[_MARK] != _VERSION or not {"store", "run", "step", "commit"} <= set(pointer):
        raise InputError(f"{path} was written by another version of tpde. Load it with that one")
    return pointer


def _claim(path: str, pointer: dict[str, Any]) -> bool:
    """Lets something stand at a path where nothing does, for ModelCheckpoint looks whether a name is taken.

    * ``pointer``: one without a commit. What is there already stays until there is something better.

    Gives whether nothing was there.
    """
    if get_filesystem(path).exists(path):
        return False
    _write_pointer(path, pointer)
    return True


def _remove_claim(path: str) -> None:
    """Removes a pointer that has got no commit."""
    try:
        pointer = _read_pointer(path)
    except FileNotFoundError:
        return
    if pointer is not None and pointer["commit"] is None:
        get_filesystem(path).rm(path)
