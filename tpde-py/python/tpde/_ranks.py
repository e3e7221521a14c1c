"""Whether this process is one of several that train together, what each of them saves, and what they agree on.

With ``torch.distributed``, every rank calls the same methods of a run. Rank 0 saves what all ranks have alike; every rank saves its own
generators, its own place in the data, and its part of what is sharded::

    rank 0   model.safetensors, optimizer.safetensors, tpde-state.json, rank-0/…   ─┐
    rank 1   rank-1/…                                                             ─┴─▶ one commit, by rank 0, once every part is there

A save goes through the store alone: whoever waits there for a rank that died waits for so long, and no longer. Opening and going back to a
checkpoint are agreed on: what fails on one rank fails on all of them, before any of them goes on.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

from tpde import _arrays, _errors
from tpde._errors import BackendError, ConflictError, CorruptError, InputError, NotFoundError, TpdeError
from tpde._state import STATE_FILE, shown
from tpde._tpde import Checkpoint, SaveReport, Store

_T = TypeVar("_T")

#: Components that differ from rank to rank, whatever the caller says.
_OWN = ("rng", "dataloader")
#: Longest that ranks wait for one another, in seconds, if the caller says nothing.
TIMEOUT_S = 1800.0
#: Longest that they do so in a process that ends, which is killed if it takes its time.
_LAST_TIMEOUT_S = 20.0
_FOLDER = re.compile(rf"rank-[0-9]+/{re.escape(STATE_FILE)}\Z")


class Alone:
    """A process that trains by itself.

    * ``by_choice``: even if it is one of several.
    """

    def __init__(self, by_choice: bool = False) -> None:
        self._by_choice = by_choice

    def together(self, work: Callable[[], _T], same: Callable[[_T], Any] | None = None) -> _T:
        """What ``work`` gives, once every rank has done it."""
        self._check()
        return work()

    def of_first(self, work: Callable[[], _T]) -> _T:
        """What ``work`` gives on rank 0."""
        return work()

    def word(self, step: int) -> str:
        """What the parts of a save share."""
        self._check()
        return ""

    def _check(self) -> None:
        if not self._by_choice and _number_of_ranks() > 1:
            raise InputError(
                "the run was opened before torch.distributed began, so its ranks do not know of one another. "
                "Open it afterwards, or with alone=True on one of them"
            )

    def hurry(self) -> None:
        """The process is about to end."""

    def close(self) -> None:
        """Nothing more is agreed on."""

    def mine(self, components: Mapping[str, Any], sharded: tuple[str, ...]) -> dict[str, dict[str, Any]]:
        """What this process saves, by the folder that it goes to."""
        return {"": dict(components)}

    def find(self, checkpoint: Checkpoint, names: list[str], sharded: tuple[str, ...]) -> dict[str, list[str]]:
        """Where this process finds components, by folder.

        Raises :class:`InputError` if each of several ranks had its own.
        """
        _check_number(checkpoint, 1, _own(names, sharded))
        return {"": names}

    def save(self, store: Store, files: list[Any], run: str, step: int, word: str, options: dict[str, Any]) -> SaveReport | None:
        """Saves and commits."""
        return store.save(files, run, step, options)


class Rank:
    """One of several processes that train together.

    * ``group``: a process group of all ranks that nobody else uses, on the CPU: what is said here must not meet the training's own words.
    * ``timeout_s``: longest that ranks wait for one another.
    """

    def __init__(self, distributed: Any, group: Any, timeout_s: float) -> None:
        self.rank: int = distributed.get_rank()
        self.of: int = distributed.get_world_size()
        self._distributed, self._group, self._timeout_s = distributed, group, timeout_s
        self._is_closed = False
        self._ends_at: float | None = None
        # What all ranks of this start of the job share, and no other start.
        self._job: str = self._tell(secrets.token_hex(8))[0]
        # How often each step was begun.
        self._begun: Counter[int] = Counter()

    def _tell(self, said: _T) -> list[_T]:
        """What every rank says, by rank. All of them must call this."""
        heard: list[Any] = [None] * self.of
        try:
            self._distributed.all_gather_object(heard, said, group=self._group)
        except (RuntimeError, ValueError) as error:
            raise BackendError(
                f"rank {self.rank} could not agree with the others: {error}. One of them has ended, or does not call what this one "
                "calls. See what it said, and start all of them again"
            ) from error
        return heard

    def together(self, work: Callable[[], _T], same: Callable[[_T], Any] | None = None) -> _T:
        """What ``work`` gives here, once every rank has done it.

        * ``same``: what must be the same on all ranks about what they were given.

        Raises on every rank if it failed on one, an error of the same class: :class:`CorruptError` only if no rank has worse to tell.
        """
        if self._is_closed:
            return work()
        given: Any = None
        error: BaseException | None = None
        try:
            given = work()
        except BaseException as raised:
            error = raised
        about = repr(same(given)) if same is not None and error is None else None
        try:
            heard = self._tell((None if error is None else (type(error).__name__, str(error)), about))
        except BackendError as unheard:
            if error is None:
                raise
            raise error from unheard
        failed = [(rank, *said) for rank, (said, _) in enumerate(heard) if said is not None]
        if failed:
            rank, kind, message = next((one for one in failed if one[1] != CorruptError.__name__), failed[0])
            if rank == self.rank and error is not None:
                raise error
            raise _class_of(kind)(f"rank {rank}: {message if _is_ours(kind) else f'{kind}: {message}'}") from error
        other = next((rank for rank, (_, theirs) in enumerate(heard) if theirs != heard[0][1]), None)
        if other is not None:
            raise ConflictError(
                f"rank 0 has {heard[0][1]}, rank {other} has {heard[other][1]}. "
                "All ranks must open the same run of the same store, and call the same methods"
            )
        result: _T = given
        return result

    def of_first(self, work: Callable[[], _T]) -> _T:
        """What ``work`` gives on rank 0; nobody else does it."""
        given: Any = self.together(work if self.rank == 0 else lambda: None)
        result: _T = self._tell(given)[0]
        return result

    def word(self, step: int) -> str:
        """What the parts of the save of ``step`` that begins now share, and those of no other save. Every rank asks at the same saves."""
        self._begun[step] += 1
        return f"{self._job}-{self._begun[step]}"

    def hurry(self) -> None:
        """The process is about to end: the others are waited for only as long as it may take."""
        if self._ends_at is None:
            self._ends_at = time.monotonic() + _LAST_TIMEOUT_S

    def close(self) -> None:
        """Nothing more is agreed on."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._group is not None and self._distributed.is_initialized():
            # It may have gone when the caller ended torch.distributed.
            with contextlib.suppress(RuntimeError, ValueError, AssertionError):
                self._distributed.destroy_process_group(self._group)
        self._group = None

    def mine(self, components: Mapping[str, Any], sharded: tuple[str, ...]) -> dict[str, dict[str, Any]]:
        """What this rank saves, by the folder that it goes to."""
        parts: dict[str, dict[str, Any]] = {}
        for folder, names in self._folders(list(components), sharded).items():
            if folder or self.rank == 0:
                parts[folder] = {name: components[name] for name in names}
        return parts

    def _folders(self, names: list[str], sharded: tuple[str, ...]) -> dict[str, list[str]]:
        own = _own(names, sharded)
        # Every rank has a part, even if there is nothing in it: rank 0 waits for all.
        return {"": [name for name in names if name not in own], f"rank-{self.rank}/": own}

    def find(self, checkpoint: Checkpoint, names: list[str], sharded: tuple[str, ...]) -> dict[str, list[str]]:
        """Where this rank finds components, by folder.

        Raises :class:`InputError` if each rank had its own, and there were more or fewer of them.
        """
        folders = self._folders(names, sharded)
        _check_number(checkpoint, self.of, _own(names, sharded))
        return folders

    def save(self, store: Store, files: list[Any], run: str, step: int, word: str, options: dict[str, Any]) -> SaveReport | None:
        """Saves this rank's part; rank 0 then commits, once every other part is there. The same again is harmless.

        Raises :class:`NotFoundError` if one does not come: nothing is committed then.
        """
        store.save_part(files, run, step, word, self.rank, self.of)
        if self.rank != 0:
            return None
        began, pause = time.monotonic(), 0.02
        while True:
            try:
                return store.commit_parts(run, step, word, options)
            except NotFoundError as error:
                ends_at = began + self._timeout_s
                if time.monotonic() >= min(ends_at, self._ends_at or ends_at):
                    raise NotFoundError(
                        f"step {step} of {run} is not committed: rank 0 waited {time.monotonic() - began:.0f} s for the parts of the "
                        f"others. See what they said, and whether all ranks see the same store ({error})"
                    ) from error
            time.sleep(pause)
            pause = min(2 * pause, 2.0)


