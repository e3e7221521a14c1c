"""Several processes of torch.distributed that save one run, and go on with it."""

import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import tpde
from processes import die, run_ranks, values
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tpde import _ranks
from tpde._state import Saved
from tpde._tpde import Store, cli

SHARDED = ("ema",)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPDE_CACHE_DIR", str(tmp_path / "cache"))


class Loader:
    """A rank's own place in its own order of the data."""

    def __init__(self, rank: int) -> None:
        self.generator = torch.Generator().manual_seed(7 + rank)
        self.position = 0

    def batch(self) -> torch.Tensor:
        self.position += 1
        return torch.randn(3, 4, generator=self.generator) + self.position

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]
        self.generator.set_state(state["generator"])


def mean_by_rank(state: None, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Sums gradients in the order of the ranks. Left to itself, DDP cuts its buckets anew after its first step, so that three ranks or more
    sum in another order after a restart.
    """
    every = [torch.empty_like(bucket.buffer()) for _ in range(dist.get_world_size())]
    dist.all_gather(every, bucket.buffer())
    mean: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    mean.set_result(torch.stack(every).sum(0) / len(every))
    return mean


class Loop:
    """A training loop whose ranks draw numbers and data of their own."""

    def __init__(self, rank: int) -> None:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
        self.model = DistributedDataParallel(net)
        self.model.register_comm_hook(None, mean_by_rank)
        self.optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
        self.loader = Loader(rank)
        self.ema: dict[str, Any] = {"mean": torch.zeros(64)}
        random.seed(rank)
        np.random.seed(rank)
        torch.manual_seed(100 + rank)

    @property
    def parts(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "dataloader": self.loader, "ema": self.ema}

    def step(self) -> None:
        noise = random.random() + float(np.random.rand())
        self.optimizer.zero_grad()
        loss = self.model(self.loader.batch()).pow(2).mean() * (1 + noise)
        loss.backward()
        self.optimizer.step()
        self.ema["mean"] = self.ema["mean"] * 0.9 + torch.randn(64)

    def everything(self) -> list[str]:
        """All that a step depends on, bit for bit."""
        states = [*self.model.state_dict().values(), self.ema["mean"], self.loader.generator.get_state()]
        for state in self.optimizer.state.values():
            states += state.values()
        bits = [state.numpy().tobytes().hex() for state in states]
        return [*bits, str(self.loader.position), str(random.random()), str(np.random.rand()), str(torch.rand(1).item())]


def train(rank: int, store: str, steps: int, dies_after: int | None) -> tuple[int, list[str]]:
    loop = Loop(rank)
    run = tpde.open(store, "x")
    start = run.resume(**loop.parts, rng=True, sharded=SHARDED)
    for step in range(start, steps):
        loop.step()
        handle = run.save(step, **loop.parts, rng=True, sharded=SHARDED)
        if step == 2:
            handle.wait()
        if step == dies_after:
            die()
    run.close()
    return start, loop.everything()


@pytest.mark.parametrize("of", [2, 3])
def test_killed_ranks_go_on_bit_for_bit(tmp_path: Path, of: int) -> None:
    """Ranks that were all killed in the midst of a save go on to what they would have come to."""
    undisturbed = values(run_ranks(tmp_path, of, train, str(tmp_path / "whole"), 9, None))
    killed = run_ranks(tmp_path, of, train, str(tmp_path / "store"), 9, 5)
    assert all(one.value is None for one in killed) and any(one.was_killed for one in killed)
    resumed = values(run_ranks(tmp_path, of, train, str(tmp_path / "store"), 9, None))
    starts = {start for start, _ in resumed}
    assert len(starts) == 1 and starts <= {3, 4, 5, 6}
    assert [state for _, state in resumed] == [state for _, state in undisturbed]
    # Each rank has something of its own, or this shows nothing.
    assert len({tuple(state) for _, state in resumed}) == of


def one_dies(rank: int, store: str) -> tuple[str, list[int]]:
    own = {"ema": {"mean": torch.full((8,), float(rank))}}
    run = tpde.open(store, "x", rank_timeout_s=2)
    run.save(1, **own, sharded=SHARDED).wait()
    dist.barrier()
    if rank == 1:
        die()
    handle = run.save(2, **own, sharded=SHARDED)
    with pytest.raises(tpde.NotFoundError) as error:
        handle.wait()
    return str(error.value), [row["step"] for row in run.log()]


def test_a_dead_rank_means_no_commit(tmp_path: Path) -> None:
    """If a rank dies before its part is stored, nothing is committed, rank 0 says so, and the checkpoint before is the newest."""
    first, second = run_ranks(tmp_path, 2, one_dies, str(tmp_path / "store"))
    assert second.was_killed
    message, steps = values([first])[0]
    assert "step 2 of x is not committed" in message and "part 1 of 2" in message
    assert steps == [1]
    # What is there is whole: the next start goes on from it.
    assert values(run_ranks(tmp_path, 2, resume_own, str(tmp_path / "store"))) == [(2, 0.0), (2, 1.0)]


def resume_own(rank: int, store: str) -> tuple[int, float]:
    own: dict[str, Any] = {}
    with tpde.open(store, "x") as run:
        start = run.resume(ema=own, sharded=SHARDED)
    return start, own["mean"][0].item()


def leaves_on_error(rank: int, store: str) -> str:
    _ranks._LAST_TIMEOUT_S = 0.5
    with pytest.raises(ZeroDivisionError) as error, tpde.open(store, "x") as run:
        if rank == 1:
            die()
        run.save(1, data={"a": 1})
        raise ZeroDivisionError
    return error.value.__notes__[0]


def test_a_loop_that_broke_does_not_wait_long_for_dead_ranks(tmp_path: Path) -> None:
    """A rank that leaves its loop with an error does not wait half an hour for the part of a rank that will not come."""
    first, second = run_ranks(tmp_path, 2, leaves_on_error, str(tmp_path / "store"))
    assert second.was_killed
    assert "step 1 of x is not committed" in values([first])[0]


def save_two(rank: int, store: str, steps: int) -> None:
    with tpde.open(store, "x") as run:
        for step in range(1, steps + 1):
            torch.manual_seed(10 * step + rank)
            own = {"mean": torch.randn(4096)}
            run.save(step, model={"w": torch.full((4,), float(step))}, ema=own, sharded=SHARDED, rng=True).wait()
            dist.barrier()


def resume_whole(rank: int, store: str) -> tuple[int, float, bool, list[str]]:
    model: dict[str, Any] = {}
    own: dict[str, Any] = {}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with tpde.open(store, "x") as run:
            start = run.resume(model=model, ema=own, sharded=SHARDED, rng=True)
    drawn = torch.randn(4096)
    torch.manual_seed(10 * (start - 1) + rank)
    torch.randn(4096)
    return start, model["w"][0].item(), torch.equal(drawn, torch.randn(4096)), [str(one.message) for one in said]


def test_all_go_on_from_the_newest_that_all_can_read(tmp_path: Path) -> None:
    """If only one rank's part of the newest checkpoint is damaged, all ranks go back to the one before."""
    store = tmp_path / "store"
    values(run_ranks(tmp_path, 2, save_two, str(store), 2))
    damage_part(store, ("x@2", "rank-1/"), [("x@2", ""), ("x@2", "rank-0/"), ("x@1", "rank-1/")])
    for rank, (start, weight, is_own, said) in enumerate(values(run_ranks(tmp_path, 2, resume_whole, str(store)))):
        assert (start, weight, is_own) == (2, 1.0, True)
        assert len(said) == 1 and "passed over" in said[0] and "x@2" in said[0]
        assert ("rank 1:" in said[0]) == (rank == 0)


def damage_part(store: Path, part: tuple[str, str], spared: list[tuple[str, str]]) -> None:
    """Damages a file of a store that one folder of a checkpoint needs, and others do not."""

    def can_read(part: tuple[str, str]) -> bool:
        saved = Saved(Store.open(str(store), False, 1).checkpoint(part[0]), part[1])
        try:
            saved.load(list(saved.components))
        except tpde.CorruptError:
            return False
        return True

    for path in sorted(path for path in store.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        if len(whole) < 4096:
            continue
        mode = path.stat().st_mode
        path.chmod(0o644)
        path.write_bytes(whole[:1000] + bytes(byte ^ 0xFF for byte in whole[1000:-1000]) + whole[-1000:])
        if not can_read(part) and all(can_read(other) for other in spared):
            return
        path.write_bytes(whole)
        path.chmod(mode)
    raise AssertionError(f"nothing belongs to {part} alone")


class Refuses:
    """A component that does not take its state on one rank."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def state_dict(self) -> dict[str, Any]:
        return {"a": 1}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.rank == 1:
            raise ValueError("no")


def fails_on_one(rank: int, folder: str) -> dict[str, str]:
    store = f"{folder}/store"
    heard: dict[str, str] = {}

    def hear(name: str, call: Any) -> None:
        try:
            call()
        except Exception as error:
            heard[name] = f"{type(error).__name__}: {error}"

    hear("place", lambda: tpde.open(store if rank == 0 else f"{folder}/meeting\0", "x"))
    hear("name", lambda: tpde.open(store, f"x{rank}"))
    hear("busy", lambda: tpde.open(store, "x", on_busy="skip" if rank == 1 else "wait"))
    with tpde.open(store, "x") as run:
        run.save(1, odd=Refuses(rank), ema={"rank": rank}, sharded=SHARDED)
        run.flush()
        dist.barrier()
        hear("component", lambda: run.resume(odd=Refuses(rank)))
        hear("lacks", lambda: run.resume(**({"odd": Refuses(0)} if rank == 0 else {"other": {}})))
        hear("rewind", lambda: run.rewind(rank, odd=Refuses(0)))
        hear("stopped", lambda: run._ranks.together(interrupted if rank == 1 else lambda: None))
        # After all that they understand one another still.
        own: dict[str, Any] = {}
        heard["start"] = str(run.resume(ema=own, sharded=SHARDED))
        assert own == {"rank": rank}
    return heard


def interrupted() -> None:
    raise MemoryError("none left")


def test_what_fails_on_one_rank_fails_on_all(tmp_path: Path) -> None:
    """A rank that cannot open, read or take a state keeps no other waiting: all raise an error that names it."""
    heard, own = values(run_ranks(tmp_path, 2, fails_on_one, str(tmp_path)))
    assert heard["name"].startswith("ConflictError: rank 0 has 'x0', rank 1 has 'x1'")
    assert heard["rewind"].startswith("ConflictError: rank 0 has 0, rank 1 has 1")
    for name, kind, message in [
        ("place", "", "rank 1: "),
        ("busy", "InputError", "rank 1: on_busy"),
        ("component", "InputError", "rank 1: odd: it does not take"),
        ("lacks", "InputError", "rank 1: x@1 has no other"),
        ("stopped", "TpdeError", "rank 1: MemoryError: none left"),
    ]:
        assert heard[name].startswith(kind) and message in heard[name], heard[name]
    assert heard["start"] == "2"
    # The rank itself raises its own error.
    assert own["stopped"] == "MemoryError: none left" and own["component"].startswith("InputError: odd: it does not take")


def does_not_open(rank: int, store: str) -> str:
    if rank == 1:
        return ""
    try:
        tpde.open(store, "x", rank_timeout_s=2)
    except tpde.BackendError as error:
        return str(error)
    return "opened"


def test_a_rank_that_does_not_open_is_not_waited_for_forever(tmp_path: Path) -> None:
    """If only some ranks open a run, they hear of it after the time that they were told to wait."""
    first, _ = values(run_ranks(tmp_path, 2, does_not_open, str(tmp_path / "store")))
    assert "alone=True" in first


def opens_alone(rank: int, store: str) -> int:
    if rank == 0:
        with tpde.open(store, "x", alone=True) as run:
            run.save(1, data={"a": 1}, rng=True)
    dist.barrier()
    with tpde.open(store, "x", alone=True) as run:
        return run.resume(data={})


def test_one_rank_may_save_for_itself(tmp_path: Path) -> None:
    """With ``alone``, a run belongs to the rank that opens it, and no other is waited for."""
    assert values(run_ranks(tmp_path, 2, opens_alone, str(tmp_path / "store"))) == [2, 2]


def resume_otherwise(rank: int, store: str) -> tuple[float, list[str]]:
    model: dict[str, Any] = {}
    heard = []
    with tpde.open(store, "x") as run:
        for wanted, sharded, rng in [({"model": {}, "ema": {}}, SHARDED, False), ({"model": {}}, (), True)]:
            with pytest.raises(tpde.InputError) as error:
                run.resume(**wanted, sharded=sharded, rng=rng)
            assert wanted["model"] == {}
            heard.append(str(error.value))
        run.resume(model=model)
    return model["w"][0].item(), heard


def test_another_number_of_ranks_takes_what_all_have_alike(tmp_path: Path) -> None:
    """With more or fewer ranks, what is alike is resumed; what each had of its own is refused, with what to do."""
    store = str(tmp_path / "store")
    values(run_ranks(tmp_path, 2, save_two, store, 1))
    for of in (3, 1):
        for weight, (own, generators) in values(run_ranks(tmp_path, of, resume_otherwise, store)):
            assert weight == 1.0
            now = "there is 1 now" if of == 1 else "there are 3 now"
            assert "x@1 was saved by 2 processes" in own and now in own and "ema is each process's own" in own
            assert "leave out rng=True" in generators


def test_what_one_process_saved_is_no_rank_s_own(tmp_path: Path) -> None:
    """Two ranks that resume a run of one process take its model, and are told that its generators are not theirs."""
    store = str(tmp_path / "store")
    with tpde.open(store, "x") as run:
        run.save(1, model={"w": torch.ones(4)}, ema={"a": 1}, rng=True)
    for weight, (own, generators) in values(run_ranks(tmp_path, 2, resume_otherwise, store)):
        assert weight == 1.0
        assert "was saved by 1 process, and there are 2 now" in own and "rng is each process's own" in generators


def saves_again(rank: int, store: str) -> tuple[list[int], list[float], int]:
    mean = torch.zeros(16)
    run = tpde.open(store, "x", rank_timeout_s=30)

    def save(step: int, value: float, **options: Any) -> None:
        mean.fill_(value + rank)
        run.save(step, ema={"mean": mean}, sharded=SHARDED, **options).wait()
        dist.barrier()

    save(1, 10)
    save(2, 20)
    save(2, 21, replace=True)
    if rank == 0:
        # Somebody puts our newest away: the next save is tried again on what is left, with the same parts.
        assert cli(["tpde", "--store", store, "--quiet", "forget", "x@2"]) == 0
    dist.barrier()
    save(3, 30)
    own: dict[str, Any] = {}
    run.rewind(1, ema=own, sharded=SHARDED)
    back = own["mean"][0].item()
    save(3, 31)
    run.resume(ema=own, sharded=SHARDED)
    steps = [row["step"] for row in run.log()]
    run.close()
    return steps, [back, own["mean"][0].item()], len(steps)


def test_a_step_may_be_saved_again(tmp_path: Path) -> None:
    """Ranks that replace a step, retry a save or take steps again after a rewind never mix the parts of two tries."""
    for rank, (steps, seen, _) in enumerate(values(run_ranks(tmp_path, 2, saves_again, str(tmp_path / "store")))):
        assert steps[0] == 3 and steps[-1] == 1
        assert seen == [10.0 + rank, 31.0 + rank]


def test_a_run_of_before_torch_distributed_is_refused(tmp_path: Path) -> None:
    """A run that was opened before the ranks knew of one another saves nothing that would be one rank's alone."""
    for message in values(run_ranks(tmp_path, 2, opened_before, str(tmp_path / "store"))):
        assert "opened before torch.distributed began" in message


def opened_before(rank: int, store: str) -> str:
    run = tpde._run.Run(tpde._load.open_store(store, True, 1), "x")
    with pytest.raises(tpde.InputError) as error:
        run.save(1, data={"a": 1})
    with pytest.raises(tpde.InputError):
        run.resume(data={})
    return str(error.value)


@pytest.mark.parametrize("sharded", ["ema", ("emma",)])
def test_sharded_names_components(tmp_path: Path, sharded: Any) -> None:
    """A name in ``sharded`` that no component has would lose every rank's part but one; it is refused."""
    with tpde.open(tmp_path / "store", "x") as run, pytest.raises(tpde.InputError, match="sharded"):
        run.save(1, ema={"a": 1}, sharded=sharded)


def test_processes_that_open_at_once_make_one_store(tmp_path: Path) -> None:
    """Ranks that find no store at the same moment all open the one that one of them makes."""
    for _ in range(3):
        assert values(run_ranks(tmp_path, 3, resume_nothing, str(tmp_path / "made"))) == [7, 7, 7]


def resume_nothing(rank: int, store: str) -> int:
    with tpde.open(store, "x") as run:
        return run.resume(data={}, default=7)
