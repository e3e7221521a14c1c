"""TPDE keeps every checkpoint of a training run for the price of a few, and restores any of them bit for bit.

::

    run = tpde.open("checkpoints", run="llama")
    start = run.resume(model=model, optimizer=optimizer, rng=True)
    for step in range(start, steps):
        ...
        run.save(step, model=model, optimizer=optimizer, rng=True, metrics={"loss": loss})
    run.close()
"""

from __future__ import annotations

import os
from typing import Any

from tpde import _ranks
from tpde._commit import open_to_save
from tpde._errors import (
    BackendError,
    CancelledError,
    ConflictError,
    CorruptError,
    InputError,
    NewerError,
    NotFoundError,
    OutcomeUnknownError,
    TpdeError,
)
from tpde._keep import Keep
from tpde._load import Lazy, LazyTensor, load, load_into, store_of
from tpde._run import Handle, Run
from tpde._tpde import Store, __version__

__all__ = [
    "BackendError",
    "CancelledError",
    "ConflictError",
    "CorruptError",
    "Handle",
    "InputError",
    "Keep",
    "Lazy",
    "LazyTensor",
    "NewerError",
    "NotFoundError",
    "OutcomeUnknownError",
    "Run",
    "TpdeError",
    "__version__",
    "diff",
    "lazy",
    "load",
    "load_into",
    "log",
    "open",
    "runs",
]

#: What a store may be named by: an open one, a path or a URL, or ``None`` for what ``TPDE_STORE`` says.
_Place = Store | str | os.PathLike[str] | None


def open(
    location: str | os.PathLike[str],
    run: str,
    *,
    keep: Keep | None = None,
    create: bool = True,
    threads: int | None = None,
    copy_threads: int | None = None,
    staging_bytes: int | None = None,
    on_busy: str = "wait",
    rank_timeout_s: float = _ranks.TIMEOUT_S,
    alone: bool = False,
) -> Run:
    """Opens a run of a store, to save to and to resume from.

    * ``location``: a path, or a URL such as ``s3://bucket/prefix``. A store is made there if there is none, unless ``create`` is false.
    * ``run``: its name. A run begins with its first save.
    * ``keep``: which checkpoints stay; all of them by default.
    * ``threads``: how many encode in the background; by default a quarter of the cores, for the training has better uses of them.
    * ``copy_threads``: how many copy while a save stalls the loop; by default all cores.
    * ``staging_bytes``: most bytes of copies that wait to be stored; by default those of one state.
    * ``on_busy``: what a save does while there is no room for another copy: ``"wait"``, or ``"skip"`` the step.

    * ``rank_timeout_s``: longest that ranks of ``torch.distributed`` wait for one another: rank 0 for the others' parts of a save, which is
      not committed without them, and each for all when they open and resume.
    * ``alone``: this process saves by itself, whatever ``torch.distributed`` says: for a run that only one rank opens.

    With ``torch.distributed``, every rank opens the run, and saves and resumes at the same steps.

    Raises :class:`tpde.InputError`, :class:`tpde.NotFoundError` or :class:`tpde.BackendError` for a place that is none.
    """
    ranks = _ranks.here(rank_timeout_s, alone)

    def opened() -> Run:
        return Run(open_to_save(location, create, threads), run, keep, copy_threads, staging_bytes, on_busy, ranks)

    return ranks.together(opened, same=lambda run: run.name)


def log(run: str, most: int | None = None, *, store: _Place = None) -> list[dict[str, Any]]:
    """The checkpoints of a run, newest first, as rows that ``pandas.DataFrame`` takes.

    * ``most``: the newest so many; all of them by default.
    * ``store``: where it is; by default what ``TPDE_STORE`` says.
    """
    return store_of(store).log(run, most)


def runs(*, store: _Place = None) -> list[str]:
    """Names of the runs of a store."""
    return store_of(store).runs()


def diff(old: str, new: str, *, store: _Place = None) -> list[dict[str, Any]]:
    """How the tensors of two checkpoints differ, as rows that ``pandas.DataFrame`` takes.

    * ``old``, ``new``: ``run@step``, ``run@latest``, ``run~2``, a tag or the beginning of an id.
    """
    return store_of(store).diff(old, new)


def lazy(reference: str, *, store: _Place = None) -> Lazy:
    """A checkpoint whose tensors are read as they are asked for, a slice at a time if only that is wanted."""
    return Lazy(store_of(store).checkpoint(reference))
