"""Runs the Python of a guide as its reader would: the blocks of one page, one after another, in a new process and an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

#: Where the guides are.
GUIDES = Path(__file__).parents[2] / "docs" / "guides"
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: Path) -> list[str]:
    """The Python blocks of a page."""
    return _BLOCK.findall(page.read_text(encoding="utf-8"))


def run_guide(page: Path, tmp_path: Path, before: str = "", after: str = "") -> str:
    """Runs the blocks of ``page`` in ``tmp_path`` and gives what they print.

    * ``before``: Python that makes what the page takes for granted, such as a model of the reader's own.
    * ``after``: Python that asserts what the page promises.
    """
    found = blocks(page)
    assert found, f"{page.name} has no Python block"
    script = tmp_path / "guide.py"
    script.write_text("\n".join([before, *found, after]), encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, script.name],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ran.returncode == 0, f"{page.name}: exit {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout
