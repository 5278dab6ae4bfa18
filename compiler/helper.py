"""The parent's end of a process that compiles (``codegen.child``)."""

from __future__ import annotations

import contextlib
import subprocess
import sys

from ..codegen import child

_CODE = f"import sys; sys.path[:] = sys.argv[2:]; from {child.__name__} import main; main(early=sys.argv[1] == 'early')"


class Helper:
    """A process that answers messages. None of its methods raises when the process is not there (any more).

    ``early``: the first message will be some time coming; it imports meanwhile what it will need.
    """

    def __init__(self, *, early: bool = False) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        if sys.executable and not getattr(sys, "frozen", False):
            with contextlib.suppress(OSError, ValueError):
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _CODE, "early" if early else "", *sys.path],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )

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
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """Ends the process and frees what it holds here; no other thread may use it."""
        self.kill()
        if self._process is not None:
            with contextlib.suppress(OSError):  # what it did not read goes nowhere
                self._process.__exit__(None, None, None)
            self._process = None
