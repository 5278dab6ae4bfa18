"""``loopnest.tune``: the layout of the model as a whole, then kernel by kernel, those first that take most of its time, one choice after
the other.

A candidate differs from the best schedule so far (the incumbent) in one choice. It is measured against it in turns, in a process of its
own. One that is faster beyond noise is measured once more, against the schedule without tuning; only then is it the new incumbent, and
written to the file. What that second measurement says is the gain: the first one is of the luckiest among many.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...ir.errors import LoopnestError
from ..config import Config, load_config
from ..setup import Setup
from .entries import REMARKS, SPACE, entries_for
from .signature import processor_key
from .store import Journal, read_entries, write_entries
from .worker import Worker, WorkerFailed, plain_config

LEAST_GAIN = 1.02
"""A schedule is kept if it is so many times as fast as the untuned one."""
SHARE = 0.003
"""Kernels with a smaller share of the model's time are not tuned."""
PATIENCE = 60.0
"""Seconds after which a candidate counts as hanging."""
EACH, FINAL = 0.4, 1.0
"""Seconds of measuring for a candidate, and for one that seems to win."""


@dataclass
class Kernel:
    """A kernel of the model: ``milliseconds`` of all ``count`` steps without tuning, ``best`` what was found, ``gain`` times as fast."""

    signature: str
    milliseconds: float
    count: int
    best: dict[str, Any] = field(default_factory=dict[str, Any])
    gain: float = 1.0
    left: list[dict[str, Any]] | None = None
    failures: int = 0
    """Candidates since the last that won."""

    @property
    def promise(self) -> float:
        """How much there is to gain, by guess."""
        return self.milliseconds / self.gain * 0.9**self.failures


@dataclass(frozen=True)
class Progress:
    """Where a tuning stands. ``left`` seconds (None: no limit); ``gain``: how many times as fast the model should be."""

    trials: int
    elapsed: float
    left: float | None
    kernel: str
    best: float
    gain: float


@dataclass(frozen=True)
class Tuned:
    """What a tuning found: the kernels, the one that takes most first, all of it with a layout (None where nothing is in blocks of
    channels, or a configuration says how), and the expected gain for the whole model."""

    path: Path
    kernels: tuple[Kernel, ...]
    whole: Kernel | None
    trials: int
    failed: tuple[str, ...]

    @property
    def gain(self) -> float:
        """How many times as fast the model should be."""
        return _gain(self.kernels, self.whole)


def _gain(kernels: Sequence[Kernel], whole: Kernel | None) -> float:
    before = sum(kernel.milliseconds for kernel in kernels)
    after = sum(kernel.milliseconds / kernel.gain for kernel in kernels)
    return (whole.gain if whole else 1.0) * (before / after if after else 1.0)


