"""Control flow that is decided already."""

from __future__ import annotations

from ...ir.graph import Graph, Node
from .rewrite import Outcome, Refusal, Rewrite, rule
from .view import View


@rule("If")
def decided_if(view: View, node: Node) -> Outcome:
    """If(true, a, b) => a, If(false, a, b) => b"""
    condition = view.constant(node.inputs[0])
    if condition is None:
        return Refusal("the condition is not constant")
    branch = node.attrs["then_branch" if bool(condition.reshape(-1)[0]) else "else_branch"]
    assert isinstance(branch, Graph)
    view.graph.constants.update(branch.constants)
    view.graph.types.update(branch.types)
    nodes = list(branch.nodes)
    results = (Node("Identity", (value,), (name,)) for name, value in zip(node.outputs, branch.outputs, strict=False) if name)
    return Rewrite([*nodes, *results])