def here(timeout_s: float, alone: bool) -> Alone | Rank:
    """What this process is. With ``torch.distributed`` every rank must call this at once, unless it is to be ``alone``.

    Raises :class:`BackendError` if one of them does not.
    """
    if not 0 < timeout_s < timedelta.max.total_seconds():
        raise InputError(f"rank_timeout_s is {timeout_s}. Give it the seconds that ranks may wait for one another")
    if alone or _number_of_ranks() == 1:
        return Alone(by_choice=alone)
    distributed = _arrays.torch_or_none().distributed
    group = None
    if distributed.is_gloo_available():
        try:
            group = distributed.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        except RuntimeError as error:
            raise BackendError(
                f"the ranks could not meet: {error}. Every one of them must open the run, or only one, with alone=True"
            ) from error
    return Rank(distributed, group, timeout_s)


def wait_for_all() -> None:
    """Returns once every rank has called this. For those that have no run of all ranks."""
    distributed = _several()
    if distributed is not None:
        distributed.barrier()


def from_first(work: Callable[[], _T]) -> _T:
    """What ``work`` gives on rank 0, on every rank, or raises what it raises there. Every rank must call this at once."""
    distributed = _several()
    if distributed is None:
        return work()
    got: list[Any] = [None, None]
    if distributed.get_rank() == 0:
        try:
            got[0] = work()
        except Exception as error:
            # Whatever it is, no rank waits for it in vain.
            got[1] = error
    distributed.broadcast_object_list(got, src=0)
    if got[1] is not None:
        raise got[1]
    result: _T = got[0]
    return result


