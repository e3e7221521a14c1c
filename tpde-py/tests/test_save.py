"""Saving in the background: nothing later leaks in, nothing is lost, and whoever must know is told."""

from __future__ import annotations

import resource
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import tpde
from common import finished, open_run, python
from tpde._tpde import Staging


class Gate:
    """A component whose save stands still in the background until it is let go on."""

    def __init__(self, run: tpde.Run) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()
        store = run._store

        class Slow:
            def __getattr__(self, name: str) -> object:
                return getattr(store, name)

        def save(*arguments: object) -> object:
            self.entered.set()
            assert self.go_on.wait(60)
            return store.save(*arguments)

        slow = Slow()
        slow.save = save  # type: ignore[attr-defined]
        run._store = slow  # type: ignore[assignment]


def test_later_updates_do_not_leak_in(tmp_path: Path) -> None:
    """What is saved is the state at the time of the call, whatever is done to it while it is being stored."""
    weights = {"w": np.arange(100_000.0), "turned": np.arange(6.0).reshape(2, 3).T}
    with open_run(tmp_path) as run:
        gate = Gate(run)
        handle = run.save(0, model=weights)
        assert gate.entered.wait(60)
        weights["w"] += 1
        weights["turned"] *= 0
        gate.go_on.set()
        assert not handle.skipped
        handle.wait()
        loaded: dict[str, np.ndarray] = {}
        run.rewind(0, model=loaded)
    assert np.array_equal(loaded["w"], np.arange(100_000.0))
    assert np.array_equal(loaded["turned"], np.arange(6.0).reshape(2, 3).T)


def test_skip_if_busy(tmp_path: Path) -> None:
    """With on_busy="skip" a save does not wait for the one before; it says that it was skipped, and nothing of it is in the run."""
    with open_run(tmp_path, on_busy="skip") as run:
        gate = Gate(run)
        first = run.save(0, model={"w": np.zeros(10)})
        assert gate.entered.wait(60)
        second = run.save(1, model={"w": np.ones(10)})
        assert second.skipped
        assert second.done()
        assert second.commit is None
        assert second.wait() is second
        gate.go_on.set()
        first.wait()
        third = run.save(2, model={"w": np.ones(10)})
        assert not third.wait().skipped
        assert [row["step"] for row in run.log()] == [2, 0]


def test_wait_if_busy(tmp_path: Path) -> None:
    """By default a save waits for room, and every step is in the run, in order."""
    with open_run(tmp_path) as run:
        gate = Gate(run)
        first = run.save(0, model={"w": np.zeros(10)})
        assert gate.entered.wait(60)
        released = threading.Timer(0.05, gate.go_on.set)
        released.start()
        second = run.save(1, model={"w": np.ones(10)})
        assert first.done(), "there was room only once the first was done"
        assert second.waited_s > 0
        second.wait()
        released.join()
        assert [row["step"] for row in run.log()] == [1, 0]


def test_a_budget_for_several_copies(tmp_path: Path) -> None:
    """Several saves may wait in a larger budget; a state that is larger than the budget is told, and nothing is lost."""
    with open_run(tmp_path, staging_bytes=300_000, on_busy="skip") as run:
        gate = Gate(run)
        handles = [run.save(step, model={"w": np.full(12_000, step, float)}) for step in range(4)]
        assert [handle.skipped for handle in handles] == [False, False, False, True]
        gate.go_on.set()
        run.flush()
        with pytest.raises(tpde.InputError, match="staging_bytes allows 300000"):
            run.save(9, model={"w": np.zeros(100_000)})
        run.save(10, model={"w": np.zeros(36_000)}).wait()
        assert [row["step"] for row in run.log()] == [10, 2, 1, 0]


def test_a_state_that_changes_its_shape(tmp_path: Path) -> None:
    """Tensors that grow, shrink, come and go between saves work."""
    states = [
        {"w": np.arange(10.0)}, {"w": np.arange(1000.0)}, {"w": np.arange(5.0), "b": np.ones(3)}, {"b": np.ones(3, np.int8)},
    ]  # fmt: skip
    with open_run(tmp_path) as run:
        for step, state in enumerate(states):
            run.save(step, model=state)
        for step, state in enumerate(states):
            loaded: dict[str, np.ndarray] = {}
            run.rewind(step, model=loaded)
            assert loaded.keys() == state.keys()
            assert all(np.array_equal(loaded[name], state[name]) for name in state)


