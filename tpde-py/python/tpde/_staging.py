"""Copies of a state's arrays that no later step of the training can reach."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

from tpde import _arrays
from tpde._errors import InputError
from tpde._state import Snapshot
from tpde._tpde import Staging

#: Arrays begin at multiples of this in a staging buffer, in bytes.
_ALIGNMENT = 64


class Plan:
    """Where each array of some snapshots goes in a staging buffer. Arrays that share their memory share it there, too."""

    def __init__(self, snapshots: list[Snapshot]) -> None:
        self._snapshots = snapshots
        self.len_bytes = 0
        self._copies: list[tuple[int, int, int]] = []
        self._gathers: list[tuple[_arrays.Array, int]] = []
        self._offsets: list[list[int]] = []
        known: dict[tuple[Any, ...], int] = {}
        self._files = [file for snapshot in snapshots for file in snapshot.files]
        for file in self._files:
            self._offsets.append([self._place(array, known) for array in file.arrays])

    def _place(self, array: _arrays.Array, known: dict[tuple[Any, ...], int]) -> int:
        key = (array.address, array.len_bytes)
        if array.address is not None and array.len_bytes and key in known:
            return known[key]
        offset = self.len_bytes
        self.len_bytes = -(-(offset + array.len_bytes) // _ALIGNMENT) * _ALIGNMENT
        if array.len_bytes == 0:
            return offset
        if array.address is None:
            self._gathers.append((array, offset))
        else:
            known[key] = offset
            self._copies.append((array.address, array.len_bytes, offset))
        return offset

    def fill(self, staging: Staging, threads: int) -> None:
        """Copies every array in."""
        staging.copy_in(self._copies, threads)
        for array, offset in self._gathers:
            target = (ctypes.c_char * array.len_bytes).from_address(staging.address + offset)
            _arrays.gather(array, memoryview(target).cast("B"))

    def files(self, staging: Staging) -> list[tuple[str, list[Any]]]:
        """The files of the checkpoint: path, and stretches of bytes."""
        files: list[tuple[str, list[Any]]] = []
        for file, offsets in zip(self._files, self._offsets, strict=True):
            stretches: list[Any] = [file.header]
            stretches += [
                (staging, offset, array.len_bytes) for array, offset in zip(file.arrays, offsets, strict=True) if array.len_bytes
            ]
            files.append((file.path, stretches))
        states = [snapshot.state for snapshot in self._snapshots]
        return [*files, *((path, [state]) for path, state in states)]


class Pool:
    """Staging buffers, of no more bytes together than a budget.

    * ``budget``: in bytes; ``None`` for one buffer, as large as the state.
    * ``changed``: what the worker that gives buffers back is guarded by.
    """

    def __init__(self, budget: int | None, threads: int, changed: threading.Condition) -> None:
        self.budget = budget
        self.threads = threads
        self.changed = changed
        self._free: list[Staging] = []
        self._taken: list[Staging] = []

    def take(self, len_bytes: int, wait: Callable[[], bool]) -> Staging | None:
        """A buffer of at least ``len_bytes``, not used by anybody else.

        * ``wait``: whether to wait, if there is none now.

        Raises :class:`InputError` if the budget is too small for it.
        """
        if self.budget is not None and len_bytes > self.budget:
            raise InputError(
                f"the state takes {len_bytes} bytes, staging_bytes allows {self.budget}. "
                "Raise staging_bytes, or save fewer components"
            )
        with self.changed:
            while True:
                staging = self._fitting(len_bytes)
                if staging is not None:
                    self._taken.append(staging)
                    return staging
                if not wait():
                    return None
                self.changed.wait()

    def _fitting(self, len_bytes: int) -> Staging | None:
        for staging in self._free:
            if staging.len_bytes >= len_bytes:
                self._free.remove(staging)
                return staging
        # Those that are too small make room.
        self._free.clear()
        if self.budget is None:
            allowed = not self._taken
        else:
            allowed = sum(staging.len_bytes for staging in self._taken) + len_bytes <= self.budget
        return Staging(len_bytes, self.threads) if allowed else None

    def give_back(self, staging: Staging) -> None:
        """Takes a buffer back that nobody reads any more."""
        with self.changed:
            self._taken.remove(staging)
            self._free.append(staging)
            self.changed.notify_all()

    def drop(self) -> None:
        """Frees the buffers that nobody uses."""
        with self.changed:
            self._free.clear()