def tune(
    model: Any,
    output: str | os.PathLike[str],
    *,
    seconds: float | None = None,
    trials: int | None = None,
    resume: bool = False,
    shapes: Mapping[str, Sequence[int]] | None = None,
    config: Config | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    target: str = "cpu",
    threads: int | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Tuned:
    """Searches schedules for the kernels of ``model`` (path, bytes or ``ModelProto``) and keeps those that win in the TOML file ``output``,
    which ``loopnest.compile(model, config=output)`` uses. What the file has for other models, processors and options stays.

    It ends after about ``seconds`` (120 where nothing is said), after ``trials`` candidates, or when nothing is left to try. With
    ``resume``, candidates that an interrupted tuning has measured are not measured again. ``config`` None means the file, where it exists.
    Raises what ``compile`` raises, and ``ConfigError`` for a file that cannot be read or written.
    """
    path = Path(output)
    entries = read_entries(path)
    chosen = load_config(path if config is None and path.exists() else config)
    setup = Setup.of(target, chosen, threads)
    limit = 120.0 if seconds is None and trials is None else seconds
    with tempfile.TemporaryDirectory() as folder:
        opening = {
            "model": _as_path(model, Path(folder)),
            "shapes": {name: list(map(int, shape)) for name, shape in (shapes or {}).items()},
            "config": plain_config(chosen),
            "target": target,
            "threads": setup.threads,
        }
        known = entries_for(setup.target, setup.threads, entries)
        search = _Search(
            path, entries, known, processor_key(setup.target, setup.threads), Worker(opening), limit, trials, progress
        )
        return search.run(resume=resume)


def _as_path(model: Any, folder: Path) -> str:
    """Where the model lies as a file; one that does not is written to ``folder``."""
    if isinstance(model, str | os.PathLike):
        return os.fspath(model)  # type: ignore[return-value]
    path = folder / "model.onnx"
    path.write_bytes(bytes(model) if isinstance(model, bytes | bytearray | memoryview) else model.SerializeToString())
    return str(path)


@dataclass
class _Search:
    path: Path
    entries: dict[str, dict[str, dict[str, Any]]]
    known: Mapping[str, Any]
    """What the file has for this processor and number of threads, by signature."""
    place: str
    worker: Worker
    limit: float | None
    most: int | None
    progress: Callable[[Progress], None]
    kernels: list[Kernel] = field(default_factory=list[Kernel])
    whole: Kernel | None = None
    graphs: tuple[str, ...] = ()
    """The signatures that an entry for ``whole`` has: a model may be planned in parts."""
    patience: float = 0.0
    """How much longer than one for a kernel a candidate for the whole model may take."""
    trials: int = 0
    failed: list[str] = field(default_factory=list[str])
    started: float = field(default_factory=time.monotonic)

    def run(self, *, resume: bool) -> Tuned:
        self.journal = Journal(self.path.with_name(f"{self.path.name}.journal"), resume=resume)
        try:
            listed = self.worker.open()
            self.patience = 4 * (time.monotonic() - self.started)
            self.started = time.monotonic()
            if listed.get("graphs"):
                listed = self.lay_out(tuple(listed["graphs"]), listed)
            self.kernels = [Kernel(*kernel) for kernel in listed["kernels"]]
            total = sum(kernel.milliseconds for kernel in self.kernels)
            worth = [kernel for kernel in self.kernels if kernel.milliseconds >= SHARE * total]
            for kernel in worth:
                self.recall(kernel)
            while self.goes_on():
                kernel = max((k for k in worth if k.left is None or k.left), key=lambda k: k.promise, default=None)
                if kernel is None:
                    break
                self.step(kernel)
        finally:
            self.worker.close()
        write_entries(self.path, self.entries)
        self.journal.close()
        return Tuned(self.path, tuple(self.kernels), self.whole, self.trials, tuple(self.failed))

    def lay_out(self, graphs: tuple[str, ...], listed: dict[str, Any]) -> dict[str, Any]:
        """Searches the layout, then lists the kernels that the best one has."""
        self.graphs = graphs
        whole = self.whole = Kernel(graphs[0], sum(milliseconds for _, milliseconds, _ in listed["kernels"]), 1)
        self.recall(whole)
        while self.goes_on() and (whole.left is None or whole.left):
            self.step(whole)
        if not whole.best:
            return listed
        self.worker.opening["layout"] = whole.best["layout"]
        return self.worker.open()

    def goes_on(self) -> bool:
        late = self.limit is not None and time.monotonic() - self.started >= self.limit
        return not late and (self.most is None or self.trials < self.most)

    def recall(self, kernel: Kernel) -> None:
        """Starts from what the file has."""
        entry = self.known.get(kernel.signature, {})
        if entry.get("space") == SPACE:
            kernel.best = {key: value for key, value in entry.items() if key not in REMARKS}
            gain = entry.get("gain", 1.0)
            kernel.gain = float(gain) if isinstance(gain, int | float) and gain > 0 else 1.0

    def step(self, kernel: Kernel) -> None:
        """One candidate for one kernel, or for the whole model."""
        if kernel.left is None:
            self.look(kernel)
            return
        candidate = kernel.left.pop(0)
        outcome = self.measure(kernel, candidate)
        self.journal.add(kernel.signature, _text(candidate), outcome)
        self.tell(kernel)

    def look(self, kernel: Kernel) -> None:
        """Asks what may be tried, apart from what was."""
        answer: dict[str, Any]
        try:
            answer = self.worker.ask({"kernel": kernel.signature, "options": kernel.best}, PATIENCE)
        except WorkerFailed as failure:
            answer = {"error": str(failure)}
        if "error" in answer and kernel.best:  # the entry of the file is no schedule any more
            kernel.best, kernel.gain = {}, 1.0
            self.look(kernel)
            return
        found: list[dict[str, Any]] = answer.get("candidates", [])
        kernel.left = [item for item in found if (kernel.signature, _text(item)) not in self.journal.tried]

    def measure(self, kernel: Kernel, candidate: dict[str, Any]) -> str:
        """Whether a candidate won, or why not."""
        self.trials += 1
        kernel.failures += 1
        try:
            found = self.compare(kernel, kernel.best, candidate, EACH)
            if found["high"] >= 1.0:
                return f"{found['ratio']:.3f}"
            final = self.compare(kernel, {}, candidate, FINAL) if kernel.best or found["ratio"] < 1.0 else found
        except (WorkerFailed, LoopnestError) as error:
            if isinstance(error, WorkerFailed):
                self.failed.append(f"{kernel.signature}: {_text(candidate)} {error}")
            return str(error)
        gain = 1 / final["ratio"]
        if final["high"] >= 1.0 or gain < max(LEAST_GAIN, kernel.gain if kernel.best else 0.0):
            return f"{found['ratio']:.3f}, then {final['ratio']:.3f} of the time without tuning"
        self.accept(kernel, candidate, gain, final["milliseconds"])
        return f"won, {gain:.3f} times as fast"

    def compare(self, kernel: Kernel, incumbent: dict[str, Any], candidate: dict[str, Any], seconds: float) -> dict[str, Any]:
        message = {"kernel": kernel.signature, "incumbent": incumbent, "candidate": candidate, "seconds": seconds}
        answer = self.worker.ask(message, PATIENCE + seconds + (self.patience if kernel is self.whole else 0.0))
        if "error" in answer:
            raise LoopnestError(answer["error"])
        return answer

    def accept(self, kernel: Kernel, candidate: dict[str, Any], gain: float, milliseconds: float) -> None:
        kernel.best, kernel.gain, kernel.failures, kernel.left = candidate, gain, 0, None
        remarks = {"gain": round(gain, 3), "milliseconds": round(milliseconds, 5), "space": SPACE}
        for name in self.graphs if kernel is self.whole else (kernel.signature,):
            self.entries.setdefault(self.place, {})[name] = {**candidate, **remarks}
        write_entries(self.path, self.entries)

    def tell(self, kernel: Kernel) -> None:
        elapsed = time.monotonic() - self.started
        left = None if self.limit is None else max(0.0, self.limit - elapsed)
        self.progress(Progress(self.trials, elapsed, left, kernel.signature, kernel.gain, _gain(self.kernels, self.whole)))


def _text(candidate: Mapping[str, Any]) -> str:
    return json.dumps(candidate, sort_keys=True)
