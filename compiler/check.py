"""What of a model loopnest can compile, said without compiling it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

    from .frontend.report import OperatorCount


@dataclass(frozen=True)
class CheckReport:
    """The operators of a model, after function bodies stand in for operators that loopnest does not have itself."""

    supported: tuple[OperatorCount, ...]
    unsupported: tuple[OperatorCount, ...]

    @property
    def ok(self) -> bool:
        """True when every operator is supported."""
        return not self.unsupported

    def as_text(self) -> str:
        """A line for each operator, those that are missing first."""
        lines = [f"{sum(item.count for item in self.supported + self.unsupported)} nodes, {self._verdict()}"]
        lines += [f"  missing  {item}" for item in self.unsupported]
        lines += [f"  ok       {item.domain or 'ai.onnx'} {item.op} ({item.count} x)" for item in self.supported]
        return "\n".join(lines) + "\n"

    def _verdict(self) -> str:
        if self.ok:
            return f"all {len(self.supported)} operators are supported"
        return f"{len(self.unsupported)} of {len(self.supported) + len(self.unsupported)} operators are not supported"

    def __str__(self) -> str:
        return self.as_text()


def check(model: str | os.PathLike[str] | bytes | onnx.ModelProto, *, supported: Callable[[str, str], bool]) -> CheckReport:
    """Which operators of ``model`` are in ``supported(domain, op)``; ``ModelError`` when it is malformed."""
    from .frontend import import_model
    from .frontend.report import count_operators

    graph, opsets = import_model(model, supported=supported)
    nodes = [node for part in graph.walk() for node in part.nodes]
    return CheckReport(
        count_operators((node for node in nodes if supported(node.domain, node.op)), opsets),
        count_operators((node for node in nodes if not supported(node.domain, node.op)), opsets),
    )
