"""Rewrite rules and the sweep that applies them.

A rule looks at one node, the last of its pattern, and backwards from there through ``View``. It returns None where its pattern is
not, a ``Refusal`` with the reason where the pattern is but must not be rewritten, or a ``Rewrite``. One sweep visits every node
once, in order, and offers each node that a rewrite made to the rules again; what nobody reads any more disappears at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ...ir.errors import MALFORMED
from ...ir.graph import Graph, Node, TensorType
from ..ops.infer import InferContext
from ..ops.registry import lookup
from .view import View

_MAX_STEPS = 50


@dataclass(frozen=True)
class Refusal:
    """Why a rule leaves alone what it recognized."""

    reason: str


@dataclass(frozen=True)
class Rewrite:
    """``nodes`` replace the matched node; its outputs in ``aliases`` become names of other values."""

    nodes: Sequence[Node] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)


Outcome = Rewrite | Refusal | None
Match = Callable[[View, Node], Outcome]


@dataclass(frozen=True)
class Rule:
    """``match`` is offered nodes whose operator is in ``ops``, or all nodes when ``ops`` is empty."""

    ops: frozenset[str]
    match: Match

    @property
    def name(self) -> str:
        return self.match.__name__


def rule(*ops: str) -> Callable[[Match], Rule]:
    """Makes a rule of a function; its docstring is the rule's equation."""
    return lambda match: Rule(frozenset(ops), match)


def replace_with(node: Node, op: str, inputs: Iterable[str], attrs: Mapping[str, object] | None = None) -> Rewrite:
    """``node`` becomes a single other node with the same first output."""
    return Rewrite([Node(op, tuple(inputs), node.outputs[:1], dict(attrs or {}), node.name)])  # type: ignore[arg-type]


def forward(node: Node, value: str) -> Rewrite:
    """The output of ``node`` becomes another name of ``value``."""
    return Rewrite(aliases={node.outputs[0]: value})


def sweep(graph: Graph, rules: Sequence[Rule], root: Graph) -> bool:
    """Apply ``rules`` to one graph, in place; ``root`` is the graph around it, over which new names are unique."""
    by_op: dict[str, list[Match]] = {}
    general = [item.match for item in rules if not item.ops]
    for item in rules:
        for op in item.ops:
            by_op.setdefault(op, []).append(item.match)
    if not general and not any(node.op in by_op for node in graph.nodes):
        return False
    view = View(graph, root)
    changed = False
    for node in list(graph.nodes):
        if view.is_unused(node):
            view.drop(node)
            changed = True
            continue
        pending, steps = [node], 0
        while pending:
            current = view.resolve(pending.pop(0))
            outcome = _first(view, current, by_op.get(current.op, ()), general) if steps < _MAX_STEPS else None
            if outcome is None:
                view.keep(current)
                continue
            changed, steps = True, steps + 1
            view.replaced(current, outcome.nodes, outcome.aliases)
            pending[:0] = outcome.nodes
    view.finish()
    return changed


def _first(view: View, node: Node, specific: Iterable[Match], general: Iterable[Match]) -> Rewrite | None:
    if node.domain:
        return None
    for match in (*specific, *general):
        try:
            outcome = match(view, node)
        except MALFORMED:
            if _is_valid(view, node):
                raise
            return None  # what is wrong with it, its operator says when shapes are numbers
        if isinstance(outcome, Rewrite):
            return outcome
    return None


def _is_valid(view: View, node: Node) -> bool:
    """Whether the operator takes its attributes and inputs, as far as they are known."""
    definition, names = lookup(node.domain, node.op), node.inputs
    types = tuple(view.type(name) if name else None for name in names)
    if definition is None or any(name and not isinstance(kind, TensorType) for name, kind in zip(names, types, strict=True)):
        return False
    try:
        definition.infer(InferContext(node, types, tuple(view.constant(name) if name else None for name in names)))
    except Exception:  # its shapes may not be numbers yet
        return False
    return True
