"""Open runs are finished before the process ends: at exit, and on SIGTERM.

A child of ``fork`` has none of its parent's threads, so a run that was open before is of no use there; it says so.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import weakref
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tpde._worker import Worker

_workers: weakref.WeakSet[Worker] = weakref.WeakSet()
_previous: Any = None
_is_ready = False


def watch(worker: Worker) -> None:
    """Sees to it that the saves of ``worker`` are finished before the process ends."""
    global _is_ready
    _workers.add(worker)
    if not _is_ready:
        _is_ready = True
        atexit.register(_at_exit)
        _take_sigterm()


def _take_sigterm() -> None:
    global _previous
    # Handlers belong to the main thread; what another program installed in C is not replaced.
    if threading.current_thread() is not threading.main_thread():
        return
    previous = signal.getsignal(signal.SIGTERM)
    if previous is None:
        return
    _previous = previous
    signal.signal(signal.SIGTERM, _on_sigterm)


def _finish(why: str, hurry: bool) -> None:
    mine = [worker for worker in _workers if worker.pid == os.getpid()]
    for worker in mine:
        if hurry:
            worker.hurry()
    for worker in mine:
        for error in worker.drain():
            print(f"tpde: {why}, a save failed: {error}", file=sys.stderr, flush=True)


def _at_exit() -> None:
    # After an error that nobody caught, other ranks may have ended, too.
    _finish("at exit", hurry=getattr(sys, "last_value", None) is not None)


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    _finish("on SIGTERM", hurry=True)
    if callable(_previous):
        _previous(number, frame)
    elif _previous == signal.SIG_DFL:
        # Ends as it would have ended, so that whoever waits sees the signal.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)
