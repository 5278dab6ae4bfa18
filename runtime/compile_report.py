"""Where the time of compiling a model went."""

from __future__ import annotations

import threading


class CompileReport:
    """Seconds by stage, and kernels by where they came from, summed over all plans of a model. Thread-safe to add to.

    Stages: ``import`` (reading the model), ``passes``, ``plan`` (fusion, layout, lowering, memory), ``emit`` (loop IR to LLVM IR),
    ``numba`` (loops over tasks), ``llvm`` (optimizer and object code), ``wait`` (for helper processes), ``cache`` (kernels
    on disk), ``link``.
    """

    def __init__(
        self, seconds: dict[str, float] | None = None, compiled: int = 0, found: int = 0, helper_seconds: float = 0.0
    ) -> None:
        self.seconds = seconds or {}
        self.compiled = compiled
        """Kernels compiled for this model, here or by helper processes."""
        self.found = found
        """Kernels that the cache had."""
        self.helper_seconds = helper_seconds
        """How long helper processes worked meanwhile."""
        self._lock = threading.Lock()

    @property
    def total(self) -> float:
        """Seconds of all stages, which do not overlap unless several threads plan."""
        return sum(self.seconds.values())

    def add(self, stage: str = "", seconds: float = 0.0, **counts: float) -> None:
        """Adds time to a stage, and to the counts called by name."""
        with self._lock:
            if stage:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)

    def as_text(self) -> str:
        """One line."""
        stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in self.seconds.items() if seconds >= 0.005)
        helped = f" and {self.helper_seconds:.2f} s of helper processes" if self.helper_seconds else ""
        kernels = f"{self.compiled} kernels made, {self.found} found in the cache"
        return f"compiled in {self.total:.2f} s{f' ({stages})' if stages else ''}{helped}: {kernels}"

    def __str__(self) -> str:
        return self.as_text()
