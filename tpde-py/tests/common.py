"""What several tests need: stores in temporary folders, loops that train, processes that are killed."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import tpde

#: Where a test's helper modules are, for processes that it starts.
HERE = Path(__file__).parent


def open_run(folder: Path, run: str = "run", **options: Any) -> tpde.Run:
    """A run of a store below ``folder``."""
    return tpde.open(folder / "store", run=run, **options)


def python(code: str, *arguments: object, **variables: str) -> subprocess.Popen[str]:
    """Starts a process that runs ``code``, with what it prints piped."""
    source = textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-c", source, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]), **variables},
    )


def finished(process: subprocess.Popen[str], code: int = 0) -> str:
    """What a process printed that must end with ``code``."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, f"exit {process.returncode}\n{out}\n{err}"
    return out + err


def packs(folder: Path) -> list[Path]:
    """The packs of the store below ``folder``, oldest first."""
    found = [path for path in (folder / "store" / "packs").rglob("*") if path.is_file()]
    return sorted(found, key=lambda path: path.stat().st_mtime_ns)
