"""Exact resume: after any end of the process, training goes on as if there had been none."""

from __future__ import annotations

import random
import signal
import time
import warnings
from pathlib import Path

import pytest
from conftest import need

torch = need("torch")

import numpy as np
import tpde
from common import open_run, packs, python
from training import Loop

STEPS = 60

TRAIN = """
    import sys
    from pathlib import Path
    from common import open_run
    from training import Loop

    loop = Loop(seed=int(sys.argv[2]))
    with open_run(Path(sys.argv[1])) as run:
        start = run.resume(**loop.components())
        for step in range(start, 60):
            loop.step()
            run.save(step, metrics={"loss": loop.loss}, **loop.components())
            print(step, flush=True)
            # Goes on once it is told to, so that a kill finds the save of this step under way, however slow the machine is.
            sys.stdin.readline()
    print(loop.bits().hex())
"""


def uninterrupted(steps: int = STEPS) -> Loop:
    loop = Loop()
    for _ in range(steps):
        loop.step()
    return loop


def test_killed_at_random_steps(tmp_path: Path) -> None:
    """Killed with SIGKILL again and again and resumed, training reaches the bits that it reaches without."""
    draw = random.Random(20_261_128)
    kills = 0
    # Every start has another seed: what is not resumed shows.
    for start in range(100):
        steps_to_live = draw.randrange(1, 25)
        with python(TRAIN, tmp_path, start) as process:
            lines = []
            for line in process.stdout:
                lines.append(line.strip())
                if len(line) > 10:
                    # The bits: the last that it says.
                    continue
                if len(lines) == steps_to_live and int(lines[-1]) < STEPS - 1:
                    # Some more of the save, now and then all of it.
                    end = time.perf_counter() + draw.random() * 0.1
                    while time.perf_counter() < end:
                        pass
                    process.send_signal(signal.SIGKILL)
                    break
                print(file=process.stdin, flush=True)
            else:
                assert process.wait() == 0, process.stderr.read()
                break
        kills += 1
    assert kills >= 2
    # In a process like the others: what tests before this one told torch to do must not count.
    whole, errors = python(TRAIN, tmp_path / "whole", 0).communicate("\n" * STEPS, timeout=300)
    assert whole, errors
    assert lines[-1] == whole.splitlines()[-1]


def test_every_part_is_needed(tmp_path: Path) -> None:
    """The test above sees each component that is not resumed: without it, other bits are reached."""
    reached = uninterrupted(STEPS).bits()
    loop = Loop()
    with open_run(tmp_path) as run:
        for _ in range(20):
            loop.step()
        run.save(19, **loop.components())
    for left_out in [None, "model", "optimizer", "scheduler", "dataloader", "rng"]:
        again = Loop(seed=1)
        with open_run(tmp_path) as run:
            components = again.components()
            if left_out:
                components.pop(left_out)
            assert run.resume(**components) == 20
        for _ in range(20, STEPS):
            again.step()
        assert (again.bits() == reached) == (left_out is None), left_out


def test_rewind(tmp_path: Path) -> None:
    """A live loop goes back and forward again, bit for bit, and another way from there; what the new way passes replaces the old."""
    loop = Loop()
    bits = {}
    with open_run(tmp_path) as run:
        for step in range(10):
            loop.step()
            bits[step] = loop.bits()
            run.save(step, **loop.components())
        for step in [3, 9, 0, 5, 5, 4]:
            assert run.rewind(step, **loop.components()) == step + 1
            assert loop.bits() == bits[step]
        # The same way again gives the same checkpoints.
        loop.step()
        assert loop.bits() == bits[5]
        assert run.save(5, **loop.components()).commit == run.lazy(5).commit
        # Another one.
        run.rewind(4, **loop.components())
        for group in loop.optimizer.param_groups:
            group["lr"] *= 2
        loop.step()
        assert loop.bits() != bits[5]
        run.save(5, **loop.components()).wait()
        again = Loop(seed=7)
        run.rewind(5, **again.components())
        assert again.bits() == loop.bits()
        with pytest.raises(tpde.NotFoundError, match="77"):
            run.rewind(77, model=again.model)
        assert again.bits() == loop.bits()


