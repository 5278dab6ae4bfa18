"""Work that nobody waits for, such as storing what the next process will need: done by one thread, one after the other, when what is asked
for has been done.

    with held():            # compiling: the processors have better to do
        later(store)
    ...                     # ``store`` runs from here on
    wait()                  # for who needs to know that it has

A process that ends finishes what is begun and goes on for a moment; what is then left is dropped, so it must be work that need not be done.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager

PATIENCE = 10.0
"""Seconds for which a process that ends goes on with such work."""


class _Queue:
    def __init__(self) -> None:
        self._work: deque[Callable[[], object]] = deque()
        self._changed = threading.Condition()
        self._held = 0
        self._running = False

    def add(self, work: Callable[[], object]) -> None:
        with self._changed:
            self._work.append(work)
            self._start()

    @contextmanager
    def held(self) -> Generator[None]:
        with self._changed:
            self._held += 1
        try:
            yield
        finally:
            with self._changed:
                self._held -= 1
                self._start()

    def wait(self) -> None:
        with self._changed:
            while self._running:
                self._changed.wait()

    def _start(self) -> None:
        """Starts the thread where there is none and something to do. The lock is held."""
        if self._work and not self._held and not self._running:
            self._running = True
            threading.Thread(target=self._run, name="loopnest later").start()

    def _run(self) -> None:
        while (work := self._next()) is not None:
            try:
                work()
            except Exception:  # it need not be done
                logging.getLogger(__name__).debug("what was left for later failed", exc_info=True)

    def _next(self) -> Callable[[], object] | None:
        with self._changed:
            if self._work and not self._held and not _process_has_ended():
                return self._work.popleft()
            self._running = False
            self._changed.notify_all()
            return None


_ended_at: list[float] = []


def _process_has_ended() -> bool:
    """Whether the main thread has ended, and some time ago."""
    if threading.main_thread().is_alive():
        return False
    _ended_at.append(time.monotonic())
    return _ended_at[-1] - _ended_at[0] > PATIENCE


_queue = _Queue()


def later(work: Callable[[], object]) -> None:
    """Has ``work`` done by another thread, after all that was handed over before. Its errors are logged."""
    _queue.add(work)


@contextmanager
def held() -> Generator[None]:
    """No such work is begun within the block, in whatever thread."""
    with _queue.held():
        yield


def wait() -> None:
    """Waits until nothing is under way; not for what is held."""
    _queue.wait()


def _after_fork() -> None:
    """The parent does what is left."""
    global _queue
    _queue = _Queue()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
