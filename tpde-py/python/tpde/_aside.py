"""Folders beside a trainer's checkpoints that one process works in, and what a killed process left of them.

::

    out/checkpoint-500
    out/.tpde-1f0c9a3e.work/lock      locked for as long as its process works in it
    out/.tpde-1f0c9a3e.work/files     links to the files of checkpoint-500

No trainer and no ``tpde import`` takes such a name for a checkpoint.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
from pathlib import Path

from tpde._errors import BackendError

_NAME = re.compile(r"\.tpde-[0-9a-f]{8}\.work\Z")
#: How often a folder is made again that another process swept away before it was locked.
_ATTEMPTS = 5


class Aside:
    """A folder of this process's own, on the file system of its parent.

    Raises :class:`OSError` where files cannot be locked.
    """

    def __init__(self, parent: Path) -> None:
        for _ in range(_ATTEMPTS):
            self._folder = parent / f".tpde-{secrets.token_hex(4)}.work"
            self._folder.mkdir()
            try:
                self._lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Somebody who swept may have come between.
                if self._folder.is_dir():
                    return
            except BlockingIOError:
                pass
            except OSError:
                self.remove()
                raise
            os.close(self._lock)
        raise BackendError(f"{parent}: no folder can be kept there. Let one training write to it at a time")

    @property
    def files(self) -> Path:
        """Where its files go; not made yet."""
        return self._folder / "files"

    @property
    def old(self) -> Path:
        """Where what they replace goes; not made yet."""
        return self._folder / "old"

    def remove(self) -> None:
        """Removes it and what is in it."""
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._lock)


def link_tree(source: Path, target: Path) -> None:
    """Makes ``target`` a directory of the same files: the same bytes on the disk, which stay when ``source`` is deleted.

    Raises :class:`OSError` where files cannot be linked.
    """
    target.mkdir()
    with os.scandir(source) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                link_tree(Path(entry.path), target / entry.name)
            else:
                # A link to a link would be one to a name.
                os.link(os.path.realpath(entry.path), target / entry.name)
    shutil.copymode(source, target)


def sweep(parent: Path) -> None:
    """Removes the folders that processes left in ``parent`` which are no more."""
    try:
        left = [name for name in os.listdir(parent) if _NAME.match(name)]
    except FileNotFoundError:
        return
    for name in left:
        folder = parent / name
        try:
            lock = os.open(folder / "lock", os.O_RDWR)
        except OSError:
            # Its process died before it locked it, or is about to; an empty one can go in both cases.
            with contextlib.suppress(OSError):
                folder.rmdir()
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            # Somebody works in it.
            pass
        finally:
            os.close(lock)
