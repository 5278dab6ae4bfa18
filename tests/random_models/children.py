"""Seeds judged in processes of their own, so that one that crashes, hangs or takes all memory is a finding like others."""

from __future__ import annotations

import faulthandler
import os
import resource
import select
import signal
import traceback
from collections.abc import Callable, Iterator

Judge = Callable[[int], list[str]]
GIGABYTES = 8


def judged(judge: Judge, first: int, last: int, seconds: float = 60.0) -> Iterator[tuple[int, str]]:
    """Each problem of the seeds ``first`` to ``last``, with its seed. What a process dies of is a problem, and another goes on."""
    while first <= last:
        child, end = _started(judge, first, last)
        buffer = b""
        death = ""
        while True:
            ready, _, _ = select.select([end], [], [], seconds)
            if not ready:
                death = f"no result after {seconds:.0f} s"
                os.kill(child, signal.SIGKILL)
                break
            data = os.read(end, 1 << 16)
            if not data:
                break
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                seed, _, text = line.decode().partition(" ")
                if text:
                    yield int(seed), text
                else:
                    first = int(seed) + 1
        os.close(end)
        _, status = os.waitpid(child, 0)
        if first <= last:
            yield first, death or f"the process ended with {_cause(status)}"
            first += 1


def _started(judge: Judge, first: int, last: int) -> tuple[int, int]:
    """A child that writes lines: a seed and a problem, or a seed alone when it is done."""
    end, start = os.pipe()
    child = os.fork()
    if child:
        os.close(start)
        return child, end
    try:
        faulthandler.disable()  # which signal it was is enough
        resource.setrlimit(resource.RLIMIT_AS, (GIGABYTES << 30, GIGABYTES << 30))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for seed in range(first, last + 1):
            for problem in _problems(judge, seed):
                os.write(start, f"{seed} {' '.join(problem.split())}\n".encode())
            os.write(start, f"{seed}\n".encode())
    finally:
        os._exit(0)


def _problems(judge: Judge, seed: int) -> list[str]:
    try:
        return judge(seed)
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        return [f"{type(error).__name__}: {error} [{os.path.basename(at.filename)}:{at.lineno}]"]


def _cause(status: int) -> str:
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit status {os.WEXITSTATUS(status)}"
