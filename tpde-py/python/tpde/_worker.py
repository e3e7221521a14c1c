"""One thread that saves what the training loop has handed over, in order."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable

from tpde import _exit
from tpde._errors import InputError


class Job:
    """A save that is to be done, or was."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.work = work
        self.done = threading.Event()
        self.error: BaseException | None = None
        #: Whether somebody has been told of the error.
        self.is_told = False


class Worker:
    """Does jobs one after another.

    A job that fails does not keep the next from being tried; its error waits for the next call of the training loop.
    """

    def __init__(self, name: str, hurry: Callable[[], None] = lambda: None) -> None:
        """* ``hurry``: tells the jobs that the process is about to end."""
        self.pid = os.getpid()
        self.hurry = hurry
        self._name = name
        self._jobs: deque[Job] = deque()
        self._failed: list[Job] = []
        #: Guards everything here, and what others hand to a job: a signal's handler that waits for the jobs lets go of it, wherever in the
        #: main thread it was called.
        self.changed = threading.Condition(threading.RLock())
        self._thread: threading.Thread | None = None
        self._is_closed = False
        _exit.watch(self)

    def check(self) -> None:
        """Raises what a job of this worker failed with, if nobody was told yet; :class:`InputError` after a fork or a close."""
        if os.getpid() != self.pid:
            raise InputError(f"run {self._name}: it was opened before this process was forked. Open it again in the child")
        if self._is_closed:
            raise InputError(f"run {self._name}: it is closed. Open it again")
        self.raise_failed()

    def raise_failed(self) -> None:
        """Raises the error of the first job that failed and was not asked about."""
        with self.changed:
            untold = [job for job in self._failed if not job.is_told]
            self._failed.clear()
        for job in untold:
            job.is_told = True
        if untold and untold[0].error is not None:
            raise untold[0].error

    def is_busy(self) -> bool:
        """Whether a job is not done yet."""
        with self.changed:
            return bool(self._jobs)

    def put(self, job: Job) -> None:
        """Hands a job over."""
        with self.changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"tpde {self._name}", daemon=True)
                self._thread.start()
            self._jobs.append(job)
            self.changed.notify_all()

    def wait(self) -> None:
        """Returns once every job is done."""
        with self.changed:
            self.changed.wait_for(lambda: not self._jobs)

    def drain(self) -> list[BaseException]:
        """Waits for every job; gives the errors that nobody was told of."""
        self.wait()
        with self.changed:
            untold = [job for job in self._failed if not job.is_told]
            self._failed.clear()
        for job in untold:
            job.is_told = True
        return [job.error for job in untold if job.error is not None]

    def close(self) -> None:
        """Waits for every job and takes no more."""
        if os.getpid() != self.pid:
            return
        self.wait()
        with self.changed:
            self._is_closed = True
            self.changed.notify_all()

    def _run(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self._jobs or self._is_closed)
                if not self._jobs:
                    return
                # It stays in the queue until it is done: whoever waits for an empty queue waits for it.
                job = self._jobs[0]
            try:
                job.work()
            except BaseException as error:
                job.error = error
            with self.changed:
                self._jobs.popleft()
                if job.error is not None:
                    self._failed.append(job)
                job.done.set()
                self.changed.notify_all()
            # Nothing of a job outlives it here: its buffers are the next one's.
            del job
