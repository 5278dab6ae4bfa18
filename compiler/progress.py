"""Progress of long work: stages report, whoever asked for it listens, and nobody pays when nobody does.

>>> seen = []
>>> with listening(lambda *event: seen.append(event)):
...     report("kernels", 3, 40)
>>> seen
[('kernels', 3, 40)]
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

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
