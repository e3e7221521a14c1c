"""The programs of the guide to several processes, as torchrun starts them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
import tpde
from tpde.torch.dcp import StorageReader

_GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "distributed.md"
#: The programs, in the order of the guide.
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", _GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPDE_CACHE_DIR", str(tmp_path / "cache"))


def start(program: str, folder: Path) -> None:
    """Runs a program on two ranks, in ``folder``."""
    (folder / "train.py").write_text(program, encoding="utf-8")
    package = str(Path(tpde.__file__).parents[1])
    launched = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": package, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert launched.returncode == 0, launched.stderr


def test_ddp_as_the_guide_says(tmp_path: Path) -> None:
    """The program for DDP saves every step, and goes on where it ended when it is started again."""
    program = PROGRAMS[0]
    assert "range(start, 10)" in program
    for steps in (6, 10):
        start(program.replace("range(start, 10)", f"range(start, {steps})"), tmp_path)
        logged = tpde.log("ddp", store=tmp_path / "checkpoints")
        assert [row["step"] for row in logged] == list(range(steps))[::-1]
    files = tpde.lazy("ddp@9", store=tmp_path / "checkpoints").files
    assert {"model.safetensors", "rank-0/tpde-state.json", "rank-1/tpde-state.json"} <= set(files)


@pytest.mark.filterwarnings("ignore:torch.distributed is")
def test_dcp_as_the_guide_says(tmp_path: Path) -> None:
    """The program for DCP saves and loads shards, and one process loads them whole."""
    start(PROGRAMS[1], tmp_path)
    assert [row["step"] for row in tpde.log("fsdp", store=tmp_path / "checkpoints")] == [3, 2, 1]
    state = {"model": {"0.weight": torch.zeros(16, 4)}}
    dcp.load(state, storage_reader=StorageReader(tmp_path / "checkpoints", "fsdp@3"))
    assert state["model"]["0.weight"].count_nonzero() > 0


def test_the_guide_has_no_other_programs() -> None:
    """Every program of the guide is run here."""
    assert len(PROGRAMS) == 2
