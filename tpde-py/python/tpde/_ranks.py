"""Whether this process is one of several that train together, and what each of them saves.

With ``torch.distributed``, every rank calls the same methods of a run. Rank 0 saves what all ranks have alike; every rank saves its own
generators, its own place in the data, and its part of what is sharded::

    rank 0   model.safetensors, optimizer.safetensors, tpde-state.json, rank-0/…   ─┐
    rank 1   rank-1/…                                                             ─┴─▶ one commit, by rank 0, once every part is there
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tpde import _arrays
from tpde._errors import InputError, NotFoundError
from tpde._tpde import SaveReport, Store

#: Components that differ from rank to rank, whatever the caller says.
_OWN = ("rng", "dataloader")
#: Longest that rank 0 waits for the parts of the others, in seconds.
_PATIENCE_S = 1800.0

_T = TypeVar("_T")


class Alone:
    """A process that trains by itself."""

    def mine(self, components: Mapping[str, Any], sharded: tuple[str, ...]) -> dict[str, dict[str, Any]]:
        """What this process saves, by the folder that it goes to."""
        return {"": dict(components)}

    def folders(self, names: list[str], sharded: tuple[str, ...]) -> dict[str, list[str]]:
        """Where this process finds components, by folder."""
        return {"": names}

    def save(self, store: Store, files: list[Any], run: str, step: int, options: dict[str, Any]) -> SaveReport | None:
        """Saves and commits."""
        return store.save(files, run, step, options)


class Rank:
    """One of several processes that train together.

    * ``word``: what all ranks of this start of the job share, and no other start.
    """

    def __init__(self, rank: int, of: int, word: str) -> None:
        self.rank, self.of, self._word = rank, of, word
        self._saves = 0

    def mine(self, components: Mapping[str, Any], sharded: tuple[str, ...]) -> dict[str, dict[str, Any]]:
        """What this rank saves, by the folder that it goes to."""
        parts: dict[str, dict[str, Any]] = {}
        for folder, names in self.folders(list(components), sharded).items():
            if folder or self.rank == 0:
                parts[folder] = {name: components[name] for name in names}
        # Every rank has a part, even if there is nothing in it: rank 0 waits for all.
        parts.setdefault(self._folder, {})
        return parts

    @property
    def _folder(self) -> str:
        return f"rank-{self.rank}/"

    def folders(self, names: list[str], sharded: tuple[str, ...]) -> dict[str, list[str]]:
        """Where this rank finds components, by folder."""
        own = [name for name in names if name in _OWN or name in sharded]
        return {"": [name for name in names if name not in own], self._folder: own}

    def save(self, store: Store, files: list[Any], run: str, step: int, options: dict[str, Any]) -> SaveReport | None:
        """Saves this rank's part; rank 0 then commits, once every other part is there.

        Raises :class:`NotFoundError` if one does not come: nothing is committed then.
        """
        word = f"{self._word}-{step}-{self._saves}"
        self._saves += 1
        store.save_part(files, run, step, word, self.rank, self.of)
        if self.rank != 0:
            return None
        began, pause = time.monotonic(), 0.02
        while True:
            try:
                return store.commit_parts(run, step, word, options)
            except NotFoundError as error:
                if time.monotonic() - began > _PATIENCE_S:
                    raise NotFoundError(
                        f"step {step} of {run} is not committed: a rank did not save its part in {_PATIENCE_S:.0f} s ({error})"
                    ) from error
            time.sleep(pause)
            pause = min(2 * pause, 2.0)


def here(on_busy: str) -> Alone | Rank:
    """What this process is. With ``torch.distributed`` every rank must call this at once.

    Raises :class:`InputError` if ranks could skip different saves.
    """
    distributed = _several()
    if distributed is None:
        return Alone()
    if on_busy != "wait":
        raise InputError('on_busy="skip" would let ranks skip different steps. With several ranks it is "wait"')
    words = [secrets.token_hex(8)]
    distributed.broadcast_object_list(words, src=0)
    return Rank(distributed.get_rank(), distributed.get_world_size(), words[0])


def wait_for_all() -> None:
    """Returns once every rank has called this."""
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
