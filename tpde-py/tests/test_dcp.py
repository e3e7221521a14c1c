"""Checkpoints of torch.distributed.checkpoint in a store, saved and loaded by real processes."""

import dataclasses
import io
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import tpde
import tpde.torch.dcp as storage
from processes import die, run_ranks, values
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict_from_keys
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from tpde.torch import _metadata
from tpde.torch.dcp import StorageReader, StorageWriter

# DCP says so of every save and load of a single process.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPDE_CACHE_DIR", str(tmp_path / "cache"))


def assert_same(one: Any, other: Any) -> None:
    """Fails unless two states are the same, bit for bit."""
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert one.contiguous().view(-1).view(torch.uint8).equal(other.contiguous().view(-1).view(torch.uint8))
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_same(value, other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for value, others in zip(one, other, strict=True):
            assert_same(value, others)
    else:
        assert one == other


def whole(state: Any) -> Any:
    """A state with every sharded tensor put together."""
    if isinstance(state, DTensor):
        return state.full_tensor()
    if isinstance(state, dict):
        return {key: whole(value) for key, value in state.items()}
    if isinstance(state, list):
        return [whole(value) for value in state]
    return state.clone() if isinstance(state, torch.Tensor) else state


def failure(error: CheckpointException, rank: int = 0) -> BaseException:
    return error.failures[rank][0]


# One process.


def one_of_each() -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "model": {
            "half": torch.randn(5, 3).to(torch.bfloat16),
            "turned": torch.arange(12.0).view(3, 4).t(),
            "scalar": torch.tensor(3),
            "none": torch.empty(0, 3),
            "pairs": torch.randn(4, dtype=torch.complex128),
            "nan": torch.tensor([float("nan"), -0.0, float("inf")]),
        },
        "steps": [1, {"inner": torch.ones(2)}],
        "words": {"of": "data"},
        "count": 7,
        "object": Odd(3),
    }


@dataclasses.dataclass
class Odd:
    """No data: DCP serialises it."""

    value: int


