"""Passes: named changes of a graph, run in order until nothing changes any more."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ...ir.errors import VerificationError
from ...ir.graph import Graph, Node
from ...ir.graph_verify import verify
from .names import map_bodies
from .rewrite import Rule, sweep

Change = Callable[[Graph, Graph], bool]
"""Changes one graph, in place, and says whether it did. The second graph is the outermost one, over which names are unique."""
Dump = Callable[[str, Graph], None]

_MAX_ROUNDS = 8


@dataclass(frozen=True)
class Pass:
    """A named change of one graph; ``run_passes`` takes it into subgraphs. It runs from optimization level ``level`` on."""

    name: str
    change: Change
    level: int = 0


def rules_pass(name: str, *rules: Rule, level: int = 0) -> Pass:
    """A pass that sweeps over the nodes once and applies ``rules``."""
    return Pass(name, lambda graph, root: sweep(graph, rules, root), level)


def run_passes(graph: Graph, passes: Iterable[Pass], *, dump: Dump | None = None, check: bool = False) -> Graph:
    """A copy of ``graph`` with ``passes`` applied, in order, round after round until none changes anything; then its subgraphs.

    ``dump(name, graph)`` is called after each pass that changed something. ``check`` verifies the graph after each of those and
    raises ``VerificationError`` naming the pass.
    """
    graph = graph.copy()

    def report(name: str) -> None:
        if check:
            try:
                verify(graph)
            except VerificationError as error:
                raise VerificationError(f"after pass {name}: {error}") from None
        if dump is not None:
            dump(name, graph)

    _optimize(graph, graph, tuple(passes), report)
    return graph


def _optimize(graph: Graph, root: Graph, passes: tuple[Pass, ...], report: Callable[[str], None]) -> bool:
    changed = False
    for _ in range(_MAX_ROUNDS):
        again = False
        for item in passes:
            if item.change(graph, root):
                again = True
                report(item.name)
        # Bodies come last: a control flow that is decided needs only one of them.
        if not again and _optimize_bodies(graph, root, passes):
            again = True
            report("optimize_bodies")
        if not again:
            break
        changed = True
    return changed


def _optimize_bodies(graph: Graph, root: Graph, passes: tuple[Pass, ...]) -> bool:
    changed = False
    for index, node in enumerate(graph.nodes):
        if node.bodies:
            graph.nodes[index] = _with_optimized_bodies(node, graph, root, passes)
            changed |= graph.nodes[index] is not node
    return changed


def _with_optimized_bodies(node: Node, graph: Graph, root: Graph, passes: tuple[Pass, ...]) -> Node:
    """``node`` with its bodies optimized, which see the constants and types of ``graph`` while that happens."""
    changed = False

    def optimize(body: Graph) -> Graph:
        nonlocal changed
        captured = frozenset(body.captures())
        inner = body.copy()
        inner.constants |= {name: graph.constants[name] for name in captured if name in graph.constants}
        inner.types |= {name: graph.types[name] for name in captured if name in graph.types}
        if not _optimize(inner, root, passes, lambda name: None):
            return body
        changed = True
        inner.constants = {name: array for name, array in inner.constants.items() if name not in captured}
        inner.types = {name: found for name, found in inner.types.items() if name not in captured}
        return inner

    result = map_bodies(node, optimize)
    return result if changed else node
