"""The guides of the frameworks do what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
import tpde
from conftest import need
from guides import GUIDES, blocks, run_guide


def steps(folder: Path, run: str) -> list[int]:
    """Steps that a run of the guide's store has, oldest first."""
    return [row["step"] for row in reversed(tpde.log(run, store=folder / "ckpts"))]


#: Ends the process in the middle of a training.
STOP = """
import {module} as _module

_step = _module.{name}.training_step


def _stop(self, *given, **named):
    if {state}.global_step == {at}:
        raise SystemExit(0)
    return _step(self, *given, **named)


_module.{name}.training_step = _stop
"""


def test_transformers(tmp_path: Path) -> None:
    """The guide of transformers runs, and goes on where it was stopped; the weights are where it says."""
    need("transformers")
    need("accelerate")
    page = GUIDES / "transformers.md"
    run_guide(page, tmp_path, before=STOP.format(module="transformers", name="Trainer", state="self.state", at=12))
    assert steps(tmp_path, "gpt") == [5, 10]
    run_guide(page, tmp_path, after="assert trainer.state.log_history[-1]['step'] == 20")
    assert steps(tmp_path, "gpt") == [5, 10, 15, 20]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["checkpoint-20"]
    assert tpde.load("gpt@15", file="model.safetensors", store=tmp_path / "ckpts")


def test_lightning(tmp_path: Path) -> None:
    """The guide of Lightning runs, and goes on where it was stopped; the weights are where it says."""
    need("lightning")
    page = GUIDES / "lightning.md"
    boring = "lightning.pytorch.demos.boring_classes"
    run_guide(page, tmp_path, before=STOP.format(module=boring, name="BoringModel", state="self.trainer", at=150))
    assert steps(tmp_path, "boring") == [64, 128]
    run_guide(page, tmp_path, after="import tpde.lightning\nassert tpde.lightning.load('out/last.ckpt')['global_step'] == 192")
    assert steps(tmp_path, "boring") == [64, 128, 192]
    assert len(list((tmp_path / "out").iterdir())) == 3
    assert tpde.load("boring@128", store=tmp_path / "ckpts")


def test_a_block_that_fails_is_told(tmp_path: Path) -> None:
    """A block of a guide that raises fails its test, and blocks of other languages are not run."""
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\n```\n\n```\nno python\n```\n\n```python\nassert x == 2\n```\n")
    assert blocks(page) == ["x = 1\n", "assert x == 2\n"]
    with pytest.raises(AssertionError, match="page.md: exit 1"):
        run_guide(page, tmp_path)
    page.write_text("nothing")
    with pytest.raises(AssertionError, match="has no Python block"):
        run_guide(page, tmp_path)
