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
    """The operators of a model, after function bodies stand in for operators that loopnest does not have itself.

    ``host`` are those of the supported ones that Python runs between kernels: control flow (unless it is decided while planning),
    sequences, optionals, strings.
    """

    supported: tuple[OperatorCount, ...]
    unsupported: tuple[OperatorCount, ...]
    host: tuple[OperatorCount, ...] = ()

    @property
    def ok(self) -> bool:
        """True when every operator is supported."""
        return not self.unsupported

    def as_text(self) -> str:
        """A line for each operator, those that are missing first."""
        lines = [f"{sum(item.count for item in self.supported + self.unsupported)} nodes, {self._verdict()}"]
        lines += [f"  missing  {item}" for item in self.unsupported]
        for item in self.supported:
            lines.append(f"  {'host' if item in self.host else 'ok':8} {item.domain or 'ai.onnx'} {item.op} ({item.count} x)")
        return "\n".join(lines) + "\n"

    def _verdict(self) -> str:
        if self.ok:
            host = f", {len(self.host)} of them may run on the host" if self.host else ""
            return f"all {len(self.supported)} operators are supported{host}"
        return f"{len(self.unsupported)} of {len(self.supported) + len(self.unsupported)} operators are not supported"

    def __str__(self) -> str:
        return self.as_text()


def check(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto, *, supported: Callable[[str, str], bool] | None = None
) -> CheckReport:
    """Which operators of ``model`` loopnest has (or ``supported(domain, op)`` says it has); ``ModelError`` when it is malformed."""
    from .frontend import import_model
    from .frontend.report import count_operators
    from .ops.registry import is_supported, lookup

    has = supported or is_supported
    graph, opsets = import_model(model, supported=has)
    nodes = [node for part in graph.walk() for node in part.nodes]
    counts = count_operators((node for node in nodes if has(node.domain, node.op)), opsets)
    definitions = {item: lookup(item.domain, item.op) for item in counts}
    return CheckReport(
        counts,
        count_operators((node for node in nodes if not has(node.domain, node.op)), opsets),
        tuple(item for item, definition in definitions.items() if definition is not None and definition.kind == "host"),
    )
