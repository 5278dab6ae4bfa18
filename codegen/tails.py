"""Which vector loops may do an iteration twice, so that the last iterations are a whole vector that overlaps the one before.

for i in vector(n): y[i] = f(x[i])   ->   y[0:8], y[8:16], ..., y[n - 8 : n]
"""

from __future__ import annotations

from collections.abc import Set

from ..ir import loops as ir


def repeatable(body: ir.Body, shared: Set[str]) -> bool:
    """Whether an iteration that is done again does the same: nothing that is stored is loaded. The buffers named in ``shared`` may be one
    memory. Scalars that the loop reduces into are the caller's affair."""
    stored: set[object] = set()
    loaded: set[object] = set()
    for stmt in ir.statements(body):
        if isinstance(stmt, ir.Store):
            stored.add(_memory(stmt.buffer, shared))
        for e in ir.expressions(stmt):
            loaded.update(_memory(x.buffer, shared) for x in ir.walk(e) if isinstance(x, ir.Load))
    return not stored & loaded


def _memory(buffer: ir.Buffer, shared: Set[str]) -> object:
    return "shared" if buffer.root.name in shared else buffer.root
