"""Cases run in worker processes: a crash or a hang costs one case, not the run."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from tests.conformance.outcome import Outcome

Job = Callable[[str], Outcome]


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    task: str | None = None
    deadline: float = 0.0


def run_isolated(
    tasks: Iterable[str], job: Job, *, workers: int, timeout: float, start: str = "fork"
) -> Iterator[tuple[str, Outcome]]:
    """Yields (task, outcome) as tasks finish: `job(task)`, or "crash" if its process died, "timeout" after `timeout` s.

    Workers are forked: a caller that has generated the cases and loaded no engine gets them, and new ones after a crash, in
    milliseconds. A caller with threads of an engine must `start` by "spawn", with a job of a module.
    """
    waiting = deque(tasks)
    context = multiprocessing.get_context(start)
    pool = [_start(job, context) for _ in range(min(workers, max(len(waiting), 1)))]
    try:
        while True:
            for worker in pool:
                if worker.task is None and waiting:
                    worker.task, worker.deadline = waiting.popleft(), time.monotonic() + timeout
                    worker.connection.send(worker.task)
            busy = [worker for worker in pool if worker.task is not None]
            if not busy:
                return
            wait([worker.connection for worker in busy], max(0.0, min(w.deadline for w in busy) - time.monotonic()))
            for worker in busy:
                outcome = _collect(worker, timeout)
                if outcome is not None:
                    assert worker.task is not None
                    yield worker.task, outcome
                    worker.task = None
                    if not worker.process.is_alive():
                        pool[pool.index(worker)] = _start(job, context)
    finally:
        for worker in pool:
            _stop(worker)


def _collect(worker: _Worker, timeout: float) -> Outcome | None:
    """The outcome of the worker's task, None while it runs. A worker that crashed or hung is dead afterwards."""
    if worker.connection.poll():
        try:
            return worker.connection.recv()
        except EOFError:
            worker.process.join()
            code = worker.process.exitcode or 0
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return Outcome("crash", f"crash: {how}")
    if time.monotonic() >= worker.deadline:
        _stop(worker)
        return Outcome("timeout", "timeout", f"not done after {timeout:.0f} s")
    return None


def _start(job: Job, context: Any) -> _Worker:
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(job, theirs, ours), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _stop(worker: _Worker) -> None:
    worker.connection.close()
    worker.process.kill()
    worker.process.join()


def _work(job: Job, connection: Connection, parents_end: Connection) -> None:
    parents_end.close()
    faulthandler.disable()
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        connection.send(job(task))
