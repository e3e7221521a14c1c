"""Commits to a run: what a save says beside its files, whether another writer was there, and what is forgotten afterwards."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tpde._errors import ConflictError, InputError, OutcomeUnknownError
from tpde._keep import Keep
from tpde._load import open_store
from tpde._tpde import SaveReport, Store, check_metrics

_T = TypeVar("_T")


def open_to_save(location: str | os.PathLike[str], create: bool = True, threads: int | None = None) -> Store:
    """Opens a store that a training loop saves to.

    * ``threads``: how many encode; by default a quarter of the cores, for the training has better uses of them.
    """
    return open_store(location, create, threads or max(1, (os.cpu_count() or 1) // 4))


def options(metrics: Mapping[str, float], note: str, replace: bool, parent: str | None = None) -> dict[str, Any]:
    """What the store is told beside the files of a save."""
    return {
        "metrics": dict(metrics),
        "note": note,
        "environment": {},
        "replace": replace,
        "expect_parent": None,
        "parent": parent,
    }


def settled(save: Callable[[], _T]) -> _T:
    """What a save gives; asked again if it is not known what became of it."""
    try:
        return save()
    except OutcomeUnknownError:
        # The same again is harmless, and tells.
        return save()


def prune(store: Store, run: str, keep: Keep | None, step: int) -> list[int]:
    """Forgets what ``keep`` does not keep of a run, now that ``step`` is saved; gives the steps."""
    if keep is None:
        return []
    try:
        return store.prune(run, keep.last, keep.every, keep.rules(), keep.tags, keep.within)
    except Exception as error:
        warnings.warn(f"step {step} is saved, and nothing was forgotten: {error}", stacklevel=1)
        return []


class StepTakenError(ConflictError):
    """The run holds the step with other content."""


class Committer:
    """Commits checkpoints to a run, one after another, unless another writer has added to it.

    * ``keep``: which checkpoints stay.
    """

    def __init__(self, store: Store, run: str, keep: Keep | None = None) -> None:
        self.run = run
        self._store = store
        self._keep = keep
        # Also says now that a name is none, or a store cannot be read.
        self._tip = store.tip(run)
        self._own: set[str] = set()
        #: A step above this takes the place of the one that the run holds; ``None`` for no step.
        self.redone_above: int | None = None

    @property
    def tip(self) -> str | None:
        """Id of the run's newest checkpoint, as far as is known here."""
        return self._tip

    def take_over(self) -> None:
        """Goes on from what is in the run by now: who resumes from it knows it."""
        self._tip = self._store.tip(self.run)

    def options(
        self,
        step: int,
        metrics: Mapping[str, float] | None = None,
        note: str = "",
        replace: bool | None = None,
        parent: str | None = None,
    ) -> dict[str, Any]:
        """What a save is told beside its files.

        * ``replace``: let it stand for a step that the run holds with other content; by default, if the step is redone.
        * ``parent``: what deltas may be taken against if the run has nothing yet.
        """
        is_redone = self.redone_above is not None and step > self.redone_above
        return options(numbers(metrics), note, is_redone if replace is None else bool(replace), parent)

    def commit(
        self, save: Callable[[dict[str, Any]], SaveReport | None], step: int, options: dict[str, Any]
    ) -> SaveReport | None:
        """Stores and commits.

        * ``save``: does so, given options; gives ``None`` if another process commits.

        Raises :class:`StepTakenError`, or :class:`ConflictError` if another writer has added to the run.
        """
        while True:
            options["expect_parent"] = self._tip or ""
            try:
                report = settled(lambda: save(options))
            except ConflictError as error:
                tip = self._store.tip(self.run)
                # Somebody forgot our newest: an older one of ours is no other writer's.
                if tip == self._tip or (tip is not None and tip not in self._own):
                    raise self._in_python(error, step, tip == self._tip) from error
                self._tip = tip
                continue
            if report is not None:
                self._tip = self._store.tip(self.run) if report.already_there else report.commit
                self._own.add(report.commit)
            return report

    def prune(self, step: int) -> list[int]:
        """Forgets what ``keep`` does not keep, now that ``step`` is saved; gives the steps."""
        return prune(self._store, self.run, self._keep, step)

    def _in_python(self, error: ConflictError, step: int, is_step: bool) -> ConflictError:
        """The same in the words of this package."""
        if is_step:
            return StepTakenError(
                f"step {step} is in run {self.run} with other content. "
                "Resume the run first, pass replace=True, or open a run of another name"
            )
        return ConflictError(
            f"another writer has added to run {self.run} since it was opened here: {error}. Only one training loop saves to a run"
        )


def numbers(metrics: Mapping[str, float] | None) -> dict[str, float]:
    """Metrics as floats.

    Raises :class:`InputError`, naming the metric, for what is no number.
    """
    floats = {}
    for name, value in (metrics or {}).items():
        try:
            floats[name] = float(value.detach() if hasattr(value, "detach") else value)
        except (TypeError, ValueError) as error:
            raise InputError(f"metric {name}: {value!r} is no number. Pass what float() takes") from error
    check_metrics(floats)
    return floats


def storable(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those of a trainer's numbers that a checkpoint can have: the first of too many, by names that a store takes.

    For numbers that nobody chose to save; :func:`numbers` is for those that somebody passes.
    """
    chosen: dict[str, float] = {}
    for name, value in metrics.items():
        try:
            check_metrics({**chosen, name: value})
        except InputError:
            continue
        chosen[name] = value
    return chosen
