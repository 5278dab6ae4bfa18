"""Operators counted for messages and reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ...ir.graph import Node

_SHOWN = 3


@dataclass(frozen=True)
class OperatorCount:
    """An operator, how often a model uses it, and the names of those nodes."""

    domain: str
    op: str
    opset: int
    nodes: tuple[str, ...]

    @property
    def count(self) -> int:
        return len(self.nodes)

    def __str__(self) -> str:
        names = ", ".join(repr(name) for name in self.nodes[:_SHOWN])
        more = f" and {self.count - _SHOWN} more" if self.count > _SHOWN else ""
        return f"{self.domain or 'ai.onnx'} {self.op} (opset {self.opset}, {self.count} x: {names}{more})"


def count_operators(nodes: Iterable[Node], opsets: Mapping[str, int]) -> tuple[OperatorCount, ...]:
    """``nodes`` by operator, most frequent first; nodes without a name go by what they make."""
    found: dict[tuple[str, str], list[str]] = {}
    for node in nodes:
        found.setdefault((node.domain, node.op), []).append(node.name or next(filter(None, node.outputs), ""))
    counts = [OperatorCount(domain, op, opsets.get(domain, 1), tuple(names)) for (domain, op), names in found.items()]
    return tuple(sorted(counts, key=lambda item: (-item.count, item.domain, item.op)))
