"""Equal nodes become one, equal small constants too: ``f(x), f(x) => y = f(x), y``."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from ...ir.graph import Attribute, Graph, Node
from ..seeds import is_random
from .rewrite import Outcome, Rewrite, Rule, sweep
from .view import View

_MAX_CONSTANT_BYTES = 16384


def merge_equal(graph: Graph, root: Graph) -> bool:
    """Merge equal constants, then nodes that apply the same operator to the same values."""
    first: dict[Hashable, tuple[str, ...]] = {}
    names = _equal_constants(graph)

    def merge(view: View, node: Node) -> Outcome:
        if names and any(name in names for name in node.inputs):
            return Rewrite([node.replace(inputs=tuple(names.get(name, name) for name in node.inputs))])
        if node.bodies or is_random(node) or node.op == "Identity":
            return None
        outputs = first.setdefault(_key(node), node.outputs)
        if outputs == node.outputs or len(outputs) < len(node.outputs):
            return None
        pairs = dict(zip(node.outputs, outputs, strict=False))
        if any(name and not pairs[name] for name in node.outputs) or any(name in graph.outputs for name in node.outputs):
            return None
        return Rewrite(aliases={name: value for name, value in pairs.items() if name})

    return sweep(graph, [Rule(frozenset(), merge)], root)


def _equal_constants(graph: Graph) -> dict[str, str]:
    first: dict[Hashable, str] = {}
    return {
        name: kept for name, array in graph.constants.items() if (kept := first.setdefault(_array_key(array), name)) != name
    }


def _key(node: Node) -> Hashable:
    attrs = tuple(sorted((key, _attribute_key(value)) for key, value in node.attrs.items())) if node.attrs else ()
    return node.op, node.domain, node.inputs, attrs


def _attribute_key(value: Attribute) -> tuple[str, Hashable]:
    if isinstance(value, np.ndarray):
        return "array", _array_key(value)
    return type(value).__name__, repr(value)


def _array_key(array: np.ndarray) -> Hashable:
    if array.dtype == object or array.nbytes > _MAX_CONSTANT_BYTES:
        return id(array)
    return array.dtype, array.shape, array.tobytes()