def _several() -> Any:
    """``torch.distributed``, if this process is one of several; ``None`` if it trains by itself."""
    torch = _arrays.torch_or_none()
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return None
    return torch.distributed if torch.distributed.get_world_size() > 1 else None


def _number_of_ranks() -> int:
    distributed = _several()
    return 1 if distributed is None else int(distributed.get_world_size())


def _own(names: list[str], sharded: tuple[str, ...]) -> list[str]:
    """Those of which each rank has one of its own."""
    return [name for name in names if name in _OWN or name in sharded]


def _check_number(checkpoint: Checkpoint, ranks: int, own: list[str]) -> None:
    """Raises :class:`InputError` if another number of ranks saved what each has of its own."""
    saved_by = max(1, sum(1 for file in checkpoint.files() if _FOLDER.match(file.path)))
    if own and saved_by != ranks:
        are = "are" if len(own) > 1 else "is"
        raise InputError(
            f"{shown(checkpoint)} was saved by {_processes(saved_by)}, and there {'is 1' if ranks == 1 else f'are {ranks}'} now: "
            f"{', '.join(own)} {are} each process's own. Resume with {_processes(saved_by)}, or leave out "
            f"{', '.join('rng=True' if name == 'rng' else name for name in own)} and begin with new ones"
        )


def _processes(number: int) -> str:
    return f"{number} process{'es' if number > 1 else ''}"


def _is_ours(kind: str) -> bool:
    return hasattr(_errors, kind)


def _class_of(kind: str) -> type[TpdeError]:
    """The class of this package of that name; the base of all for another one's."""
    found: type[TpdeError] = getattr(_errors, kind, TpdeError)
    return found
