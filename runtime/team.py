"""Worker threads that live as long as the process and wait in native code, so that a program costs no thread start and no GIL."""

from __future__ import annotations

import atexit
import os
import threading
import time

import numpy as np

from .buffers import address_of, aligned_empty
from .driver import driver

IDLE_SPIN_US = 100
"""How long a worker looks for steps to share before it sleeps."""

BARRIER_SPIN_US = 1000
"""How long a worker waits for the others after a step before it sleeps."""


class Team:
    """``size`` workers: the calling thread and ``size - 1`` daemon threads. ``address`` is 0 where no team can run (then one worker does).

    ``cell`` is where native code looks for the address: 0 there until somebody here has asked for it.

    Threads do not survive a fork: the child gets new ones when it next runs a program.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._cell = np.zeros(1, np.int64)
        self.cell = address_of(self._cell)
        self._usable = size > 1
        self._memory: list[np.ndarray] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    @property
    def address(self) -> int:
        """The native team, with its threads started."""
        return int(self._cell[0]) or self._start()

    def _start(self) -> int:
        with self._lock:
            if self._cell[0] or not self._usable:
                return int(self._cell[0])
            native = driver()
            nbytes = native.team_nbytes(self.size)
            memory, address = aligned_empty((nbytes,), np.dtype(np.uint8), nbytes)
            memory[:] = 0
            native.team_init(address, self.size, 1000 * IDLE_SPIN_US, 1000 * BARRIER_SPIN_US)
            self._memory.append(memory)  # for good: a thread may be looking at it
            try:
                for worker in range(1, self.size):
                    name = f"loopnest-worker-{worker}"
                    thread = threading.Thread(target=native.team_work, args=(address, worker), name=name, daemon=True)
                    thread.start()
                    self._threads.append(thread)
            except RuntimeError:  # no more threads to be had, or the interpreter is shutting down
                self._usable = False
                native.team_stop(address)
                return 0
            self._cell[0] = address
            return address

    def stop(self, patience: float = 1.0) -> None:
        """Ends the threads, after the call in progress if there is one (``patience`` in seconds). Later calls run on one worker."""
        with self._lock:
            self._usable = False
            address, self._cell[0] = int(self._cell[0]), 0
        deadline = time.monotonic() + patience
        while address and not driver().team_stop(address):
            if time.monotonic() > deadline:
                return
            time.sleep(0.001)
        for thread in self._threads:
            thread.join(patience)

    def forked(self) -> None:
        """In the child of a fork: forget the threads, which exist in the parent only."""
        self._lock = threading.Lock()
        self._cell[0] = 0
        self._threads.clear()


_teams: dict[int, Team] = {}
_teams_lock = threading.Lock()


def team_of(size: int) -> Team:
    """The team of this process with ``size`` workers, shared by all programs."""
    with _teams_lock:
        return _teams.setdefault(size, Team(size))


def _after_fork() -> None:
    global _teams_lock
    _teams_lock = threading.Lock()
    for team in _teams.values():
        team.forked()


def _stop_all() -> None:
    for team in list(_teams.values()):
        team.stop()


atexit.register(_stop_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
