"""The rules that every graph obeys between two passes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import dtypes
from .errors import VerificationError
from .graph import Graph, Node, TensorType


def verify(graph: Graph) -> None:
    """Raise ``VerificationError`` unless ``graph`` is in static single assignment and topological order.

    Every value is defined once (over all subgraphs too) and before it is used, outputs are defined, and each constant has the
    type that ``types`` records for it.
    """
    _verify(graph, visible=set(), defined=set())


def _verify(graph: Graph, visible: set[str], defined: set[str]) -> None:
    visible = set(visible)

    def define(name: str, what: Callable[[], str]) -> None:
        if name in defined:
            raise VerificationError(f"{what()} defines value {name!r} a second time")
        defined.add(name)
        visible.add(name)

    for name in graph.inputs:
        define(name, lambda: f"an input of graph {graph.name!r}")
    for name, array in graph.constants.items():
        define(name, lambda: f"a constant of graph {graph.name!r}")
        _verify_constant(graph, name, array)
    for node in graph.nodes:
        _verify_node(node, visible, defined)
        for name in node.outputs:
            if name:
                define(name, lambda node=node: str(node))
    for name in graph.outputs:
        if name not in visible:
            raise VerificationError(f"output {name!r} of graph {graph.name!r} is not defined")


def _verify_node(node: Node, visible: set[str], defined: set[str]) -> None:
    if not any(node.outputs):
        raise VerificationError(f"a {node.op} node {node.name!r} makes nothing")
    for name in node.inputs:
        if name and name not in visible:
            raise VerificationError(f"{node} reads {name!r}, which is not defined before it")
    for body in node.subgraphs():
        _verify(body, visible, defined)


def _verify_constant(graph: Graph, name: str, array: object) -> None:
    if not isinstance(array, np.ndarray):
        raise VerificationError(f"constant {name!r} is a {type(array).__name__}, not an array")
    declared = graph.types.get(name)
    if declared is None:
        return
    actual = TensorType(dtypes.from_numpy(array.dtype), array.shape)
    if not isinstance(declared, TensorType) or declared.dtype is not actual.dtype or not _fits(actual, declared):
        raise VerificationError(f"constant {name!r} is {actual} but its type says {declared}")


def _fits(actual: TensorType, declared: TensorType) -> bool:
    if declared.shape is None or actual.shape is None:
        return True
    pairs = list(zip(actual.shape, declared.shape, strict=False))
    return len(actual.shape) == len(declared.shape) and all(not isinstance(d, int) or d == a for a, d in pairs)