def test_background_errors_are_raised_once(tmp_path: Path) -> None:
    """A save that fails in the background raises at the next call, once; the next save is tried again and works."""
    with open_run(tmp_path) as run:
        with open_run(tmp_path, "run") as other:
            other.save(5, model={"w": np.zeros(3)}).wait()
        run.save(6, model={"w": np.ones(3)})
        run._worker.wait()
        with pytest.raises(tpde.ConflictError, match="another writer"):
            run.save(7, model={"w": np.ones(3)})
        handle = run.save(8, model={"w": np.ones(3)})
        with pytest.raises(tpde.ConflictError):
            handle.wait()
        assert run.resume(model={}) == 6, "who asked the handle was told"
    run = open_run(tmp_path)
    with open_run(tmp_path) as other:
        other.save(9, model={"w": np.zeros(3)}).wait()
    run.save(10, model={"w": np.ones(3)})
    with pytest.raises(tpde.ConflictError):
        run.close()
    run.close()
    with pytest.raises(tpde.InputError, match="closed"):
        run.save(11, model={"w": np.ones(3)})


def test_an_error_of_the_loop_comes_first(tmp_path: Path) -> None:
    """An exception of the training loop is not hidden by one of a save: it carries a note of it."""
    with pytest.raises(ZeroDivisionError) as raised, open_run(tmp_path) as run:
        with open_run(tmp_path) as other:
            other.save(5, model={"w": np.zeros(3)}).wait()
        run.save(6, model={"w": np.ones(3)})
        raise ZeroDivisionError
    assert "another writer" in raised.value.__notes__[0]


def test_two_loops_with_one_run(tmp_path: Path) -> None:
    """Of two loops that save to one run at once, one is told; every checkpoint that was acknowledged is there."""
    first, second = open_run(tmp_path), open_run(tmp_path)
    kept = []
    errors = []
    for step in range(6):
        for run, value in ((first, 1.0), (second, 2.0)):
            try:
                run.save(step, model={"w": np.full(4, value + step)}).wait()
                kept.append((step, value))
            except tpde.ConflictError as error:
                errors.append(str(error))
    assert [step for step, _ in kept] == list(range(6))
    assert len(errors) == 6
    assert all("run" in error for error in errors)
    for step, value in kept:
        loaded: dict[str, np.ndarray] = {}
        first.rewind(step, model=loaded)
        assert loaded["w"][0] == value + step
    first.close()
    second.close()


def test_a_step_that_is_there(tmp_path: Path) -> None:
    """The same step again is harmless with the same state, a clear error with another, and replaced if that is asked for."""
    with open_run(tmp_path) as run:
        run.save(0, model={"w": np.zeros(3)}).wait()
        again = run.save(0, model={"w": np.zeros(3)})
        assert again.stored_bytes == 0
        with pytest.raises(tpde.ConflictError, match="replace=True"):
            run.save(0, model={"w": np.ones(3)}).wait()
        run.save(0, model={"w": np.ones(3)}, replace=True).wait()
        loaded: dict[str, np.ndarray] = {}
        run.rewind(0, model=loaded)
        assert loaded["w"][0] == 1


def test_our_newest_is_forgotten(tmp_path: Path) -> None:
    """Somebody who forgets our newest checkpoint is no other writer: saving goes on."""
    with open_run(tmp_path) as run:
        for step in range(3):
            run.save(step, model={"w": np.full(3, step)}).wait()
        command = 'import sys; from tpde._tpde import cli; sys.exit(cli(["tpde", "--store", sys.argv[1], "forget", "run@2"]))'
        finished(python(command, tmp_path / "store"))
        assert [row["step"] for row in run.log()] == [1, 0]
        run.save(3, model={"w": np.full(3, 3)}).wait()
        assert [row["step"] for row in run.log()] == [3, 1, 0]


