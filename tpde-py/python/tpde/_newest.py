"""The newest checkpoint of a run that can be read."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

from tpde._errors import CorruptError
from tpde._tpde import Store


def take_newest(
    store: Store,
    run: str,
    take: Callable[[int], None],
    of_first: Callable[[Callable[[], int | None]], int | None] = lambda work: work(),
) -> int | None:
    """Reads the newest checkpoint of a run; one that is damaged is passed over, with a warning, for the one before.

    * ``take``: reads the checkpoint of a step; raises :class:`CorruptError`, having changed nothing, if it is damaged.
    * ``of_first``: what work gives on rank 0, so that all ranks try the same one.

    Gives the step; ``None`` if the run has no checkpoints. Raises :class:`CorruptError` if none can be read.
    """
    errors: list[str] = []
    steps = _newest_first(store, run)
    while (step := of_first(lambda: next(steps, None))) is not None:
        try:
            take(step)
        except CorruptError as error:
            errors.append(f"{run}@{step}: {error}")
            warnings.warn(f"passed over a checkpoint that cannot be read: {errors[-1]}", stacklevel=3)
            continue
        return step
    if errors:
        raise CorruptError(
            f"none of the {len(errors)} checkpoints of {run} can be read. "
            f"Run `tpde verify` and `tpde repair packs`. The newest: {errors[0]}"
        )
    return None


def _newest_first(store: Store, run: str) -> Iterator[int]:
    """The steps of a run; more than one is asked for only if more than one is looked at."""
    if store.tip(run) is not None:
        yield from (int(row["step"]) for row in store.log(run, 1))
        yield from (int(row["step"]) for row in store.log(run, None)[1:])
