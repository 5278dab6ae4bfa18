"""Progress of long work: stages report and are timed, whoever asked for it listens, and nobody pays when nobody does.

>>> seen = []
>>> with listening(lambda *event: seen.append(event)):
...     report("kernels", 3, 40)
>>> seen
[('kernels', 3, 40)]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeAlias

from ..runtime.compile_report import CompileReport

Listener: TypeAlias = Callable[[str, int, int], None]
"""Called with the name of the stage, the steps done and their total (0 when it is not known)."""

_listener: ContextVar[Listener | None] = ContextVar("loopnest_progress", default=None)


def report(stage: str, done: int = 0, total: int = 0) -> None:
    """Tell the listener of this context, if there is one. Threads that a stage starts have none: report from the thread that waits."""
    listener = _listener.get()
    if listener is not None:
        listener(stage, done, total)


@contextmanager
def listening(listener: Listener) -> Generator[None]:
    """Send the reports made in the block to ``listener``."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@dataclass
class _Clock:
    """Time goes to the innermost stage."""

    report: CompileReport
    stages: list[str] = field(default_factory=list[str])
    since: float = 0.0

    def enter(self, stage: str) -> None:
        self._lap()
        self.stages.append(stage)

    def leave(self) -> None:
        self._lap()
        self.stages.pop()

    def _lap(self) -> None:
        now = time.perf_counter()
        if self.stages:
            self.report.add(self.stages[-1], now - self.since)
        self.since = now


_clock: ContextVar[_Clock | None] = ContextVar("loopnest_clock", default=None)


@contextmanager
def measuring(report: CompileReport) -> Generator[None]:
    """Adds the times of the stages in the block to ``report``; within another such block, to that one's."""
    token = _clock.set(_clock.get() or _Clock(report))
    try:
        yield
    finally:
        _clock.reset(token)


@contextmanager
def stage(name: str, *, quiet: bool = False) -> Generator[None]:
    """A stage, timed without those inside it, and reported unless it is ``quiet``."""
    if not quiet:
        report(name)
    clock = _clock.get()
    if clock is not None:
        clock.enter(name)
    try:
        yield
    finally:
        if clock is not None:
            clock.leave()