def test_keep(tmp_path: Path) -> None:
    """After a save only what the rules keep is in the log."""
    keep = tpde.Keep(last=2, every=5, best=("loss", 1))
    with open_run(tmp_path, keep=keep) as run:
        for step in range(12):
            run.save(step, model={"w": np.full(3, step)}, metrics={"loss": abs(step - 7)})
        run.flush()
        assert [row["step"] for row in run.log()] == [11, 10, 7, 5, 0]
        assert run.log(1)[0]["metrics"] == {"loss": 4.0}
    for rules in [{}, {"last": 0}, {"last": -1}, {"every": 2.5}, {"best": ("loss",)}, {"best": [("loss", 1, "most")]}]:
        with pytest.raises(tpde.InputError, match="keep"):
            tpde.Keep(**rules)  # type: ignore[arg-type]


ENDS = """
    import sys
    import numpy as np, tpde
    run = tpde.open(sys.argv[1], run="run")
    for step in range(4):
        run.save(step, model={{"w": np.random.default_rng(step).normal(size=300_000)}})
    {end}
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("pass", 0),
        ("sys.exit(3)", 3),
        ("1 / 0", 1),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("import signal; signal.signal(signal.SIGTERM, lambda *_: sys.exit(9)); signal.raise_signal(signal.SIGTERM)", 9),
    ],
)
def test_ends_of_a_process(tmp_path: Path, end: str, code: int) -> None:
    """A process that ends without close, or by SIGTERM, first stores what it was handed; how it ends stays the same."""
    finished(python(ENDS.format(end=end), tmp_path / "store"), code)
    with open_run(tmp_path) as run:
        assert [row["step"] for row in run.log()] == [3, 2, 1, 0]


def test_sigterm_at_any_moment(tmp_path: Path) -> None:
    """SIGTERM in the middle of a save, or while one waits for another, ends the process as a signal does; every step that was handed over is
    there, and none beyond.
    """
    code = """
        import sys
        import numpy as np, tpde
        run = tpde.open(sys.argv[1], run="run", staging_bytes=3_000_000)
        w = np.random.default_rng(0).normal(size=100_000)
        for step in range(100_000):
            w[step % len(w)] += 1
            run.save(step, model={"w": w})
            print(step, flush=True)
    """
    for steps in (1, 2, 5, 9):
        folder = tmp_path / str(steps)
        with python(code, folder / "store") as process:
            for line in process.stdout:
                if int(line) == steps:
                    process.send_signal(signal.SIGTERM)
                    break
            printed = [int(line) for line in process.stdout]
            assert process.wait() == -signal.SIGTERM, process.stderr.read()
        handed_over = printed[-1] if printed else steps
        with open_run(folder) as run:
            newest = run.log()[0]["step"]
            assert [row["step"] for row in run.log()] == list(range(newest, -1, -1))
        # The last may have been handed over and not yet printed.
        assert newest in (handed_over, handed_over + 1)


def test_the_callers_own_sigterm_handler(tmp_path: Path) -> None:
    """A handler that was there before the run was opened is still called, after the flush."""
    code = """
        import os, signal, sys
        signal.signal(signal.SIGTERM, lambda *_: (print([row["step"] for row in run.log()]), sys.exit(4)))
        import numpy as np, tpde
        run = tpde.open(sys.argv[1], run="run")
        run.save(0, model={"w": np.random.default_rng(0).normal(size=300_000)})
        os.kill(os.getpid(), signal.SIGTERM)
    """
    assert "[0]" in finished(python(code, tmp_path / "store"), 4)


def test_errors_at_exit_are_printed(tmp_path: Path) -> None:
    """A save that fails after the last call is told at exit."""
    code = """
        import sys
        import numpy as np, tpde
        run = tpde.open(sys.argv[1], run="run")
        with tpde.open(sys.argv[1], run="run") as other:
            other.save(0, model={"w": np.ones(3)})
        run.save(1, model={"w": np.zeros(3)})
    """
    assert "at exit, a save failed: another writer" in finished(python(code, tmp_path / "store"))


def test_fork(tmp_path: Path) -> None:
    """A child of fork is told to open the run itself, does not wait at its exit, and does no harm to the parent's."""
    code = """
        import os, sys
        import numpy as np, tpde
        run = tpde.open(sys.argv[1], run="run")
        run.save(0, model={"w": np.zeros(100_000)})
        child = os.fork()
        if child == 0:
            try:
                run.save(1, model={"w": np.zeros(3)})
            except tpde.InputError as error:
                print(error, flush=True)
            with tpde.open(sys.argv[1], run="child") as own:
                own.save(0, model={"w": np.zeros(3)})
            sys.exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        run.save(2, model={"w": np.ones(3)})
        run.close()
        print([row["step"] for row in run.log()], tpde.runs(store=sys.argv[1]))
    """
    printed = finished(python(code, tmp_path / "store"))
    assert "before this process was forked. Open it again" in printed
    assert "[2, 0] ['child', 'run']" in printed