def empty_like(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return torch.zeros_like(state)
    if isinstance(state, dict):
        return {key: empty_like(value) for key, value in state.items()}
    return [empty_like(value) for value in state] if isinstance(state, list) else None


def test_one_process_gets_back_what_it_saved(tmp_path: Path) -> None:
    """Without torch.distributed, tensors of every kind and items that are no tensors come back as they were."""
    saved = one_of_each()
    writer = StorageWriter(tmp_path / "store", "x", 1, metrics={"loss": torch.tensor(0.5)}, note="first")
    dcp.save(saved, storage_writer=writer)
    loaded = empty_like(saved)
    dcp.load(loaded, storage_reader=StorageReader(tmp_path / "store", "x@1"))
    assert_same(loaded, saved)
    # And without knowing what is in it.
    assert_same(_load_state_dict_from_keys(storage_reader=StorageReader(tmp_path / "store", "x@1")), saved)
    row = tpde.log("x", store=tmp_path / "store")[0]
    assert (row["step"], row["metrics"]) == (1, {"loss": 0.5})
    assert tpde.lazy("x@1", store=tmp_path / "store").note == "first"
    assert writer.report is not None and writer.report.commit.startswith(row["commit"][:12])


def test_the_same_again_is_there_already(tmp_path: Path) -> None:
    """A step that is saved twice with the same content is one checkpoint; with other content it is refused, or replaced if asked."""
    saved = one_of_each()
    writer = StorageWriter(tmp_path / "store", "x", 1)
    dcp.save(saved, storage_writer=writer)
    dcp.save(saved, storage_writer=writer)
    assert writer.report is not None and writer.report.already_there
    saved["count"] = 8
    with pytest.raises(CheckpointException) as error:
        dcp.save(saved, storage_writer=StorageWriter(tmp_path / "store", "x", 1))
    assert isinstance(failure(error.value), tpde.ConflictError) and "replace=True" in str(failure(error.value))
    dcp.save(saved, storage_writer=StorageWriter(tmp_path / "store", "x", 1, replace=True))
    loaded = {"count": 0}
    dcp.load(loaded, storage_reader=StorageReader(tmp_path / "store", "x@1"))
    assert loaded == {"count": 8}


def test_one_writer_and_one_reader_do_for_every_step(tmp_path: Path) -> None:
    """A step is named where DCP has its checkpoint_id, and ``latest`` is looked up at every load."""
    writer, reader = StorageWriter(tmp_path / "store", "x"), StorageReader(tmp_path / "store")
    late: StorageReader | None = None
    for step, name in [(1, "x@1"), (2, "2")]:
        dcp.save({"count": step}, checkpoint_id=name, storage_writer=writer)
        late = late or StorageReader(tmp_path / "store", "x@latest")
        for loaded_by in (reader, late):
            loaded = {"count": 0}
            dcp.load(loaded, checkpoint_id=f"x@{step}" if loaded_by is reader else None, storage_reader=loaded_by)
            assert loaded == {"count": step}


def test_checkpoints_that_no_rule_keeps_are_forgotten(tmp_path: Path) -> None:
    """``keep`` does for a run of DCP what it does for others."""
    for step in range(4):
        dcp.save({"count": step}, storage_writer=StorageWriter(tmp_path / "store", "x", step, keep=tpde.Keep(last=2)))
    assert [row["step"] for row in tpde.log("x", store=tmp_path / "store")] == [3, 2]


def test_bad_input_is_said_in_one_error(tmp_path: Path) -> None:
    """A name, step or checkpoint that is none is one error of this package, raised before DCP begins."""
    store = tmp_path / "store"
    dcp.save({"count": 1}, storage_writer=StorageWriter(store, "x", 1))
    with tpde.open(store, "loop") as run:
        run.save(1, data={"a": 1})
    for kind, call in [
        (tpde.NotFoundError, lambda: StorageReader(store, "x@2")),
        (tpde.NotFoundError, lambda: StorageReader(store, "y@1")),
        (tpde.NotFoundError, lambda: StorageReader(tmp_path / "none", "x@1")),
        (tpde.NotFoundError, lambda: dcp.load({}, checkpoint_id="x@2", storage_reader=StorageReader(store))),
        (tpde.InputError, lambda: StorageReader(store, "loop@1")),
        (tpde.InputError, lambda: StorageWriter(store, "x y", 1)),
        (tpde.InputError, lambda: StorageWriter(store, "x", -1)),
        (tpde.InputError, lambda: StorageWriter(store, "x", 1, metrics={"loss": "low"})),  # type: ignore[dict-item]
        (tpde.InputError, lambda: dcp.save({}, checkpoint_id="here", storage_writer=StorageWriter(store, "x"))),
    ]:
        with pytest.raises(kind):
            call()
    with pytest.raises(tpde.InputError, match=r"loop@1 was not saved by torch.distributed.checkpoint"):
        StorageReader(store, "loop@1")


def test_what_dcp_wraps_is_ours_too(tmp_path: Path) -> None:
    """What can only be found while DCP saves is in its CheckpointException, as an error of this package."""
    store = tmp_path / "store"
    sparse = torch.eye(3).to_sparse()
    for message, call in [
        ("no step is named", lambda: dcp.save({"a": 1}, storage_writer=StorageWriter(store, "x"))),
        ("sparse: it is sparse", lambda: dcp.save({"sparse": sparse}, storage_writer=StorageWriter(store, "x", 1))),
    ]:
        with pytest.raises(CheckpointException) as error:
            call()
        assert isinstance(failure(error.value), tpde.InputError) and message in str(failure(error.value))
    with pytest.raises(tpde.InputError, match="use_collectives"):
        dcp.save({"a": 1}, storage_writer=StorageWriter(store, "x", 1), use_collectives=False)
    assert tpde.runs(store=store) == []


def test_plans_of_earlier_saves_are_refused(tmp_path: Path) -> None:
    """A planner that keeps plans would give a save the parts of another; it is refused, and nothing is committed."""
    state = {"w": torch.ones(3)}
    planner = DefaultSavePlanner(enable_plan_caching=True)
    try:
        dcp.save(state, storage_writer=StorageWriter(tmp_path / "store", "x", 1), planner=planner)
        with pytest.raises(CheckpointException) as error:
            dcp.save(state, storage_writer=StorageWriter(tmp_path / "store", "x", 2), planner=planner)
    finally:
        for cache in vars(dcp.SavePlanner).values():
            if isinstance(cache, dict):
                cache.clear()
    assert "enable_plan_caching" in str(failure(error.value))
    assert [row["step"] for row in tpde.log("x", store=tmp_path / "store")] == [1]


def test_names_that_meet_are_kept_apart(tmp_path: Path) -> None:
    """A tensor may be called what a file of tensors, or a shard, would be called."""
    saved = {"__metadata__": torch.ones(2), "w:@0,0": torch.zeros(3), "w": torch.arange(4)}
    dcp.save(saved, storage_writer=StorageWriter(tmp_path / "store", "x", 1))
    loaded = empty_like(saved)
    dcp.load(loaded, storage_reader=StorageReader(tmp_path / "store", "x@1"))
    assert_same(loaded, saved)


def test_an_item_of_bytes_stays_what_it_is(tmp_path: Path) -> None:
    """What DCP serialised is kept byte for byte, and is no tensor of the checkpoint's."""
    items = {"a": {"inner": [1, 2]}, "b": {torch.Size([1])}}
    dcp.save(items, storage_writer=StorageWriter(tmp_path / "store", "x", 1), planner=DefaultSavePlanner(False))
    lazy = tpde.lazy("x@1", store=tmp_path / "store")
    metadata = StorageReader(tmp_path / "store", "x@1").read_metadata()
    for name, item in items.items():
        stored = next(stored for index, stored in metadata.storage_data.items() if index.fqn == name)
        written = io.BytesIO()
        torch.save(item, written)
        assert lazy.read_file(stored.file)[stored.start : stored.end] == written.getvalue()
    assert len(lazy) == 0


def test_damage_is_found_before_it_is_believed(tmp_path: Path) -> None:
    """A shard whose bytes are damaged in the store ends the load with CorruptError, whole or in part."""
    store = tmp_path / "store"
    torch.manual_seed(0)
    dcp.save({"w": torch.randn(64, 64)}, storage_writer=StorageWriter(store, "x", 1))
    reader = StorageReader(store, "x@1")
    pack = max((path for path in store.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    pack.chmod(0o644)
    pack.write_bytes(bytes(byte ^ 0x55 for byte in pack.read_bytes()))
    with pytest.raises(CheckpointException) as error:
        dcp.load({"w": torch.zeros(64, 64)}, storage_reader=reader)
    assert isinstance(failure(error.value), tpde.CorruptError)


# What DCP knows about a checkpoint.


def known(tmp_path: Path) -> tuple[Metadata, dict[str, Any]]:
    dcp.save(one_of_each(), storage_writer=StorageWriter(tmp_path / "store", "x", 1))
    written = json.loads(tpde.lazy("x@1", store=tmp_path / "store").read_file("tpde-dcp.json"))
    return StorageReader(tmp_path / "store", "x@1").read_metadata(), written


def test_metadata_is_data(tmp_path: Path) -> None:
    """All that DCP knows is JSON, and comes back the same."""
    metadata, written = known(tmp_path)
    again = _metadata.decode(_metadata.encode(metadata), "x@1")
    assert again.state_dict_metadata == metadata.state_dict_metadata
    assert again.storage_data == metadata.storage_data
    assert again.planner_data == metadata.planner_data
    assert metadata.planner_data["steps.1.inner"] == ("steps", 1, "inner")
    assert json.loads(_metadata.encode(again)) == written


def test_metadata_that_is_none_is_refused(tmp_path: Path) -> None:
    """Metadata of a later version, or damaged at any place, is an error that says so, and nothing else happens."""
    _, written = known(tmp_path)
    with pytest.raises(tpde.NewerError):
        _metadata.decode(json.dumps({**written, "format": 2}).encode(), "x@1")

    def places(node: Any) -> Any:
        for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            yield node, key
            yield from places(node[key])

    refused = 0
    for node, key in places(written):
        kept = node[key]
        for value in (None, [], {}, -1, "tensor", [[-1]], {"~": "pickle", "v": "gA=="}):
            node[key] = value
            try:
                _metadata.decode(json.dumps(written).encode(), "x@1")
            except (tpde.CorruptError, tpde.InputError):
                refused += 1
        node[key] = kept
    assert refused > 500
    for text in (b"", b"\xff", b"[]", b"{}", b"[" * 100_000):
        with pytest.raises(tpde.CorruptError):
            _metadata.decode(text, "x@1")


def test_a_writer_goes_to_another_process(tmp_path: Path) -> None:
    """A writer can be handed to the process that DCP saves in in the background."""
    writer = pickle.loads(pickle.dumps(StorageWriter(tmp_path / "store", "x", 3)))
    dcp.save({"a": 1}, storage_writer=writer)
    assert writer.report is not None


# Several processes.


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def build(of: int, seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = net()
    if of > 1:
        fully_shard(model, mesh=init_device_mesh("cpu", (of,)))
    return model, torch.optim.Adam(model.parameters(), lr=0.1)


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    torch.manual_seed(seed)
    optimizer.zero_grad()
    model(torch.randn(4, 5)).pow(2).sum().backward()
    optimizer.step()


def states(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    weights, moments = get_state_dict(model, optimizer)
    return {"model": weights, "optim": moments}


def save_trained(rank: int, of: int, store: str) -> dict[str, Any]:
    model, optimizer = build(of, 0)
    for step in (1, 2):
        train_step(model, optimizer, step)
        state = {**states(model, optimizer), "step": step}
        dcp.save(state, storage_writer=StorageWriter(store, "x", step))
    return dict(whole(state))


def load_trained(rank: int, of: int, store: str) -> dict[str, Any]:
    model, optimizer = build(of, 99)
    state: dict[str, Any] = {**states(model, optimizer), "step": 0}
    dcp.load(state, storage_reader=StorageReader(store, "x@2"))
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optim"])
    loaded = whole({**states(model, optimizer), "step": state["step"]})
    # It goes on.
    train_step(model, optimizer, 3)
    return dict(loaded)


@pytest.mark.parametrize("saved_by", [1, 2, 3])
def test_fsdp_is_loaded_by_any_number_of_ranks(tmp_path: Path, saved_by: int) -> None:
    """Weights and moments that FSDP shards over some ranks come back bit for bit, whole or sharded over as many, more or fewer."""
    store = str(tmp_path / "store")
    saved = values(run_ranks(tmp_path, saved_by, save_trained, saved_by, store))[0]
    assert saved["step"] == 2
    for loaded_by in (1, 2, 3):
        if saved_by == 1 or loaded_by in (1, saved_by):
            for loaded in values(run_ranks(tmp_path, loaded_by, load_trained, loaded_by, store)):
                assert_same(loaded, saved)


PLACEMENTS = {"rows": [Shard(0)], "columns": [Shard(1)], "all": [Replicate()]}


def values_of(name: str) -> torch.Tensor:
    torch.manual_seed(len(name))
    return torch.randn(9, 5)


def save_placed(rank: int, store: str) -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    state = {name: distribute_tensor(values_of(name), mesh, kind) for name, kind in PLACEMENTS.items()}
    state["complex"] = distribute_tensor(torch.view_as_complex(torch.arange(60.0).double().view(6, 5, 2)), mesh, [Shard(0)])
    state["short"] = distribute_tensor(torch.arange(1.0), mesh, [Shard(0)])
    dcp.save({**state, "plain": values_of("plain")}, storage_writer=StorageWriter(store, "x", 1))


def load_placed(rank: int, store: str, kind: str) -> dict[str, Any]:
    cuts: list[str] = []
    rows = storage.LazyTensor.__getitem__

    def noted(self: tpde.LazyTensor, index: Any) -> Any:
        cuts.append(self.name)
        return rows(self, index)

    storage.LazyTensor.__getitem__ = noted  # type: ignore[method-assign]
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    state: dict[str, Any] = {
        name: distribute_tensor(torch.zeros(9, 5), mesh, PLACEMENTS[kind]) for name in [*PLACEMENTS, "plain"]
    }
    state["complex"] = distribute_tensor(torch.zeros(6, 5, dtype=torch.complex128), mesh, PLACEMENTS[kind])
    state["short"] = distribute_tensor(torch.zeros(1), mesh, [Shard(0)])
    dcp.load(state, storage_reader=StorageReader(store, "x@1"))
    return {**whole(state), "cuts": cuts}


def test_tensors_are_cut_anew(tmp_path: Path) -> None:
    """Shards by rows, by columns and whole tensors are loaded as any of them; what is asked for in whole rows is read alone."""
    store = str(tmp_path / "store")
    values(run_ranks(tmp_path, 3, save_placed, store))
    names = set(tpde.lazy("x@1", store=store))
    assert {"rows:@0,0", "rows:@3,0", "rows:@6,0", "columns:@0,0", "columns:@0,2", "columns:@0,4", "plain"} <= names
    for of, kind in [(2, "rows"), (2, "columns"), (1, "rows")]:
        for loaded in values(run_ranks(tmp_path, of, load_placed, store, kind)):
            for name in [*PLACEMENTS, "plain"]:
                assert_same(loaded[name], values_of(name))
            assert_same(loaded["complex"], torch.view_as_complex(torch.arange(60.0).double().view(6, 5, 2)))
            assert_same(loaded["short"], torch.zeros(1))
            if (of, kind) == (2, "rows"):
                # By rows, of what is kept by rows or whole; shards by columns are needed whole, if anything of them is.
                assert {"rows:@3,0", "plain", "all"} <= set(loaded["cuts"])


def save_slowly_changing(rank: int, store: str) -> list[int]:
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    values = torch.randn(256, 256)
    stored = []
    for step in (1, 2):
        values = values * (1 + 1e-5)
        writer = StorageWriter(store, "x", step)
        dcp.save({"w": distribute_tensor(values, mesh, [Shard(0)])}, storage_writer=writer)
        if writer.report is not None:
            stored.append(writer.report.stored_bytes)
    return stored


def test_a_shard_is_kept_as_what_changed(tmp_path: Path) -> None:
    """The next step of a shard finds its last self, and takes a fraction of its bytes."""
    (first, second), others = values(run_ranks(tmp_path, 2, save_slowly_changing, str(tmp_path / "store")))
    assert others == [], "only the coordinator commits"
    assert second < first / 2


def save_in_background(rank: int, store: str) -> None:
    mesh = init_device_mesh("cpu", (2,))
    sharded = distribute_tensor(torch.ones(64, 64), mesh, [Shard(0)])
    plain = torch.full((100,), 2.0)
    config = {"lr": [3]}
    for step in (1, 2):
        future = dcp.async_save(
            {"sharded": sharded, "plain": plain, "config": config}, storage_writer=StorageWriter(store, "x", step)
        )
        # The next step of the training does not wait.
        sharded.to_local().add_(1)
        plain.add_(1)
        future.result()


def test_a_save_in_the_background_sees_no_later_step(tmp_path: Path) -> None:
    """What the training loop writes into its tensors after async_save returned is not in the checkpoint."""
    store = tmp_path / "store"
    values(run_ranks(tmp_path, 2, save_in_background, str(store)))
    for step in (1, 2):
        loaded: dict[str, Any] = {"sharded": torch.zeros(64, 64), "plain": torch.zeros(100), "config": {"lr": None}}
        dcp.load(loaded, storage_reader=StorageReader(store, f"x@{step}"))
        assert_same(
            loaded, {"sharded": torch.full((64, 64), float(step)), "plain": torch.full((100,), 1.0 + step), "config": {"lr": [3]}}
        )


class Fails(DefaultSavePlanner):
    """A planner that ends on rank 1 while its part is written."""

    def __init__(self, dies: bool) -> None:
        super().__init__()
        self.dies = dies

    def resolve_data(self, write_item: Any) -> Any:
        if dist.get_rank() == 1:
            if self.dies:
                die()
            raise tpde.BackendError("the disk of rank 1 is full")
        return super().resolve_data(write_item)


def save_and_fail(rank: int, store: str, dies: bool) -> str:
    mesh = init_device_mesh("cpu", (2,))
    state = {"w": distribute_tensor(torch.ones(4), mesh, [Shard(0)])}
    dcp.save(state, storage_writer=StorageWriter(store, "x", 1))
    try:
        dcp.save(state, storage_writer=StorageWriter(store, "x", 2), planner=Fails(dies))
    except CheckpointException as error:
        return repr(failure(error, 1))
    except RuntimeError as error:
        return str(error)
    return "saved"


def save_second(rank: int, store: str) -> None:
    state = {"w": distribute_tensor(torch.full((4,), 2.0), init_device_mesh("cpu", (2,)), [Shard(0)])}
    dcp.save(state, storage_writer=StorageWriter(store, "x", 2))


@pytest.mark.parametrize("dies", [False, True])
def test_a_rank_that_fails_means_no_commit(tmp_path: Path, dies: bool) -> None:
    """If one rank dies or fails while it writes, all others hear of it, nothing is committed, and the next save is none the worse."""
    store = str(tmp_path / "store")
    first, second = run_ranks(tmp_path, 2, save_and_fail, store, dies)
    assert second.was_killed == dies
    said = values([first])[0]
    # A death is heard of from gloo, in words of its own.
    assert said != "saved" if dies else said == "BackendError('the disk of rank 1 is full')"
    assert [row["step"] for row in tpde.log("x", store=store)] == [1]
    # The next start saves the same step.
    values(run_ranks(tmp_path, 2, save_second, store))
    assert [row["step"] for row in tpde.log("x", store=store)] == [2, 1]


def disagree(rank: int, store: str) -> list[str]:
    said = []
    for save in (True, False):
        try:
            if save:
                dcp.save({"a": 1}, storage_writer=StorageWriter(store, "x", rank))
            else:
                dcp.save({"a": 1}, storage_writer=StorageWriter(store, "x", 1))
                dcp.save({"a": 2}, storage_writer=StorageWriter(store, "x", 2))
                dcp.load({"a": 0}, storage_reader=StorageReader(store, f"x@{1 + rank}"))
        except CheckpointException as error:
            said.append(repr(failure(error)))
    return said


def test_ranks_that_do_not_mean_the_same_are_told(tmp_path: Path) -> None:
    """Ranks that save or load different steps make no mixture of them."""
    for save, load in values(run_ranks(tmp_path, 2, disagree, str(tmp_path / "store"))):
        assert "InputError" in save and "rank 1 saves x@1, the coordinator x@0" in save
        assert "ConflictError" in load
