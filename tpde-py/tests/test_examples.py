"""The examples do what they say."""

from __future__ import annotations

import re
from pathlib import Path

from common import finished, python
from conftest import need

need("torch")

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, *arguments: object) -> str:
    code = f"import runpy, sys; sys.argv = sys.argv[:]; sys.argv[0] = {name!r}; runpy.run_path({str(EXAMPLES / name)!r}, run_name='__main__')"
    return finished(python(code, *arguments))


def test_undo_spike(tmp_path: Path) -> None:
    """The loss spike is noticed, undone and trained past."""
    printed = run("undo_spike.py", tmp_path)
    assert "step 60: a spike" in printed
    loss = float(re.search(r"step 119: loss ([0-9.]+)", printed)[1])
    assert loss < 1


def test_train_tiny(tmp_path: Path) -> None:
    """A small transformer trains on real text, is killed, resumes, and ends with the weights of a training that was not killed."""
    killed = run("train_tiny.py", tmp_path / "killed", "--steps", 24, "--kill-at", 8)
    whole = run("train_tiny.py", tmp_path / "whole", "--steps", 24)
    assert re.search(r"killed after step \d+ was stored\ngoes on with step", killed), killed
    weights = re.search(r"weights (\w{16})", whole)[0]
    assert weights in killed
    losses = [float(loss) for loss in re.findall(r"loss ([0-9.]+)", whole)]
    assert losses[-1] < losses[0] - 1
