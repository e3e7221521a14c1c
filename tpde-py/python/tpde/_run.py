"""A run that a training loop saves to and resumes from."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from tpde import _state
from tpde._commit import Committer
from tpde._errors import CorruptError, InputError
from tpde._keep import Keep
from tpde._load import Lazy, load, load_into
from tpde._newest import take_newest
from tpde._ranks import Alone, Rank
from tpde._rng import GlobalRng
from tpde._staging import Plan, Pool
from tpde._state import Saved
from tpde._tpde import SaveReport, Store
from tpde._worker import Job, Worker

_RNG = "rng"


class Handle:
    """A save that goes on in the background."""

    def __init__(self, step: int) -> None:
        self.step = step
        #: Seconds for which the training loop stood still: from the call until it returned.
        self.stall_s = 0.0
        #: Of those, seconds that went into waiting for an earlier save.
        self.waited_s = 0.0
        #: Whether nothing is saved, for an earlier save was still going on.
        self.skipped = False
        #: Steps that were forgotten after it, for ``keep``.
        self.forgotten: list[int] = []
        #: Seconds from the call until it was committed.
        self.seconds: float | None = None
        self._job: Job | None = None
        self._report: SaveReport | None = None

    def done(self) -> bool:
        """Whether it is over, well or not."""
        return self._job is None or self._job.done.is_set()

    def wait(self, timeout: float | None = None) -> Handle:
        """Waits until it is committed; on other ranks than 0, until this rank's part is stored.

        Raises what it failed with, or :class:`TimeoutError` after ``timeout`` seconds.
        """
        job = self._job
        if job is None:
            return self
        if not job.done.wait(timeout):
            raise TimeoutError(f"step {self.step} is not committed after {timeout} seconds")
        if job.error is not None:
            job.is_told = True
            raise job.error
        return self

    @property
    def commit(self) -> str | None:
        """Id of the checkpoint, once it is committed; waits for that. ``None`` if it was skipped, or another rank commits it."""
        self.wait()
        return self._report.commit if self._report else None

    @property
    def stored_bytes(self) -> int | None:
        """Bytes that were written for it; waits."""
        self.wait()
        return self._report.stored_bytes if self._report else None

    @property
    def raw_bytes(self) -> int | None:
        """Bytes of its files; waits."""
        self.wait()
        return self._report.raw_bytes if self._report else None

    @property
    def ratio(self) -> float | None:
        """How many times smaller it is stored; waits. ``None`` if nothing had to be written."""
        self.wait()
        report = self._report
        return report.raw_bytes / report.stored_bytes if report and report.stored_bytes else None

    def __repr__(self) -> str:
        state = "skipped" if self.skipped else "done" if self.done() else "saving"
        return f"<tpde.Handle step {self.step}, {state}>"


class Run:
    """A run of a store. Made by :func:`tpde.open`.

    One training loop at a time saves to a run: a save is refused with :class:`tpde.ConflictError` if another one has added to it since.

    * ``ranks``: which part of a state this process saves; by default what ``torch.distributed`` says.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        keep: Keep | None = None,
        threads: int | None = None,
        staging_bytes: int | None = None,
        on_busy: str = "wait",
        ranks: Alone | Rank | None = None,
    ) -> None:
        if on_busy not in ("wait", "skip"):
            raise InputError(f'on_busy is {on_busy!r}. It is "wait" or "skip"')
        if on_busy == "skip" and isinstance(ranks, Rank):
            raise InputError('on_busy="skip" would let ranks skip different steps. With several ranks it is "wait"')
        if staging_bytes is not None and staging_bytes < 1:
            raise InputError(f"staging_bytes is {staging_bytes}. Give it the bytes of at least one state, or None")
        self._store = store
        self._name = name
        self._copy_threads = threads or os.cpu_count() or 1
        self._on_busy = on_busy
        self._ranks = ranks or Alone()
        self._worker = Worker(name, self._ranks.hurry)
        self._pool = Pool(staging_bytes, self._copy_threads, self._worker.changed)
        self._committer = Committer(store, name, keep)

    @property
    def name(self) -> str:
        """Its name."""
        return self._name

    @property
    def location(self) -> str:
        """Where its store is."""
        return self._store.location

    def save(
        self,
        step: int,
        *,
        rng: bool = False,
        metrics: Mapping[str, float] | None = None,
        note: str = "",
        replace: bool | None = None,
        sharded: tuple[str, ...] = (),
        allow_pickle: bool = False,
        **components: Any,
    ) -> Handle:
        """Saves the state of the training loop; returns once it is copied, and encodes and stores it in the background.

        * ``step``: the training step that was just done.
        * ``components``: what to save, by names of your choice, the same ones for :meth:`resume`: objects with ``state_dict``, or dicts and
          lists of numbers, strings and arrays. ``None`` is left out.
        * ``rng``: also the generators of Python, numpy and torch.
        * ``metrics``: numbers to find and keep it by; anything that ``float()`` takes.
        * ``replace``: let it stand for a step that the run holds with other content. By default after :meth:`resume` or :meth:`rewind`,
          for the steps above.
        * ``sharded``: components of which every rank of ``torch.distributed`` has a part of its own; the others are those of rank 0.
        * ``allow_pickle``: keep objects that are no data as pickles.

        Raises :class:`tpde.InputError` for what cannot be saved, and whatever an earlier save failed with.
        """
        began = time.perf_counter()
        step = _step(step)
        # First of all: a rank whose save fails here must not count its later ones otherwise than the others do.
        word = self._ranks.word(step)
        self._worker.check()
        _check_sharded(sharded, components)
        handle = Handle(step)
        options = self._committer.options(step, metrics, note, replace)
        components = {name: component for name, component in components.items() if component is not None}
        if rng:
            _refuse_own_rng(components)
            components[_RNG] = GlobalRng()
        if not components:
            raise InputError(f"step {step}: there is nothing to save. Pass model=..., optimizer=... or others")
        mine = self._ranks.mine(components, sharded)

        def commit(files: list[Any]) -> None:
            handle._report = self._committer.commit(
                lambda options: self._ranks.save(self._store, files, self._name, step, word, options), step, options
            )

        def finish() -> None:
            if handle._report is not None:
                handle.forgotten = self._committer.prune(step)

        return self._in_background(handle, began, mine, allow_pickle, commit, finish)

    def _in_background(
        self,
        handle: Handle,
        began: float,
        parts: Mapping[str, Mapping[str, Any]],
        allow_pickle: bool,
        commit: Callable[[list[Any]], None],
        finish: Callable[[], None],
    ) -> Handle:
        """Copies states, and lets the thread of this run commit the copies.

        * ``parts``: components, by the folder that they go to.
        * ``commit``: is given the files; ``finish``: is called after it, once the copies are no longer held.
        """
        plan = Plan([_state.capture(part, folder, allow_pickle) for folder, part in parts.items()])
        waiting = time.perf_counter()
        staging = self._pool.take(plan.len_bytes, lambda: self._on_busy == "wait")
        handle.waited_s = time.perf_counter() - waiting
        if staging is None:
            handle.skipped = True
            handle.stall_s = time.perf_counter() - began
            return handle
        try:
            plan.fill(staging, self._copy_threads)
        except BaseException:
            self._pool.give_back(staging)
            raise
        files = plan.files(staging)
        # The copies are made: the arrays belong to the training loop again.
        del plan

        def work() -> None:
            try:
                commit(files)
            finally:
                files.clear()
                self._pool.give_back(staging)
            finish()
            handle.seconds = time.perf_counter() - began

        handle._job = Job(work)
        self._worker.put(handle._job)
        handle.stall_s = time.perf_counter() - began
        return handle

    def resume(
        self,
        *,
        rng: bool = False,
        default: int = 0,
        sharded: tuple[str, ...] = (),
        allow_pickle: bool = False,
        **components: Any,
    ) -> int:
        """Puts the state of the newest checkpoint into the components and returns the step to go on with: the saved one + 1.

        A checkpoint that is damaged is passed over, with a warning, for the one before. Everything is read and verified before any
        component is touched.

        * ``components``, ``sharded``: as they were saved; more may have been saved. A dict or a list gets its items back.
        * ``default``: what to return if the run has no checkpoints yet.

        With several ranks, all go on from the same checkpoint: the newest that every one of them can read.

        Raises :class:`tpde.InputError` for a component that was not saved, or that does not take its state;
        :class:`tpde.CorruptError` if no checkpoint of the run can be read. What one rank raises, all raise.
        """

        def taken_over() -> None:
            self._check_idle()
            self._committer.take_over()

        self._ranks.together(taken_over)
        step = take_newest(
            self._store,
            self._name,
            lambda step: self._take_or_distrust(step, components, rng, sharded, allow_pickle),
            self._ranks.of_first,
        )
        if step is None:
            return default
        self._committer.redone_above = step
        return step + 1

    def rewind(
        self,
        step: int,
        *,
        rng: bool = False,
        sharded: tuple[str, ...] = (),
        allow_pickle: bool = False,
        **components: Any,
    ) -> int:
        """Takes live components to a saved step, back or forward, bit for bit; returns the step to go on with.

        Waits for saves that are going on. Later saves of steps above ``step`` take the place of those that the run holds.

        Raises :class:`tpde.NotFoundError` if the run has no such step; otherwise as :meth:`resume`, touching nothing.
        """

        def checked() -> int:
            self._check_idle()
            return _step(step)

        step = self._ranks.together(checked, same=lambda step: step)
        self._take(step, components, rng, sharded, allow_pickle)
        self._committer.redone_above = step
        return step + 1

    def _check_idle(self) -> None:
        self._worker.check()
        self._worker.wait()
        self._worker.raise_failed()

    def _take_or_distrust(self, step: int, *arguments: Any) -> None:
        """As :meth:`_take`; what is damaged is nothing that later saves of this run may lean on."""
        try:
            self._take(step, *arguments)
        except CorruptError:
            self._store = self._store.distrusting(f"{self._name}@{step}")
            raise

    def _take(
        self,
        step: int,
        components: Mapping[str, Any],
        rng: bool,
        sharded: tuple[str, ...],
        allow_pickle: bool,
    ) -> None:
        """Reads everything, on all ranks, then gives each component its state; the generators last, for the others may draw."""
        wanted = {name: component for name, component in components.items() if component is not None}

        def read() -> tuple[str, dict[str, Any]]:
            _check_sharded(sharded, components)
            if rng:
                _refuse_own_rng(wanted)
                wanted[_RNG] = GlobalRng()
            if not wanted:
                raise InputError(f"{self._name}@{step}: there is nothing to load into. Pass model=..., optimizer=... or others")
            checkpoint = self._store.checkpoint(f"{self._name}@{step}")
            states: dict[str, Any] = {}
            for folder, names in self._ranks.find(checkpoint, list(wanted), sharded).items():
                if names:
                    states.update(Saved(checkpoint, folder).load(names, allow_pickle))
            for name, component in wanted.items():
                _state.check(component, states[name], name)
            return checkpoint.commit, states

        _, states = self._ranks.together(read, same=lambda read: read[0])

        def apply() -> None:
            for name, component in wanted.items():
                _state.apply(component, states.pop(name), name)

        self._ranks.together(apply)

    def load(self, reference: str | int = "latest", **options: Any) -> dict[str, Any]:
        """Tensors of a checkpoint of this run; see :func:`tpde.load`."""
        return load(self._reference(reference), store=self._store, **options)

    def load_into(self, module: Any, reference: str | int = "latest", **options: Any) -> None:
        """Tensors of a checkpoint of this run into a live module; see :func:`tpde.load_into`."""
        load_into(module, self._reference(reference), store=self._store, **options)

    def lazy(self, reference: str | int = "latest") -> Lazy:
        """A checkpoint of this run whose tensors are read as they are asked for."""
        return Lazy(self._store.checkpoint(self._reference(reference)))

    def restore(self, reference: str | int, target: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Writes the files of a checkpoint of this run into a directory."""
        self._store.restore(self._reference(reference), os.fspath(target), overwrite)

    def log(self, most: int | None = None) -> list[dict[str, Any]]:
        """The checkpoints of this run, newest first, as rows for a table."""
        return [] if self._store.tip(self._name) is None else self._store.log(self._name, most)

    def diff(self, old: str | int, new: str | int) -> list[dict[str, Any]]:
        """How the tensors of two checkpoints differ, as rows for a table."""
        return self._store.diff(self._reference(old), self._reference(new))

    def _reference(self, reference: str | int) -> str:
        if isinstance(reference, int) or reference.isdecimal() or reference == "latest":
            return f"{self._name}@{reference}"
        return reference

    def flush(self) -> None:
        """Waits for the saves that are going on; raises what one of them failed with."""
        self._check_idle()

    def close(self) -> None:
        """Waits for the saves that are going on and ends the run's thread; raises what one of them failed with."""
        self._worker.close()
        self._pool.drop()
        self._ranks.close()
        self._worker.raise_failed()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.close()
            return
        # What went wrong in the loop is what its caller wants to see, and soon.
        self._ranks.hurry()
        self._worker.close()
        self._ranks.close()
        for failed in self._worker.drain():
            error.add_note(f"tpde: a save failed, too: {failed}")

    def __repr__(self) -> str:
        return f"<tpde.Run {self._name} in {self.location}>"


def _step(step: Any) -> int:
    try:
        number = step.__index__()
    except AttributeError:
        raise InputError(f"step {step!r} is no whole number. Pass the training step as an int") from None
    if not 0 <= number < 1 << 63:
        raise InputError(f"step {number} is out of range. Steps count from 0")
    return int(number)


def _check_sharded(sharded: tuple[str, ...], components: Mapping[str, Any]) -> None:
    if isinstance(sharded, str):
        raise InputError(f"sharded is a tuple of names: ({sharded!r},)")
    unknown = [name for name in sharded if name not in components]
    if unknown:
        raise InputError(f"sharded: {', '.join(unknown)} is none of the components. They are: {', '.join(components) or 'none'}")


def _refuse_own_rng(components: Mapping[str, Any]) -> None:
    if _RNG in components:
        raise InputError("rng is the generators of Python, numpy and torch. Give a component of your own another name")
