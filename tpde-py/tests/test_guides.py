"""The guides for loops do what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from conftest import need
from guides import GUIDES, run_guide


def test_pytorch(tmp_path: Path) -> None:
    """The guide to PyTorch trains, loads and rewinds."""
    need("torch")
    run_guide(GUIDES / "pytorch.md", tmp_path)


def test_jax(tmp_path: Path) -> None:
    """The guide to JAX saves and loads trees of arrays."""
    need("jax")
    run_guide(GUIDES / "jax.md", tmp_path)


def test_migration(tmp_path: Path) -> None:
    """The guide from torch.save and Hugging Face works on a folder as a trainer leaves it."""
    torch = need("torch")
    folder = tmp_path / "out" / "checkpoint-500"
    folder.mkdir(parents=True)
    torch.save({"layer.weight": torch.randn(4, 4)}, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps({"model_type": "none"}))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for words in [
        "init checkpoints",
        "import out --run llama --store checkpoints --yes",
        "restore llama@500 back --store checkpoints",
    ]:
        subprocess.run([sys.executable, "-m", "tpde", *words.split()], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "back" / "pytorch_model.bin").read_bytes() == (folder / "pytorch_model.bin").read_bytes()
    run_guide(GUIDES / "migration.md", tmp_path)
