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
"""Changes one graph, in place, whose outermost graph is the second; says whether it did."""

_MAX_ROUNDS = 8


@dataclass(frozen=True)
class Pass:
    """``change`` works on one graph; ``run`` applies it to a whole model, subgraphs included."""

    name: str
    change: Change

    def run(self, graph: Graph) -> bool:
        """Change ``graph`` in place (subgraphs are replaced, not changed); True when anything changed."""
        return _everywhere(self.change, graph, graph)


def rules_pass(name: str, *rules: Rule) -> Pass:
    """A pass that sweeps over the nodes once and applies ``rules``."""
    return Pass(name, lambda graph, root: sweep(graph, rules, root))


def run_passes(
    graph: Graph,
    passes: Iterable[Pass],
    *,
    dump: Callable[[str, Graph], None] | None = None,
    check: bool = False,
) -> Graph:
    """A copy of ``graph`` with ``passes`` applied, in order, round after round until none changes anything.

    ``dump(name, graph)`` is called after each pass that changed something. ``check`` verifies the graph after each of those and
    raises ``VerificationError`` naming the pass.
    """
    graph = graph.copy()
    order = list(passes)
    for _ in range(_MAX_ROUNDS):
        changed = [_apply(item, graph, dump, check) for item in order]
        if not any(changed):
            break
    return graph


def _apply(item: Pass, graph: Graph, dump: Callable[[str, Graph], None] | None, check: bool) -> bool:
    if not item.run(graph):
        return False
    if check:
        try:
            verify(graph)
        except VerificationError as error:
            raise VerificationError(f"after pass {item.name}: {error}") from None
    if dump is not None:
        dump(item.name, graph)
    return True


def _everywhere(change: Change, graph: Graph, root: Graph) -> bool:
    changed = change(graph, root)
    for index, node in enumerate(graph.nodes):
        if node.bodies:
            replaced = _in_bodies(change, node, graph, root)
            changed |= replaced is not node
            graph.nodes[index] = replaced
    return changed


def _in_bodies(change: Change, node: Node, graph: Graph, root: Graph) -> Node:
    """``node`` with ``change`` applied to its bodies, which see the constants and types of ``graph`` while that happens."""
    changed = False

    def apply(body: Graph) -> Graph:
        nonlocal changed
        captured = frozenset(body.captures())
        inner = body.copy()
        inner.constants |= {name: graph.constants[name] for name in captured if name in graph.constants}
        inner.types |= {name: graph.types[name] for name in captured if name in graph.types}
        if not _everywhere(change, inner, root):
            return body
        changed = True
        inner.constants = {name: array for name, array in inner.constants.items() if name not in captured}
        inner.types = {name: found for name, found in inner.types.items() if name not in captured}
        return inner

    result = map_bodies(node, apply)
    return result if changed else node