def test_a_disk_that_fills(tmp_path: Path) -> None:
    """A disk that takes no more is told at the next call; what was saved before is whole, and saving works again once there is room."""
    with open_run(tmp_path) as run:
        run.save(0, model={"w": np.random.default_rng(0).normal(size=50_000)}).wait()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            run.save(1, model={"w": np.random.default_rng(1).normal(size=200_000)})
            with pytest.raises(tpde.TpdeError, match="(?i)file too large"):
                run.flush()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert [row["step"] for row in run.log()] == [0]
        run.save(2, model={"w": np.random.default_rng(1).normal(size=200_000)}).wait()
        loaded: dict[str, np.ndarray] = {}
        run.rewind(0, model=loaded)
        assert np.array_equal(loaded["w"], np.random.default_rng(0).normal(size=50_000))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"step": -1}, "Steps count from 0"),
        ({"step": 1.5}, "no whole number"),
        ({"step": 2**63}, "out of range"),
        ({"metrics": {"loss": "low"}}, "metric loss: 'low' is no number"),
        ({"metrics": {"a=b": 1.0}}, "a=b"),
        ({"model": None}, "nothing to save"),
        ({"model": 3}, "model: int has no state_dict"),
        ({"dataloader": object()}, "StatefulDataLoader"),
        ({"rng": True, "model": {}, "rng_": 1}, "rng_: int"),
    ],
)  # fmt: skip
def test_bad_arguments(tmp_path: Path, arguments: dict[str, object], words: str) -> None:
    """Each is one error that says what to pass; nothing is saved."""
    arguments = {"step": 0, "model": {"w": np.zeros(3)}, **arguments}
    with open_run(tmp_path) as run:
        with pytest.raises(tpde.InputError, match=words):
            run.save(**arguments)  # type: ignore[arg-type]
        assert run.log() == []


def test_bad_places(tmp_path: Path) -> None:
    """A place that is no store, a name that is no run, and options that are none are told when the run is opened."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    for error, arguments in [
        (tpde.NotFoundError, {"location": tmp_path / "none", "create": False}),
        (tpde.TpdeError, {"location": tmp_path / "full"}),
        (tpde.InputError, {"location": "ftp://somewhere"}),
        (tpde.InputError, {"run": "no/name"}),
        (tpde.InputError, {"on_busy": "hurry"}),
        (tpde.InputError, {"staging_bytes": 0}),
    ]:
        with pytest.raises(error):
            tpde.open(**{"location": tmp_path / "store", "run": "r", **arguments})


def test_staging_is_not_written_while_it_is_read(tmp_path: Path) -> None:
    """The compiled part refuses what would tear a save: a copy into a buffer that is being read, and bytes that are not inside."""
    staging = Staging(1000, 1)
    source = np.arange(100, dtype=np.uint8)
    address = source.__array_interface__["data"][0]
    staging.copy_in([(address, 100, 0), (address, 100, 100)], 2)
    assert staging.len_bytes == 1000
    for copies in [[(address, 100, 950)], [(address, 100, 0), (address, 50, 60)], [(0, 1, 0)]]:
        with pytest.raises(ValueError):
            staging.copy_in(copies, 1)
    with pytest.raises(ValueError):
        tpde.open(tmp_path / "store", run="r")._store.save(
            [("a", [(staging, 990, 20)])], "r", 0,
            {"metrics": {}, "note": "", "environment": {}, "replace": False, "expect_parent": None, "parent": None},
        )  # fmt: skip
