"""Storage for ``torch.distributed.checkpoint`` (DCP): shards of every rank as parts of one checkpoint of a run.

::

    dcp.save(state, storage_writer=StorageWriter("checkpoints", run="llama", step=100))
    dcp.load(state, storage_reader=StorageReader("checkpoints", "llama@100"))

A checkpoint of DCP consists of these files::

    rank-0.safetensors   the tensors that rank 0 writes: model.w if it is whole, model.w:@8,0 if it is the shard that begins there
    rank-0.bytes         its items that are no tensors, one after another, as DCP serialises them
    rank-1.…             as much for every other rank
    tpde-dcp.json        which item is where, and what else DCP knows (see tpde.torch._metadata)

Names stay what they are from step to step, so a shard is kept as what it differs from its last self. Items that are no tensors are pickles
of DCP's own planner, which opens them when it loads: load them from stores that you trust.
"""

from __future__ import annotations

import dataclasses
import io
import os
import re
import secrets
import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import (
    LoadItemType,
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.storage import StorageReader as _StorageReader
from torch.distributed.checkpoint.storage import StorageWriter as _StorageWriter
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from tpde import _arrays, _state
from tpde._arrays import Array
from tpde._commit import numbers, options, prune, settled
from tpde._errors import ConflictError, CorruptError, InputError, NotFoundError
from tpde._keep import Keep
from tpde._load import LazyTensor, open_store, store_of
from tpde._run import _step
from tpde._staging import Plan
from tpde._state import ArrayFile, Snapshot
from tpde._tpde import Checkpoint, SaveReport, Staging, Store, Tensor
from tpde.torch._metadata import StoredBytes, StoredTensor, decode, encode

__all__ = ["StorageReader", "StorageWriter"]

#: The file that says where everything is.
_METADATA_FILE = "tpde-dcp.json"
#: A file of bytes begins so: one item alone would be an archive of torch otherwise, whose tensors were the checkpoint's.
_BEGINNING = b"DCP\n"
_NAMED = re.compile(r"(?:(?P<run>[^@]+)@)?(?P<step>[0-9]+)\Z")


class _Part(NamedTuple):
    """Which part of a save a rank's plan is."""

    word: str
    number: int
    of: int


class StorageWriter(_StorageWriter):
    """Saves what DCP saves as a step of a run.

    * ``location``: a path, or a URL such as ``s3://bucket/prefix``. A store is made there if there is none.
    * ``run``, ``step``: what to save as. Without ``step``, every ``dcp.save`` names one: ``checkpoint_id="llama@100"``, or ``100``.
    * ``metrics``: numbers to find and keep it by; anything that ``float()`` takes.
    * ``replace``: let it stand for a step that the run holds with other content: after a resume from an earlier step.
    * ``keep``: which checkpoints of the run stay; all of them by default.
    * ``threads``: how many encode; by default a quarter of the cores.

    Every rank makes one, for one save at a time. Nothing is committed unless all ranks have stored their part; the coordinator does it then.

    Raises :class:`tpde.InputError`, :class:`tpde.NotFoundError` or :class:`tpde.BackendError` for a place or name that is none. What goes
    wrong later, DCP gathers from all ranks into its ``CheckpointException``, whose ``failures`` are errors of this package.
    """

    def __init__(
        self,
        location: str | os.PathLike[str],
        run: str,
        step: int | None = None,
        *,
        metrics: Mapping[str, float] | None = None,
        note: str = "",
        replace: bool = False,
        keep: Keep | None = None,
        threads: int | None = None,
    ) -> None:
        super().__init__()
        self._location = os.fspath(location)
        self._threads = threads or max(1, (os.cpu_count() or 1) // 4)
        self._run = run
        self._number = None if step is None else _step(step)
        self._metrics, self._note, self._replace, self._keep = numbers(metrics), note, replace, keep
        self._part = _Part("", 0, 0)
        self._opened: tuple[int, Store] | None = None
        #: What the last save did, on the rank that committed it.
        self.report: SaveReport | None = None
        # Says now that a name is none, or a store cannot be read.
        self._store().tip(run)

    def __getstate__(self) -> dict[str, Any]:
        # DCP hands it to another process that saves in the background; a store is opened there anew.
        return {**self.__dict__, "_opened": None, "report": None}

    def _store(self) -> Store:
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), open_store(self._location, True, self._threads))
        return self._opened[1]

    @property
    def checkpoint_id(self) -> str:
        """What it saves as: ``run@step``."""
        return f"{self._run}@{'?' if self._number is None else self._number}"

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Whether it is ``run@step``, or a step."""
        return _NAMED.match(str(checkpoint_id)) is not None

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Begins another save."""
        if checkpoint_id is None:
            return
        named = _NAMED.match(str(checkpoint_id))
        if named is None:
            raise InputError(f"checkpoint_id {str(checkpoint_id)!r} is no step. Write {self._run}@100, or 100")
        self._run, self._number = named["run"] or self._run, _step(int(named["step"]))

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """DCP says how it saves."""
        if not kwargs.get("use_collectives", True):
            raise InputError("use_collectives=False would make a checkpoint of each rank. Leave it out")

    def storage_meta(self) -> StorageMeta:
        """What DCP's log says of the save."""
        return StorageMeta(checkpoint_id=self.checkpoint_id)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Says what this rank saves as, for the coordinator to compare."""
        if self._number is None:
            raise InputError(f'no step is named. Pass step=..., or dcp.save(..., checkpoint_id="{self._run}@100")')
        _refuse_cached(plan)
        return dataclasses.replace(plan, storage_data=self.checkpoint_id)

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Gives every rank its part. The last part is the coordinator's metadata."""
        for rank, plan in enumerate(plans):
            _refuse_cached(plan)
            if plan.storage_data != self.checkpoint_id:
                raise InputError(
                    f"rank {rank} saves {plan.storage_data}, the coordinator {self.checkpoint_id}. Save the same step on all ranks"
                )
        word = secrets.token_hex(8)
        self._part = _Part(word, len(plans), len(plans) + 1)
        return [dataclasses.replace(plan, storage_data=_Part(word, rank, len(plans) + 1)) for rank, plan in enumerate(plans)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Stores this rank's part."""
        part: _Part = plan.storage_data
        name = f"rank-{part.number}"
        arrays: dict[str, Array] = {}
        rest = bytearray(_BEGINNING)
        results = []
        for item in plan.items:
            resolved = planner.resolve_data(item)
            stored: StoredTensor | StoredBytes
            if item.type == WriteItemType.BYTE_IO:
                begins = len(rest)
                rest += resolved.getbuffer()  # type: ignore[union-attr]
                stored = StoredBytes(f"{name}.bytes", begins, len(rest))
                len_bytes = len(rest) - begins
            else:
                array = _arrays.look(resolved.detach().cpu(), item.index.fqn)  # type: ignore[union-attr]
                if array is None:
                    raise InputError(f"{item.index.fqn}: the planner gave a {type(resolved).__name__} for a tensor")
                tensor_name = _name_of(item, arrays)
                arrays[tensor_name] = array
                stored = StoredTensor(f"{name}.safetensors", tensor_name, array.was)
                len_bytes = array.len_bytes
            results.append(WriteResult(index=item.index, size_in_bytes=len_bytes, storage_data=stored))
        files = [ArrayFile(f"{name}.safetensors", _state.header(arrays), list(arrays.values()))] if arrays else []
        copies = Plan([Snapshot(files, (f"{name}.bytes", bytes(rest)))])
        staging = Staging(copies.len_bytes, self._threads)
        copies.fill(staging, self._threads)
        self._store().save_part(copies.files(staging), self._run, _step(self._number), part.word, part.number, part.of)
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Stores the metadata and commits."""
        metadata.storage_data = {result.index: result.storage_data for rank in results for result in rank}
        metadata.storage_meta = self.storage_meta()
        store, step, part = self._store(), _step(self._number), self._part
        store.save_part([(_METADATA_FILE, [encode(metadata)])], self._run, step, part.word, part.number, part.of)
        told = options(self._metrics, self._note, self._replace)
        try:
            self.report = settled(lambda: store.commit_parts(self._run, step, part.word, told))
        except NotFoundError as error:
            raise NotFoundError(f"{error}. See whether all ranks see the same store") from error
        except ConflictError as error:
            raise ConflictError(
                f"{self.checkpoint_id} is not saved: {error}. Here that is replace=True, or a run of another name"
            ) from error
        prune(store, self._run, self._keep, step)


def _refuse_cached(plan: SavePlan) -> None:
    """A plan that DCP takes from its cache names the part of an earlier save."""
    if not getattr(plan, "usable", True):
        raise InputError("enable_plan_caching keeps plans of earlier saves. Leave it out of the planner")


def _name_of(item: WriteItem, taken: Mapping[str, Array]) -> str:
    """What a tensor is called in its file: the same from step to step."""
    name, written = item.index.fqn, item.tensor_data
    if written is not None and tuple(written.chunk.sizes) != tuple(written.size):
        # A part of its own, so that what a tensor is to the training is still told by its name.
        name += ":@" + ",".join(map(str, written.chunk.offsets))
    while name in taken or name == "__metadata__":
        name += "~"
    return name


class StorageReader(_StorageReader):
    """Loads what :class:`StorageWriter` saved, on as many ranks as there are now, sharded as it is now.

    * ``location``: a path, a URL or an open store; ``None`` for what ``TPDE_STORE`` says.
    * ``reference``: ``run@step``, ``run@latest``, ``run~2``, a tag or the beginning of an id. Without it, every ``dcp.load`` names one as its
      ``checkpoint_id``.

    What of a shard is asked for in whole rows is read alone; otherwise the shard is, and cut. Every tensor is verified.

    Raises :class:`tpde.NotFoundError` if there is no such checkpoint, :class:`tpde.InputError` if DCP did not save it.
    """

    def __init__(self, location: Store | str | os.PathLike[str] | None = None, reference: str | None = None) -> None:
        super().__init__()
        self._location = location
        self._reference = reference
        self._found: tuple[Checkpoint, Metadata] | None = None
        self._tensors: dict[tuple[str, str], Tensor] = {}
        if reference is not None:
            # What is wrong with it is raised here as it is; DCP would wrap it.
            self._find()

    @property
    def checkpoint_id(self) -> str:
        """What it loads."""
        return self._reference or ""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Whether it may name a checkpoint."""
        return "@" in str(checkpoint_id)

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Begins another load."""
        self._found = None
        if checkpoint_id is not None:
            self._reference = str(checkpoint_id)
            self._find()

    def _find(self) -> tuple[Checkpoint, Metadata]:
        if self._found is None:
            if self._reference is None:
                raise InputError(
                    'no checkpoint is named. Pass reference="llama@100", or dcp.load(..., checkpoint_id="llama@100")'
                )
            checkpoint = store_of(self._location).checkpoint(self._reference)
            shown = _state.shown(checkpoint)
            file = next((file for file in checkpoint.files() if file.path == _METADATA_FILE), None)
            if file is None:
                raise InputError(
                    f"{shown} was not saved by torch.distributed.checkpoint. Resume it with run.resume(...), or load its tensors with tpde.load"
                )
            metadata = decode(checkpoint.read_file(file.number), shown)
            metadata.storage_meta = StorageMeta(shown, checkpoint.commit, uuid.uuid4().hex)
            self._tensors = {(tensor.file, tensor.name): tensor for tensor in checkpoint.tensors()}
            self._found = checkpoint, metadata
        return self._found

    # DCP asks readers that take more for metadata of a rank, too, which there are none of.
    def read_metadata(self) -> Metadata:
        """What DCP knows about the checkpoint."""
        return self._find()[1]

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """DCP says how it loads."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Says what this rank found, for the coordinator to compare."""
        return dataclasses.replace(plan, storage_data=self._find()[0].commit)

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Sees to it that all ranks load the same checkpoint."""
        if len({plan.storage_data for plan in plans}) > 1:
            raise ConflictError(
                f"{self._reference} was another checkpoint for some ranks than for others. Name a step, and see whether all see the same store"
            )
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Reads what this rank needs."""
        checkpoint, metadata = self._find()
        files: dict[str, bytes] = {}
        whole: list[tuple[ReadItem, torch.Tensor, Tensor]] = []
        rest: dict[StoredTensor, list[tuple[ReadItem, torch.Tensor]]] = {}
        for item in plan.items:
            stored = self._stored(metadata, item)
            if isinstance(stored, StoredBytes):
                planner.load_bytes(item, io.BytesIO(self._bytes(checkpoint, stored, files)))
                continue
            target = planner.resolve_tensor(item).detach()
            tensor = self._tensor(stored)
            if stored.was is None and _takes(target, tensor, item):
                whole.append((item, target, tensor))
            else:
                rest.setdefault(stored, []).append((item, target))
        checkpoint.read_tensors([(tensor.number, target.data_ptr(), tensor.len_bytes) for _, target, tensor in whole])
        for item, target, _ in whole:
            planner.commit_tensor(item, target)
        for stored, asked in rest.items():
            shard = _Shard(checkpoint, self._tensor(stored), stored.was)
            for item, target in asked:
                if target.numel():
                    target.copy_(shard.part(list(item.storage_offsets), list(item.lengths)))
                planner.commit_tensor(item, target)
        # The same reference may stand for a later checkpoint when it is loaded again.
        self._found = None
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _stored(self, metadata: Metadata, item: ReadItem) -> StoredTensor | StoredBytes:
        stored: StoredTensor | StoredBytes | None = metadata.storage_data.get(item.storage_index)
        if stored is None or isinstance(stored, StoredBytes) != (item.type == LoadItemType.BYTE_IO):
            raise CorruptError(f"{self._reference}: {_METADATA_FILE} does not say where {item.storage_index} is")
        return stored

    def _tensor(self, stored: StoredTensor) -> Tensor:
        tensor = self._tensors.get((stored.file, stored.name))
        if tensor is None:
            raise CorruptError(f"{self._reference}: {stored.file} lacks {stored.name}, which {_METADATA_FILE} names")
        return tensor

    def _bytes(self, checkpoint: Checkpoint, stored: StoredBytes, files: dict[str, bytes]) -> bytes:
        if stored.file not in files:
            file = next((file for file in checkpoint.files() if file.path == stored.file), None)
            if file is None:
                raise CorruptError(f"{self._reference} lacks {stored.file}, which {_METADATA_FILE} names")
            files[stored.file] = checkpoint.read_file(file.number)
        found = files[stored.file][stored.start : stored.end]
        if len(found) != stored.end - stored.start:
            raise CorruptError(f"{self._reference}: {stored.file} ends before byte {stored.end}, which {_METADATA_FILE} names")
        return found


def _takes(target: torch.Tensor, tensor: Tensor, item: ReadItem) -> bool:
    """Whether the bytes of a stored tensor, all of them, are those of ``target``."""
    return (
        list(item.lengths) == list(target.shape) == tensor.shape
        and target.device.type == "cpu"
        and target.is_contiguous()
        and not (target.is_conj() or target.is_neg())
        and _arrays.code_of(target.dtype) == tensor.dtype
    )


class _Shard:
    """A stored tensor of which parts are asked for."""

    def __init__(self, checkpoint: Checkpoint, tensor: Tensor, was: str | None) -> None:
        self._checkpoint, self._tensor, self._was = checkpoint, tensor, was
        self._whole: torch.Tensor | None = None

    def part(self, offsets: list[int], lengths: list[int]) -> torch.Tensor:
        """A box of its elements."""
        shape = self._tensor.shape[:-1] if self._was is not None else self._tensor.shape
        if len(offsets) != len(shape) or any(o + n > s for o, n, s in zip(offsets, lengths, shape, strict=True)):
            raise CorruptError(f"{self._tensor.name} has the shape {shape}, {lengths} at {offsets} are asked for")
        if self._whole is None and lengths[1:] == shape[1:] and lengths[:1] != shape[:1]:
            rows: torch.Tensor = LazyTensor(self._checkpoint, self._tensor)[offsets[0] : offsets[0] + lengths[0]]
            return torch.view_as_complex(rows) if self._was is not None else rows
        if self._whole is None:
            made = _arrays.empty("torch", self._tensor.dtype, tuple(self._tensor.shape), self._was, self._tensor.name)
            self._checkpoint.read_tensors([(self._tensor.number, made.address, made.len_bytes)])
            self._whole = made.finish(made.array)
        return self._whole[tuple(slice(o, o + n) for o, n in zip(offsets, lengths, strict=True))]
