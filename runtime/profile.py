"""What a profiled run measured, step by step, and its table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .tables import format_table


@dataclass(frozen=True)
class StepTime:
    """One step: ``name`` lists its ONNX nodes, ``ms`` is the median wall time, ``flops`` and ``bytes`` what one call computes and moves."""

    name: str
    op: str
    kernel: str
    ms: float
    flops: int = 0
    bytes: int = 0
    layout: str = ""

    @property
    def gflops(self) -> float:
        """10^9 floating-point operations per second."""
        return self.flops / (self.ms * 1e6) if self.ms else 0.0

    @property
    def gbps(self) -> float:
        """10^9 bytes per second."""
        return self.bytes / (self.ms * 1e6) if self.ms else 0.0


@dataclass(frozen=True)
class Profile:
    """Times of all steps in order; ``total_ms`` is the median of whole native calls, ``workers`` how many shared the work."""

    steps: tuple[StepTime, ...]
    total_ms: float
    workers: int = 1

    @staticmethod
    def join(parts: Iterable[Profile]) -> Profile:
        """One profile of programs that ran one after the other."""
        parts = tuple(parts)
        steps = tuple(step for part in parts for step in part.steps)
        return Profile(steps, sum(part.total_ms for part in parts), max((part.workers for part in parts), default=1))

    def as_text(self) -> str:
        """A plain table, one line per step and a total."""
        header = ("step", "op", "kernel", "ms", "%", "GFLOP/s", "GB/s", "nodes")
        rows = [self._row(number, step) for number, step in enumerate(self.steps)]
        flops, moved = sum(step.flops for step in self.steps), sum(step.bytes for step in self.steps)
        whole = StepTime(f"{self.workers} worker{'s' * (self.workers != 1)}", "total", "", self.total_ms, flops, moved)
        return format_table(header, [*rows, ("", *self._row(0, whole)[1:])], right=(0, 3, 4, 5, 6))

    def _row(self, number: int, step: StepTime) -> tuple[str, ...]:
        share = 100 * step.ms / self.total_ms if self.total_ms else 0.0
        numbers = (f"{step.ms:.4f}", f"{share:.1f}", f"{step.gflops:.1f}", f"{step.gbps:.1f}")
        return (str(number), step.op, step.kernel[:12], *numbers, step.name)

    def __str__(self) -> str:
        return self.as_text()
