"""Forks: a child has only the thread that forked, and every lock that another thread held stays held, Numba's and LLVM's among them.

What a child may need at any call is a ``brief_lock``, which is free in the child. What takes long, and cannot be taken up in the middle,
is a ``Work``: in a child whose parent was at it in another thread, nothing more of the kind can be done, and it says so instead of waiting.
"""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import Any
from weakref import WeakSet

from ..ir.errors import LoopnestError

_brief: WeakSet[Any] = WeakSet()
_inside: dict[int, int] = {}  # how deep each thread is in works
_interrupted: list[bool] = []


def brief_lock() -> threading.Lock:
    """A lock of data that is sound between any two operations, held for moments only."""
    lock = threading.Lock()
    _brief.add(lock)
    return lock


class Work:
    """A reentrant lock around planning, compiling and linking. Entering it raises ``LoopnestError`` where a fork interrupted such work."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        if _interrupted:
            raise LoopnestError(
                "this process was forked while another thread was compiling or loading a model: it runs the plans that the model has, "
                "and can make no more; fork before or after that, or start processes by spawning them"
            )
        thread = threading.get_ident()
        _inside[thread] = _inside.get(thread, 0) + 1
        try:
            self._lock.acquire()
        except BaseException:  # an interrupt
            self._leave(thread)
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lock.release()
        self._leave(threading.get_ident())

    @staticmethod
    def _leave(thread: int) -> None:
        _inside[thread] -= 1
        if not _inside[thread]:
            del _inside[thread]


def _after_fork() -> None:
    for lock in list(_brief):
        lock._at_fork_reinit()
    if _inside.keys() - {threading.get_ident()}:
        _interrupted.append(True)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