@pytest.mark.parametrize("damage", ["bit", "flip", "cut", "gone"])
def test_a_bad_newest_checkpoint(tmp_path: Path, damage: str) -> None:
    """A newest checkpoint that cannot be read is passed over, with a warning that names it; training goes on from the one before and
    replaces it.
    """
    loop = Loop()
    with open_run(tmp_path) as run:
        for step in range(3):
            loop.step()
            run.save(step, **loop.components()).wait()
            if step == 1:
                before, known = loop.bits(), set(packs(tmp_path))
    newest = [pack for pack in packs(tmp_path) if pack not in known]
    assert newest
    for pack in newest:
        content = bytearray(pack.read_bytes())
        pack.chmod(0o644)
        if damage == "gone":
            pack.unlink()
        elif damage == "bit":
            # In a frame: no footer tells, so that only who decodes it knows.
            content[len(content) // 3] ^= 1
            pack.write_bytes(content)
        elif damage == "cut":
            pack.write_bytes(content[: len(content) // 2])
        else:
            for at in range(64, len(content), 97):
                content[at] ^= 0x10
            pack.write_bytes(content)
    again = Loop(seed=3)
    untouched = again.bits()
    with open_run(tmp_path) as run:
        with pytest.raises(tpde.CorruptError):
            run.rewind(2, **again.components())
        assert again.bits() == untouched, "nothing is half loaded"
        with pytest.warns(UserWarning, match="run@2"):
            assert run.resume(**again.components()) == 2
        assert again.bits() == before
        again.step()
        assert again.bits() == loop.bits()
        run.save(2, **again.components()).wait()
    with open_run(tmp_path) as run, warnings.catch_warnings():
        warnings.simplefilter("error")
        third = Loop(seed=4)
        assert run.resume(**third.components()) == 3
        assert third.bits() == loop.bits()


def test_all_checkpoints_are_bad(tmp_path: Path) -> None:
    """With no readable checkpoint there is one error, not a fresh start."""
    loop = Loop()
    with open_run(tmp_path) as run:
        run.save(0, **loop.components())
    for pack in packs(tmp_path):
        pack.unlink()
    with open_run(tmp_path) as run, pytest.warns(UserWarning), pytest.raises(tpde.CorruptError, match="none of the 1"):
        run.resume(**loop.components())


def test_no_checkpoint_yet(tmp_path: Path) -> None:
    """A run that has none starts where the caller says, and touches nothing."""
    loop = Loop()
    bits = loop.bits()
    with open_run(tmp_path) as run:
        assert run.resume(**loop.components()) == 0
        assert run.resume(default=17, **loop.components()) == 17
        assert run.log() == []
    assert loop.bits() == bits


def test_moments_in_another_dtype_than_the_weights(tmp_path: Path) -> None:
    """Torch casts an optimizer's state to the dtype of the weights as it loads it; what was saved comes back all the same."""
    weight = torch.nn.Parameter(torch.randn(8, dtype=torch.bfloat16))
    optimizer = torch.optim.Adam([weight])
    moment = torch.randn(8, dtype=torch.float32)
    optimizer.state[weight] = {"step": torch.tensor(3.0), "exp_avg": moment, "exp_avg_sq": moment.square()}
    with open_run(tmp_path) as run:
        run.save(0, optimizer=optimizer)
        fresh = torch.optim.Adam([weight])
        assert run.resume(optimizer=fresh) == 1
    loaded = fresh.state[weight]["exp_avg"]
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded, moment)


def test_generators(tmp_path: Path) -> None:
    """Each generator goes on with the number that it would have drawn next; normals are drawn in pairs, and the second waits."""

    def draw() -> tuple[float, ...]:
        return (
            random.gauss(0, 1),
            random.random(),
            float(np.random.normal()),
            float(np.random.rand()),
            torch.randn(3).sum().item(),
        )

    draw()
    with open_run(tmp_path) as run:
        run.save(0, rng=True)
        expected = [draw() for _ in range(5)]
        assert run.resume(rng=True) == 1
        assert [draw() for _ in range(5)] == expected
