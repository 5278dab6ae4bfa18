"""Binding a graph to one set of input shapes: shapes inferred node by node, everything that depends on nothing but shapes folded away.

    Shape(x) -> [1, 3, 224, 224] -> Gather -> Concat -> Reshape(y, [1, -1])     becomes     Reshape(y, [1, -1])

What cannot be planned yet, because it needs a value that only data gives (the condition of a Loop, the extents of a NonZero's result), is
left for later. An operator whose result's extent only data gives is planned for the largest extent and followed by a cut to the true one:

    NonZero(x) -> y     becomes     NonZero(x) -> y_all, count     and, later on the host,     Trim(y_all, count) -> y
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from ..ir import dtypes, graph_interpreter
from ..ir.errors import MALFORMED, LoopnestError
from ..ir.graph import Graph, Node, TensorType, Type, node_reads
from ..ir.graph_control import truth
from .frontend.tensors import element_count
from .ops.infer import InferContext
from .ops.registry import OpDef, lookup
from .seeds import is_random

FOLD_LIMIT = 1 << 22
"""Elements above which a constant result is computed at run time instead of being kept."""

VALUE_LIMIT = 16
"""Elements of an input from which shapes are computed; a larger one is bound by value only where an operator asks for its value itself."""


@dataclass(frozen=True)
class Specialized:
    """``graph``: the part that can be planned, all types concrete, every value that somebody needs among its outputs. ``later``: the nodes
    left over, in order."""

    graph: Graph
    later: tuple[Node, ...]


def specialize(graph: Graph, inputs: Mapping[str, object], known: frozenset[str]) -> Specialized:
    """Binds ``graph`` to the shapes of ``inputs``, and to the values of those named in ``known``."""
    return _Specializer(graph, inputs, known).run()


def value_inputs(graph: Graph) -> frozenset[str]:
    """The graph inputs whose values decide shapes or control flow: those that an operator must know (Reshape's shape, Resize's scales, If's
    condition), and small integers or booleans from which such a value is computed."""
    needed, sources = set[str](), set[str]()
    _trace(graph.nodes, needed, sources)
    return frozenset(n for n in graph.inputs if n in needed or (n in sources and _is_small(graph.types.get(n))))


def _trace(nodes: Sequence[Node], needed: set[str], sources: set[str]) -> None:
    """Adds the values that planning ``nodes`` needs to ``needed``, and what those are computed from to ``sources``."""
    for node in reversed(nodes):
        definition = lookup(node.domain, node.op)
        wanted = any(output in needed or output in sources for output in node.outputs)
        if node.op == "If":
            needed.add(node.inputs[0])
            for body in node.bodies:
                results = zip(body.outputs, node.outputs, strict=False)
                sources.update(inner for inner, outer in results if outer in needed or outer in sources)
                _trace(body.nodes, needed, sources)
        elif definition is not None and definition.kind != "host":
            needed.update(filter(None, (node.input(i) for i in definition.values)))
            if wanted and definition.kind != "shape":
                sources.update(filter(None, node.inputs))


def _is_small(kind: Type | None) -> bool:
    if not isinstance(kind, TensorType) or kind.shape is None or kind.dtype.kind not in ("int", "uint", "bool"):
        return False
    return len(kind.shape) < 2 and all(not isinstance(extent, int) or extent <= VALUE_LIMIT for extent in kind.shape)


@dataclass
class _Specializer:
    source: Graph
    inputs: Mapping[str, object]
    known: frozenset[str]
    types: dict[str, Type] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    later: list[Node] = field(default_factory=list)
    unavailable: set[str] = field(default_factory=set)

    def run(self) -> Specialized:
        graph = self.source
        for name, array in graph.constants.items():
            self.define(name, array)
        for name in graph.inputs:
            value = self.inputs[name]
            if not isinstance(value, np.ndarray):
                self.types.update({name: graph.types[name]} if name in graph.types else {})
            elif name in self.known:
                self.define(name, value.copy())
            else:
                self.types[name] = TensorType(dtypes.from_numpy(value.dtype), value.shape)
        self.visit(graph.nodes)
        return self.split()

    def define(self, name: str, array: np.ndarray) -> None:
        self.constants[name] = array
        self.types[name] = TensorType(dtypes.from_numpy(array.dtype), array.shape)

    def visit(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            if node.op == "If" and node.inputs[0] in self.constants:
                self.inline(node)
            elif any(name in self.unavailable for name in node_reads(node)) or not self.place(node):
                self.postpone(node)

    def postpone(self, node: Node) -> None:
        self.later.append(node)
        self.unavailable.update(o for o in node.outputs if o)

    def place(self, node: Node) -> bool:
        """Folds a node, or takes it into the plan; False when it must wait."""
        definition = lookup(node.domain, node.op)
        kinds = [self.types.get(name) for name in node.inputs if name]
        if definition is None or definition.kind == "host" or not all(isinstance(kind, TensorType) for kind in kinds):
            return False
        if any(node.input(i) and node.input(i) not in self.constants for i in definition.values):
            return False
        if definition.kind == "shape":
            kind = self.types[node.inputs[0]]
            assert isinstance(kind, TensorType) and kind.static_shape is not None
            self.define(node.outputs[0], definition.define(node, kind.static_shape))
            return True
        if self.fold(node):
            return True
        return not any(_is_text(kind) for kind in kinds) and self.infer(node, definition)

    def fold(self, node: Node) -> bool:
        if is_random(node) or node.domain == "loopnest" or not all(name in self.constants for name in node.inputs if name):
            return False
        if sum(self.constants[name].size for name in node.inputs if name) > FOLD_LIMIT or (
            not node.inputs and node.op != "Constant"
        ):
            return False
        if self._expands(node):
            return False
        try:
            results = graph_interpreter.evaluate(node, [self.constants[name] if name else None for name in node.inputs])
        except Exception:  # the interpreter lacks it, or the data provoke what its type or its kernel says properly
            return False
        for name, value in zip(node.outputs, results, strict=False):
            if name:
                assert isinstance(value, np.ndarray | np.generic)
                self.define(name, np.asarray(value))
        return True

    def _expands(self, node: Node) -> bool:
        """Whether folding would make a large array out of a small one."""
        if node.op in ("ConstantOfShape", "Expand", "Tile"):
            extents = self.constants[node.inputs[-1]]
            count = prod(int(v) for v in extents.reshape(-1))
            return count * (self.constants[node.inputs[0]].size if node.op == "Tile" else 1) > FOLD_LIMIT // 16
        return False

    def inline(self, node: Node) -> None:
        """If(constant, a, b) => the branch taken, under the node's output names."""
        body = node.attrs["then_branch" if truth(self.constants[node.inputs[0]]) else "else_branch"]
        assert isinstance(body, Graph)
        for name, array in body.constants.items():
            self.define(name, array)
        self.visit(body.nodes)
        results = zip(body.outputs, node.outputs, strict=False)
        self.visit([Node("Identity", (inner,), (outer,), name=node.name) for inner, outer in results if outer])

    def infer(self, node: Node, definition: OpDef) -> bool:
        types = tuple(self.types[name] if name else None for name in node.inputs)
        values = tuple(self.constants.get(name) if name else None for name in node.inputs)
        if not node.outputs[0]:  # what plans nodes knows them by their first output
            node = node.replace(outputs=(f"{next(filter(None, node.outputs))} (first)", *node.outputs[1:]))
        context = InferContext(node, types, values)
        kinds = _inferred(context, definition)
        if definition.trims is not None:
            self.trim(node, definition.trims(context), kinds)
            return True
        self.types.update((name, kind) for name, kind in zip(node.outputs, kinds, strict=False) if name)
        if any(_is_text(kind) for kind in kinds):
            return False
        self.nodes.append(node)
        return True

    def trim(self, node: Node, axes: Sequence[int | None], kinds: Sequence[Any]) -> None:
        """Plans ``node`` for the largest extents; the host cuts its outputs along ``axes`` to the count that comes last."""
        outputs = (*node.outputs, *[""] * (len(axes) - len(node.outputs)))
        if any(axis is not None and kind.shape[axis] == 0 for kind, axis in zip(kinds, axes, strict=False)):
            for name, kind in zip(outputs, kinds, strict=False):
                if name:
                    self.define(name, np.zeros(kind.shape, kind.dtype.numpy))
            return
        whole = tuple(f"{name} (all)" if name else "" for name in outputs)
        count = f"{next(filter(None, outputs))} (count)"
        self.types.update((name, kind) for name, kind in zip((*whole, count), kinds, strict=True) if name)
        self.nodes.append(node.replace(outputs=(*whole, count)))
        for name, full, axis in zip(outputs, whole, axes, strict=True):
            if name:
                attributes = {} if axis is None else {"axis": axis}
                self.postpone(Node("Trim", (full, count), (name,), attributes, node.name, "loopnest"))

    def split(self) -> Specialized:
        source, made = self.source, {o for node in self.nodes for o in node.outputs if o}
        wanted = dict.fromkeys(name for name in source.outputs if name not in self.unavailable)
        wanted.update((name, None) for node in self.later for name in node_reads(node) if name in made)
        types = {**source.types, **self.types}
        return Specialized(
            Graph(source.name, source.inputs, tuple(wanted), self.nodes, self.constants, types), tuple(self.later)
        )


def _inferred(context: InferContext, definition: OpDef) -> list[Any]:
    """The types of a node's outputs. ``ModelError`` where attributes or inputs do not fit, or a result fits into no memory."""
    try:
        found = definition.infer(context)
    except MALFORMED as error:
        if isinstance(error, LoopnestError):
            raise
        raise context.fail(f"its attributes or inputs do not fit together: {error}") from error
    kinds: list[Any] = found if isinstance(found, list) else [found]
    for name, kind in zip(context.node.outputs, kinds, strict=False):
        if isinstance(kind, TensorType) and kind.static_shape is not None:
            element_count(kind.static_shape, kind.dtype, f"{context.node}: tensor {name!r}")
    return kinds


def _is_text(kind: Type | None) -> bool:
    return isinstance(kind, TensorType) and not kind.dtype.is_numeric
