"""``GraphProto`` to ``Graph``: names made unique, functions inlined, nodes checked and brought to the newest opset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from ...ir.errors import ModelError
from ...ir.graph import Attribute, Graph, Node
from .attributes import constant_value, to_attribute
from .body import Body, topological
from .names import Names, Scope
from .reading import normal_domain, opset_imports, text
from .schemas import check_node, describe
from .tensors import sparse_to_array, to_array
from .types import to_type
from .upgrade import upgrade

FunctionId = tuple[str, str, str]


@dataclass(frozen=True)
class _Context:
    """What a node's names, attributes and version refer to."""

    scope: Scope
    opsets: Mapping[str, int]
    bindings: Mapping[str, Attribute]
    """Values of the attributes of the function being inlined."""
    calls: tuple[FunctionId, ...] = ()
    """Functions being inlined, to detect recursion."""


class Importer:
    """Turns the graphs of one model into graph IR."""

    def __init__(self, functions: Iterable[onnx.FunctionProto] = (), folder: Path | None = None, names: Names | None = None):
        self._functions = {(normal_domain(f.domain), f.name, f.overload): f for f in functions}
        self._folder = folder
        self._names = names or Names()
        self._weights: Mapping[int, np.ndarray] = {}

    def model(self, proto: onnx.ModelProto, weights: Mapping[int, np.ndarray] | None = None) -> Graph:
        """The main graph of ``proto``, whose names stay as they are; ``weights`` are bytes of initializers that it comes without."""
        opsets = opset_imports(proto.opset_import) or {"": 1}
        for name in _own_names(proto.graph):
            self._names.reserve(text(name))
        self._weights = weights or {}
        return self._graph(proto.graph, _Context(Scope(), opsets, {}), main=True)

    def call(
        self,
        function: onnx.FunctionProto,
        inputs: Iterable[str],
        outputs: Iterable[str],
        attrs: Mapping[str, Attribute],
        body: Body,
        calls: tuple[FunctionId, ...] = (),
        opsets: Mapping[str, int] | None = None,
    ) -> None:
        """Add the nodes of ``function`` applied to ``inputs`` to ``body``; missing inputs are the empty name."""
        key = (normal_domain(function.domain), function.name, function.overload)
        if key in calls:
            raise ModelError(f"function {function.name!r} of domain {function.domain!r} calls itself")
        scope = Scope()
        actual_inputs, actual_outputs = list(inputs), list(outputs)
        _check_call(function, actual_inputs, actual_outputs)
        for position, name in enumerate(function.input):
            scope.define(name, actual_inputs[position] if position < len(actual_inputs) else "")
        made = {name for node in function.node for name in node.output if name}
        for formal, actual in zip(function.output, actual_outputs, strict=False):
            if formal in made and actual:
                scope.define(formal, actual)
        versions = {**(opsets or {}), **opset_imports(function.opset_import)}
        context = _Context(scope, versions, self._bindings(function, attrs), (*calls, key))
        self._declare(function.node, scope, f"function {function.name!r}", given=set(function.output))
        for node in function.node:
            self._node(node, context, body)
        for formal, actual in zip(function.output, actual_outputs, strict=False):
            if formal not in made and actual:
                source = self._resolve(formal, scope, f"function {function.name!r} returns")
                body.nodes.append(Node("Identity", (source,), (actual,)))

    def _bindings(self, function: onnx.FunctionProto, attrs: Mapping[str, Attribute]) -> Mapping[str, Attribute]:
        defaults = {item.name: self._attribute(item, _Context(Scope(), {}, {})) for item in function.attribute_proto}
        return {key: value for key, value in {**defaults, **attrs}.items() if value is not None}

    def _graph(self, proto: onnx.GraphProto, context: _Context, *, main: bool = False) -> Graph:
        title = f"graph {text(proto.name)!r}"
        scope, body = context.scope, Body(self._names)
        graph = Graph(proto.name, (), ())
        self._constants(proto, scope, body, main)
        inputs: list[str] = []
        for info in proto.input:
            if info.name in body.constants and main:
                continue
            inputs.append(self._define(info.name, scope, main, f"{title} has the input"))
            found = to_type(info.type, f"input {info.name!r} of {title}")
            if found is not None:
                graph.types[inputs[-1]] = found
            elif main:
                raise ModelError(f"input {info.name!r} of {title} has no type")
        self._declare(proto.node, scope, title, main=main)
        for node in proto.node:
            self._node(node, context, body)
        outputs = [self._resolve(info.name, scope, f"{title} has the output") for info in proto.output]
        for name, info in zip(outputs, proto.output, strict=True):
            found = to_type(info.type, f"output {info.name!r} of {title}")
            if found is not None:
                graph.types.setdefault(name, found)
        graph.inputs, graph.outputs = tuple(inputs), tuple(outputs)
        graph.nodes, graph.constants = topological(body.nodes, title), body.constants
        return graph

    def _constants(self, proto: onnx.GraphProto, scope: Scope, body: Body, main: bool) -> None:
        for index, tensor in enumerate(proto.initializer):
            name = self._define(tensor.name, scope, main, f"graph {proto.name!r} has the initializer")
            body.constants[name] = to_array(tensor, self._folder, self._weights.get(index) if main else None)
        for sparse in proto.sparse_initializer:
            name = self._define(sparse.values.name, scope, main, f"graph {proto.name!r} has the initializer")
            body.constants[name] = sparse_to_array(sparse, self._folder)

    def _declare(
        self, nodes: Iterable[onnx.NodeProto], scope: Scope, title: str, *, main: bool = False, given: Set[str] = frozenset()
    ) -> None:
        """Define what ``nodes`` make, all at once: they need not be in order. Names in ``given`` may be defined already."""
        made: set[str] = set()
        for node in nodes:
            for name in filter(None, node.output):
                if name in made or (name not in given and scope.defines(name)):
                    raise ModelError(f"{describe(node)} defines tensor {name!r}, which {title} has defined already")
                made.add(name)
                if not scope.defines(name):
                    self._define(name, scope, main, title)

    def _define(self, name: str, scope: Scope, keep: bool, what: str) -> str:
        if scope.defines(name):
            raise ModelError(f"{what} {name!r} although that name is defined already")
        if not name:
            raise ModelError(f"{what} without a name")
        value = name if keep else self._names.unique(text(name))
        scope.define(name, value)
        return value

    def _resolve(self, name: str, scope: Scope, what: str) -> str:
        value = scope.find(name)
        if value is None:
            raise ModelError(f"{what} {name!r}, which no node, input or initializer defines")
        return value

    def _node(self, proto: onnx.NodeProto, context: _Context, body: Body) -> None:
        domain, op = normal_domain(proto.domain), text(proto.op_type)
        title = describe(proto)
        inputs = tuple(self._resolve(name, context.scope, f"{title} reads tensor") if name else "" for name in proto.input)
        outputs = tuple(self._resolve(name, context.scope, title) if name else "" for name in proto.output)
        function = self._functions.get((domain, op, proto.overload))
        if function is None:
            if domain == "" and "" not in context.opsets:
                raise ModelError(f"{title} is of the default domain, whose opset is not imported")
            check_node(proto, domain, context.opsets.get(domain, 1))
        attrs = {text(item.name): self._attribute(item, context, title) for item in proto.attribute}
        known = {key: value for key, value in attrs.items() if value is not None}
        if function is not None:
            self.call(function, inputs, outputs, known, body, context.calls, context.opsets)
        elif domain == "" and op == "Constant":
            body.constants[outputs[0]] = constant_value(known, title)
        else:
            node = Node(op, inputs, _trim(outputs), known, text(proto.name), domain)
            body.nodes.append(upgrade(node, context.opsets.get(domain, 1), body))

    def _attribute(self, proto: onnx.AttributeProto, context: _Context, title: str = "a function") -> Attribute | None:
        if proto.ref_attr_name:
            return context.bindings.get(proto.ref_attr_name)
        return to_attribute(
            proto, title, self._folder, lambda graph: self._graph(graph, replace(context, scope=Scope(context.scope)))
        )


def _own_names(proto: onnx.GraphProto) -> Iterable[str]:
    yield from (info.name for info in proto.input)
    yield from (tensor.name for tensor in proto.initializer)
    yield from (sparse.values.name for sparse in proto.sparse_initializer)
    for node in proto.node:
        yield from node.output


def _trim(outputs: tuple[str, ...]) -> tuple[str, ...]:
    """``outputs`` without absent ones at the end."""
    while len(outputs) > 1 and not outputs[-1]:
        outputs = outputs[:-1]
    return outputs


def _check_call(function: onnx.FunctionProto, inputs: list[str], outputs: list[str]) -> None:
    if len(inputs) > len(function.input) or len(outputs) > len(function.output):
        raise ModelError(
            f"function {function.name!r} is called with {len(inputs)} inputs and {len(outputs)} outputs; "
            f"it has {len(function.input)} and {len(function.output)}"
        )
