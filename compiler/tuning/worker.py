"""The process that measures candidates, and its parent's end: one that crashes or hangs takes nothing else down.

The two are this package, started from one another; messages are JSON in the frames of ``codegen.child``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ...codegen.child import receive, send
from ...ir.errors import LoopnestError
from ..accuracy import difference
from ..config import Config, load_config
from ..layout import legal_layouts
from ..setup import Setup
from ..tensor import Layout
from .entries import parse_entry, parse_layout, searches_layouts
from .measure import compare

if TYPE_CHECKING:
    from .sites import Trial, WholeTrial

_CODE = f"import sys; sys.path[:] = sys.argv[1:]; from {__name__} import main; main()"
TOLERANCE = 1e-3
"""By so much of the largest value may results differ from those of the incumbent: other orders of summation, and transforms."""


class WorkerFailed(Exception):
    """The worker ended, or was ended because it took too long."""


@dataclass
class Worker:
    """The parent's end. ``opening`` is the first message to a new process."""

    opening: dict[str, Any]
    command: tuple[str, ...] = (sys.executable, "-c", _CODE, *sys.path)
    process: subprocess.Popen[bytes] | None = field(default=None)

    def open(self, timeout: float = 1800.0) -> dict[str, Any]:
        """Starts a process; its first answer. Raises ``LoopnestError`` where the model cannot be tuned."""
        self.close()
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            answer = self._exchange(self.opening, timeout)
        except WorkerFailed as error:
            raise LoopnestError(f"the model cannot be tuned: the process that measures {error}") from None
        if "error" in answer:
            raise LoopnestError(f"the model cannot be tuned: {answer['error']}")
        return answer

    def ask(self, message: dict[str, Any], timeout: float) -> dict[str, Any]:
        """The answer to a message. Raises ``WorkerFailed``; the next ``ask`` starts a new process."""
        if self.process is None:
            self.open()
        try:
            return self._exchange(message, timeout)
        except WorkerFailed:
            self.close()
            raise

    def _exchange(self, message: dict[str, Any], timeout: float) -> dict[str, Any]:
        process = self.process
        assert process is not None and process.stdin is not None and process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(timeout, end)
        timer.start()
        try:
            send(process.stdin, json.dumps(message).encode())  # type: ignore[arg-type]
            return json.loads(receive(process.stdout)[0])  # type: ignore[arg-type]
        except (OSError, EOFError, ValueError, IndexError):
            status = process.wait()
            raise WorkerFailed(f"took more than {timeout:g} s" if late.is_set() else f"ended with status {status}") from None
        finally:
            timer.cancel()

    def close(self) -> None:
        """Ends the process, if there is one."""
        if self.process is not None:
            self.process.kill()
            with contextlib.suppress(OSError):
                self.process.__exit__(None, None, None)
            self.process = None


def plain_config(config: Config) -> dict[str, Any]:
    """The configuration as JSON, without what was tuned."""
    return {**asdict(config), "tuned": {}}


def main() -> None:
    """Answers the messages on standard input until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anybody prints does not go to the parent
    bench: _Bench | None = None
    while True:
        try:
            message = json.loads(receive(source)[0])
        except EOFError:
            return
        try:
            if bench is None:
                bench = _Bench(message)
                answer = bench.listing()
            else:
                answer = bench.compare(message) if "candidate" in message else bench.look(message)
        except LoopnestError as error:
            answer = {"error": str(error)}
        send(sink, json.dumps(answer).encode())


class _Bench:
    def __init__(self, opening: dict[str, Any]) -> None:
        from .sites import Sites

        config = load_config(opening["config"])
        if "layout" in opening:
            config = replace(config, layout=opening["layout"])
        setup = Setup.of(opening["target"], config, opening["threads"])
        self.sites = Sites(opening["model"], setup, opening["shapes"])
        self.known: dict[str, Trial | WholeTrial] = {}
        self.graphs: list[str] = []
        self.clock = time.process_time if setup.threads == 1 else time.perf_counter

    def listing(self) -> dict[str, Any]:
        """All kernels, by what they take in the model, and the graphs whose layout may be searched."""
        self.sites.run()
        found = self.sites.sites()
        self.by_name = {site.signature: site for site in found}
        self.graphs = self.sites.graphs() if searches_layouts(self.sites.setup.config) else []
        return {"kernels": [[s.signature, s.milliseconds, s.count] for s in found], "graphs": self.graphs}

    def look(self, message: dict[str, Any]) -> dict[str, Any]:
        """What may be tried instead of some options."""
        from .space import as_table, candidates

        if message["kernel"] in self.graphs:
            target = self.sites.setup.target
            now = parse_layout(message["options"], target)
            legal = [name for name in legal_layouts(target) if name != (str(Layout(target.block)) if now == "auto" else now)]
            return {"candidates": [{"layout": name} for name in legal]}
        options = parse_entry(message["options"])
        site = self.by_name[message["kernel"]]
        trial = self.sites.trial(site, options)
        planned = self.sites.engine.planned[site.graph][0]
        found = candidates(trial, options, planned.constants, self.sites.setup.target)
        return {"candidates": [as_table(candidate) for candidate in found]}

    def compare(self, message: dict[str, Any]) -> dict[str, Any]:
        """Times a candidate against the incumbent, if both compute the same."""
        old, new = (self._trial(message["kernel"], message[who]) for who in ("incumbent", "candidate"))
        if old.identity == new.identity:
            return {"error": "it makes the same kernels"}
        old.run()
        new.run()
        apart = difference(new.outputs(), old.outputs())
        if apart > TOLERANCE:
            return {"error": f"its results differ by {apart:.1e} of the largest value"}
        return asdict(compare(old.run, new.run, self.clock, message["seconds"]))

    def _trial(self, name: str, entry: dict[str, Any]) -> Trial | WholeTrial:
        """A kernel, or the model, with the options of an entry; the last few are kept."""
        key = f"{name} {json.dumps(entry, sort_keys=True)}"
        found = self.known.pop(key, None)
        if found is None and name in self.graphs:
            found = self.sites.whole(parse_layout(entry, self.sites.setup.target))
        elif found is None:
            found = self.sites.trial(self.by_name[name], parse_entry(entry))
        while len(self.known) > 3:
            del self.known[next(iter(self.known))]
        self.known[key] = found
        return found
