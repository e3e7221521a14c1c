"""The Trainer of transformers, whose every checkpoint goes to a store::

    saver = TpdeCallback("ckpts", run="bert")
    trainer = Trainer(model=model, args=args, train_dataset=data, callbacks=[saver])
    trainer.train(resume_from_checkpoint=saver.restore_latest(args.output_dir))

The Trainer writes ``checkpoint-N`` as ever, and may delete it as ever (``save_total_limit``)::

    on_save ─ links to its files ─▶ out/.tpde-1f0c9a3e.work ─ in the background ─▶ commit of step N ─▶ links removed
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tpde import _ranks
from tpde._aside import Aside, link_tree, sweep
from tpde._commit import Committer, open_to_save, storable
from tpde._errors import InputError, NotFoundError
from tpde._keep import Keep
from tpde._newest import take_newest
from tpde._tpde import Store
from tpde._worker import Job, Worker

__all__ = ["TpdeCallback", "restore_latest"]

#: What of the Trainer's history describes an evaluation, and so one step only.
_OF_ONE_STEP = "eval_"


class TpdeCallback(TrainerCallback):  # type: ignore[misc,unused-ignore]
    """Saves every checkpoint that the Trainer writes to a run of a store, in the background, with the metrics that were logged for it.

    * ``location``: a path, or a URL such as ``s3://bucket/prefix``. A store is made there if there is none, unless ``create`` is false.
    * ``run``: its name.
    * ``keep``: which checkpoints of the run stay; all of them by default. What stays in ``output_dir`` is the Trainer's business.
    * ``delete_after_save``: delete a ``checkpoint-N`` once it is committed, but for the newest and the best, which the Trainer may need.
    * ``threads``: how many encode in the background; by default a quarter of the cores.
    * ``on_busy``: what to do while an earlier checkpoint is still being saved: ``"wait"``, or ``"skip"`` this one.

    What a save failed with is raised at the next step or save, and at the end of the training, which waits for all saves. After the Trainer
    has resumed, the steps above take the place of those that the run holds. With several processes, rank 0 saves what all have written into
    one ``output_dir``.
    """

    def __init__(
        self,
        location: str | os.PathLike[str],
        run: str,
        *,
        keep: Keep | None = None,
        delete_after_save: bool = False,
        create: bool = True,
        threads: int | None = None,
        on_busy: str = "wait",
    ) -> None:
        if on_busy not in ("wait", "skip"):
            raise InputError(f'on_busy is {on_busy!r}. It is "wait" or "skip"')
        self._location, self._run = os.fspath(location), run
        self._keep, self._create, self._threads = keep, create, threads
        self._deletes = delete_after_save
        self._skips = on_busy == "skip"
        self._store: Store | None = None
        self._committer: Committer | None = None
        self._worker: Worker | None = None
        #: Directories that were handed over, oldest first, and what saves them; ``None`` for one that came from the store.
        self._written: dict[Path, Job | None] = {}
        self._last_step = 0

    def restore_latest(self, output_dir: str | os.PathLike[str]) -> str | None:
        """As :func:`restore_latest`, for the run of this callback."""
        path = restore_latest(self._location, self._run, output_dir)
        if path is not None:
            self._written[Path(path)] = None
        return path

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Says at once that a place or a name is none."""
        if state.is_world_process_zero:
            self._open()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Begins where the Trainer does."""
        if not state.is_world_process_zero:
            return
        _, committer, worker = self._open()
        worker.check()
        sweep(_output_dir(args))
        if state.global_step:
            committer.take_over()
        committer.redone_above = state.global_step or None
        self._last_step = state.global_step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Says that a save failed."""
        if self._worker is not None:
            self._worker.raise_failed()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Hands over the checkpoint that the Trainer has written."""
        # Each rank writes its generators last, and nobody has waited for that.
        _ranks.wait_for_all()
        if not state.is_world_process_zero:
            return
        store, committer, worker = self._open()
        worker.check()
        if worker.is_busy() and self._skips:
            return
        # One at a time: what waits to be saved takes room on the disk.
        worker.wait()
        worker.raise_failed()
        step = state.global_step
        directory = _output_dir(args) / f"checkpoint-{step}"
        if not directory.is_dir():
            raise InputError(
                f"{directory} was not found, where the Trainer writes step {step}. "
                "Leave this callback out of a search for hyper-parameters, whose trials write elsewhere"
            )
        options = committer.options(step, _metrics(state.log_history, self._last_step, step))
        self._last_step = step
        aside = _linked(directory)
        source = os.fspath(directory if aside is None else aside.files)

        def work() -> None:
            try:
                committer.commit(lambda options: store.save(source, committer.run, step, options), step, options)
            finally:
                if aside is not None:
                    aside.remove()
            committer.prune(step)

        job = Job(work)
        self._written.pop(directory, None)
        self._written[directory] = job
        worker.put(job)
        if aside is None:
            # The Trainer may delete what is being read.
            worker.wait()
            worker.raise_failed()
        self._delete_saved(state)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Waits for the saves that are going on."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()
            self._delete_saved(state)
            worker.raise_failed()

    def _open(self) -> tuple[Store, Committer, Worker]:
        if self._store is None or self._committer is None:
            self._store = open_to_save(self._location, self._create, self._threads)
            self._committer = Committer(self._store, self._run, self._keep)
        if self._worker is None:
            self._worker = Worker(self._run)
        return self._store, self._committer, self._worker

    def _delete_saved(self, state: TrainerState) -> None:
        """Deletes the directories that the store has, but for the newest and the best."""
        if not self._deletes:
            return
        best = state.best_model_checkpoint
        best_path = Path(best).absolute() if best is not None else None
        for directory in list(self._written)[:-1]:
            job = self._written[directory]
            is_saved = job is None or (job.done.is_set() and job.error is None)
            if is_saved and directory != best_path:
                shutil.rmtree(directory, ignore_errors=True)
                del self._written[directory]


def _output_dir(args: TrainingArguments) -> Path:
    return Path(args.output_dir or "").absolute()


def restore_latest(location: str | os.PathLike[str], run: str, output_dir: str | os.PathLike[str]) -> str | None:
    """Restores the newest checkpoint of a run as ``output_dir/checkpoint-N``, and gives its path for ``resume_from_checkpoint``.

    A checkpoint that is damaged is passed over, with a warning, for the one before. The directory takes the place of one that is there.
    ``None`` if the run has no checkpoints, or there is no store yet: the Trainer then begins at the beginning.

    With several processes every rank must call this, after its ``TrainingArguments`` were made; rank 0 restores.

    Raises :class:`tpde.CorruptError` if no checkpoint of the run can be read.
    """
    return _ranks.from_first(lambda: _restore_latest(os.fspath(location), run, Path(output_dir)))


def _restore_latest(location: str, run: str, output_dir: Path) -> str | None:
    try:
        store = Store.open(location, False, 0)
    except NotFoundError:
        return None
    output_dir = output_dir.absolute()
    output_dir.mkdir(parents=True, exist_ok=True)
    sweep(output_dir)
    step = take_newest(store, run, lambda step: _restore(store, f"{run}@{step}", output_dir))
    return None if step is None else os.fspath(output_dir / f"checkpoint-{step}")


def _restore(store: Store, reference: str, output_dir: Path) -> None:
    """Restores a checkpoint whole, or leaves what is there."""
    checkpoint = store.checkpoint(reference)
    target = output_dir / f"checkpoint-{checkpoint.step}"
    try:
        aside = Aside(output_dir)
    except OSError:
        # Files cannot be locked here. Each is whole, then, but not all of them together if this process is killed.
        store.restore(reference, target, True)
        return
    try:
        store.restore(reference, aside.files, False)
        if target.exists():
            target.rename(aside.old)
        aside.files.rename(target)
    finally:
        aside.remove()


def _linked(directory: Path) -> Aside | None:
    """The files of a directory in a folder that nobody else deletes; ``None`` where files cannot be linked."""
    try:
        aside = Aside(directory.parent)
    except OSError:
        return None
    try:
        link_tree(directory, aside.files)
    except OSError:
        aside.remove()
        return None
    return aside


def _metrics(history: Iterable[Mapping[str, Any]], after: int, step: int) -> dict[str, float]:
    """The newest numbers that the Trainer logged after one save and up to the next; of evaluations only those of this step."""
    metrics: dict[str, float] = {}
    for entry in history:
        at = entry.get("step", 0)
        if not after < at <= step:
            continue
        for name, value in entry.items():
            if name == "step" or (name.startswith(_OF_ONE_STEP) and at != step):
                continue
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                metrics[name] = float(value)
    # Of too many, those of the evaluation are worth most.
    return storable(dict(sorted(metrics.items(), key=lambda item: not item[0].startswith(_OF_ONE_STEP))))
