"""Work for several processes: what helpers do not take, or cannot do, the process that waits for it does itself."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from . import progress
from .helper import Helper, Spare


@dataclass(frozen=True, eq=False)
class Job:
    """Something to make, called ``key``, by ``here`` in this process or by a helper that gets ``message``.

    ``needs`` are the keys of what must be there before, and is given to both. ``done`` is called with the result, in whatever thread.
    Of several the one with the largest ``size`` is made first, so that all processes are done at about the same time.
    """

    key: Hashable
    here: Callable[[Sequence[bytes]], bytes]
    message: Callable[[Sequence[bytes]], Sequence[bytes]]
    done: Callable[[bytes], None]
    needs: tuple[Hashable, ...] = ()
    size: int = 0


@dataclass
class Jobs:
    """A queue of jobs, and the helpers that take from it. Thread-safe; ``close`` ends all processes and threads."""

    results: dict[Hashable, bytes]
    """What is there."""
    helper_seconds: float = 0.0
    """How long helpers worked."""
    spare: Spare = field(default_factory=Spare)
    """Helpers that have been started for whoever needs them first."""
    _queue: list[Job] = field(default_factory=list)
    _running: set[Hashable] = field(default_factory=set)
    _failed: dict[Hashable, Exception] = field(default_factory=dict)
    _helpers: list[tuple[Helper, threading.Thread]] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _closed: bool = False

    def add(self, job: Job) -> None:
        with self._changed:
            self._queue.append(job)
            self._changed.notify_all()

    def start(self, helpers: int) -> None:
        """Makes sure that as many helpers have been started."""
        with self._changed:
            while len(self._helpers) < helpers and not self._closed:
                helper = self.spare.take() or Helper()
                thread = threading.Thread(target=self._serve, args=(helper,), name="loopnest helper", daemon=True)
                self._helpers.append((helper, thread))
                thread.start()

    def finish(self, keys: Sequence[Hashable], report: Callable[[int], None]) -> None:
        """Works until the results ``keys`` are there. Raises what a job raised that they need."""
        while True:
            with self._changed:
                missing = [key for key in keys if key not in self.results]
                for key in missing:
                    if key in self._failed:
                        raise self._failed[key]
                if not missing:
                    return
                job = self._take(roots_first=False)
                if job is None:
                    assert self._running, f"nobody makes {missing[0]}"
                    with progress.stage("wait", quiet=True):
                        self._changed.wait()
            report(len(keys) - len(missing))
            if job is not None:
                self._work(job)

    def close(self) -> None:
        """Drops what is in the queue and ends the helpers."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            self._changed.notify_all()
        for helper, thread in self._helpers:
            helper.kill()
            thread.join()
            helper.close()
        self._helpers.clear()

    def _take(self, *, roots_first: bool) -> Job | None:
        """A job that can be done now; helpers do first what others need. The lock is held."""
        ready = (job for job in self._queue if all(key in self.results for key in job.needs))
        job = min(ready, key=lambda job: ((not job.needs) != roots_first, -job.size), default=None)
        if job is not None:
            self._queue.remove(job)
            self._running.add(job.key)
        return job

    def _needed(self, job: Job) -> list[bytes]:
        return [self.results[key] for key in job.needs]

    def _work(self, job: Job) -> None:
        """Does a job in this process."""
        try:
            result = job.here(self._needed(job))
            job.done(result)
        except Exception as error:
            self._fail(job, error)
        except BaseException:  # an interrupted job is there for other threads that wait for it
            self._put_back(job)
            raise
        else:
            self._finished(job, result)

    def _serve(self, helper: Helper) -> None:
        """The life of a helper's thread."""
        if not helper.ready():
            return
        while (job := self._wait_for_job()) is not None:
            start = time.perf_counter()
            try:
                result = helper.ask(*job.message(self._needed(job)))
                if result is not None:
                    job.done(result)
                    with self._changed:
                        self.helper_seconds += time.perf_counter() - start
                    self._finished(job, result)
                    continue
            except Exception:  # nobody would see it here: who waits for the job does it again
                logging.getLogger(__name__).debug("a helper failed", exc_info=True)
            self._put_back(job)
            return

    def _wait_for_job(self) -> Job | None:
        with self._changed:
            while not self._closed:
                job = self._take(roots_first=True)
                if job is not None:
                    return job
                self._changed.wait()
        return None

    def _finished(self, job: Job, result: bytes) -> None:
        with self._changed:
            self.results[job.key] = result
            self._running.discard(job.key)
            self._changed.notify_all()

    def _put_back(self, job: Job) -> None:
        with self._changed:
            self._running.discard(job.key)
            if not self._closed:
                self._queue.insert(0, job)
            self._changed.notify_all()

    def _fail(self, job: Job, error: Exception) -> None:
        with self._changed:
            self._running.discard(job.key)
            stuck = [other for other in self._queue if job.key in other.needs]
            for other in stuck:
                self._queue.remove(other)
            self._failed.update((other.key, error) for other in (job, *stuck))
            self._changed.notify_all()
