"""The parent's end of a process that compiles (``codegen.child``)."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import weakref
from collections.abc import MutableSequence

from ..codegen import child

_CODE = f"import sys; sys.path[:] = sys.argv[2:]; from {child.__name__} import main; main(early=sys.argv[1] == 'early')"


class Helper:
    """A process that answers messages. None of its methods raises when the process is not there (any more).

    ``early``: the first message will be some time coming; it imports meanwhile what it will need.
    """

    def __init__(self, *, early: bool = False) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()
        if sys.executable and not getattr(sys, "frozen", False):
            with contextlib.suppress(OSError, ValueError):
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _CODE, "early" if early else "", *sys.path],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )

    @property
    def alive(self) -> bool:
        """Whether the process is there, and this one's: not that of a parent that forked."""
        return self._process is not None and self._owner == os.getpid() and self._process.poll() is None

    def ready(self) -> bool:
        """Waits until the process has started; False when it has not."""
        return self._receive() == child.READY

    def ask(self, *message: bytes) -> bytes | None:
        """The answer to ``message``; None when there is none."""
        if self._process is None or self._process.stdin is None:
            return None
        try:
            child.send(self._process.stdin, *message)  # type: ignore[arg-type]
        except (OSError, ValueError):
            return None
        return self._receive()

    def _receive(self) -> bytes | None:
        if self._process is None or self._process.stdout is None:
            return None
        try:
            (answer,) = child.receive(self._process.stdout)  # type: ignore[arg-type]
        except (
            OSError,
            EOFError,
            ValueError,
            OverflowError,
            MemoryError,
        ):  # the pipe is closed; what comes is not from our child
            return None
        return answer

    def kill(self) -> None:
        """Ends the process at once; an ``ask`` in another thread gives None."""
        if self.alive and self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """Ends the process and frees what it holds here; no other thread may use it."""
        self.kill()
        if self._process is not None:
            with contextlib.suppress(OSError):  # what it did not read goes nowhere
                self._process.__exit__(None, None, None)
            self._process = None


class Spare:
    """Helpers that are started before there is anything to do, for whoever takes one first. They end with this object, with this process,
    and by themselves when nothing is asked of them for a while."""

    def __init__(self) -> None:
        self._helpers = list[Helper]()
        weakref.finalize(self, _close, self._helpers)

    def __bool__(self) -> bool:
        """Whether there is one."""
        return any(helper.alive for helper in self._helpers)

    def start(self) -> None:
        """Makes sure that there is one."""
        if not self:
            self.close()
            self._helpers.append(Helper(early=True))

    def take(self) -> Helper | None:
        """One that is the caller's from now on."""
        while self._helpers:
            helper = self._helpers.pop()
            if helper.alive:
                return helper
            helper.close()
        return None

    def close(self) -> None:
        """Ends those that nobody has taken."""
        _close(self._helpers)


def _close(helpers: MutableSequence[Helper]) -> None:
    while helpers:
        helpers.pop().close()
