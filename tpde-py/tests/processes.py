"""Real processes that form one group of torch.distributed, for tests.

A server that has imported torch once makes each of them by a fork, so that they start in milliseconds and know nothing of the test's own
threads. They meet by a file, and no test needs a free port.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import time
import traceback
import uuid
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed as dist

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch", "torch._dynamo", "torch.distributed.checkpoint", "torch.distributed.fsdp", "tpde"])
#: After so many seconds a test hangs, and is ended.
_HANGS_S = 180.0


class Ended(NamedTuple):
    """How a process ended."""

    #: What its work returned; ``None`` if it did not.
    value: Any
    #: The error that it ended with, as text.
    error: str | None
    was_killed: bool


def run_ranks(folder: Path, of: int, work: Callable[..., Any], *args: Any) -> list[Ended]:
    """Does ``work(rank, *args)`` in each of some processes, and says how they ended, by rank.

    * ``folder``: where they meet, and have their cache.
    """
    meeting = folder / f"meeting-{uuid.uuid4().hex}"
    pipes: list[Connection] = []
    processes = []
    for rank in range(of):
        ours, theirs = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(target=_rank, args=(theirs, str(folder), str(meeting), rank, of, work, args))
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    said: dict[int, tuple[Any, str | None]] = {}
    hangs_at = time.monotonic() + _HANGS_S
    try:
        open_pipes = {pipe: rank for rank, pipe in enumerate(pipes)}
        while open_pipes:
            ready = wait(list(open_pipes), timeout=max(0.0, hangs_at - time.monotonic()))
            if not ready:
                raise AssertionError(f"ranks {sorted(open_pipes.values())} hang; the others said {said}")
            for pipe in ready:
                rank = open_pipes.pop(pipe)  # type: ignore[call-overload]
                with contextlib.suppress(EOFError):
                    said[rank] = pickle.loads(pipe.recv_bytes())  # type: ignore[union-attr]
        for process in processes:
            process.join(max(0.0, hangs_at - time.monotonic()))
    finally:
        for process in processes:
            process.kill()
            process.join()
    ended = []
    for rank, process in enumerate(processes):
        value, error = said.get(rank, (None, None))
        ended.append(Ended(value, error, process.exitcode == -signal.SIGKILL and rank not in said))
    return ended


def values(ended: list[Ended]) -> list[Any]:
    """What each process returned. Fails if one did not return."""
    for rank, one in enumerate(ended):
        assert one.error is None and not one.was_killed, f"rank {rank}: {one.error or 'it was killed'}"
    return [one.value for one in ended]


def die() -> None:
    """Ends this process at once, as the kernel does when memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


def _rank(
    pipe: Connection, folder: str, meeting: str, rank: int, of: int, work: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    os.environ["TPDE_CACHE_DIR"] = f"{folder}/cache"
    try:
        import torch

        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=of)
        said: tuple[Any, str | None] = (work(rank, *args), None)
    except BaseException:
        said = (None, traceback.format_exc())
    # By value: tensors that are sent otherwise are gone with the process.
    pipe.send_bytes(pickle.dumps(said))
    pipe.close()
