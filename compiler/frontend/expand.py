"""Operators that are not supported but have a function body, in ONNX or of ours, are replaced by it; what remains is reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import onnx
import onnx.defs
import onnx.helper

from ...ir.errors import ModelError
from ...ir.graph import Attribute, Graph, Node, Type
from ...ir.graph_onnx import OTHER_DOMAINS, newest_opset, to_node, to_type
from .body import Body
from .importer import Importer
from .inference import infer_types
from .integer_products import decompose
from .names import Names
from .schemas import newest_schema

Supported = Callable[[str, str], bool]

_MAX_DEPTH = 16


def expand_functions(graph: Graph, supported: Supported) -> None:
    """Replace, in place and repeatedly, unsupported nodes by their function bodies where ONNX defines one.

    ``types`` must be filled in, and is again afterwards: some bodies depend on input types.
    """
    names = _all_names(graph)
    for _ in range(_MAX_DEPTH):
        if not _expand_once(graph, supported, names, {}):
            return
        infer_types(graph)
    raise ModelError(f"function bodies of operators are nested more than {_MAX_DEPTH} deep")


def unsupported_nodes(graph: Graph, supported: Supported) -> Iterator[Node]:
    """The nodes, in subgraphs too, whose operator is not ``supported``."""
    for part in graph.walk():
        yield from (node for node in part.nodes if not supported(node.domain, node.op))


def function_body(node: Node, types: Mapping[str, Type]) -> onnx.FunctionProto | None:
    """The body that ONNX defines for ``node``, None when it defines none (or needs types that are not known)."""
    schema: Any = newest_schema(node.domain, node.op)
    if schema is None:
        return None
    if schema.has_function:
        return schema.function_body
    if schema.has_context_dependent_function:
        known = [to_type(types.get(name)).SerializeToString() for name in node.inputs]
        version = max(schema.context_dependent_function_opset_versions)
        proto = to_node(_with_formal_inputs(node, schema)).SerializeToString()
        data = schema.get_context_dependent_function_with_opset_version(version, proto, known)
        return onnx.FunctionProto.FromString(data) if data else None
    return None


def _with_formal_inputs(node: Node, schema: onnx.defs.OpSchema) -> Node:
    """``node`` with the inputs named as the schema names them: some bodies (Range's) capture the caller's names in a subgraph."""
    formals = [formal.name for formal in schema.inputs]
    return node.replace(inputs=tuple(formal if name else "" for name, formal in zip(node.inputs, formals, strict=False)))


def _expand_once(graph: Graph, supported: Supported, names: Names, outer_types: Mapping[str, Type]) -> bool:
    types = {**outer_types, **graph.types}
    body = Body(names, constants=graph.constants)
    changed = False
    for node in graph.nodes:
        start = len(body.nodes)
        known = supported(node.domain, node.op)
        if not known and decompose(node, types, body):
            changed = True
            body.nodes[start:] = [made.replace(name=node.name) for made in body.nodes[start:]]
            continue
        function = None if known else function_body(node, types)
        if function is None:
            for inner in node.subgraphs():
                changed |= _expand_once(inner, supported, names, types)
            body.nodes.append(node)
            continue
        changed = True
        opsets = {"": newest_opset(), **OTHER_DOMAINS}
        Importer(names=names).call(function, node.inputs, node.outputs, _with_defaults(node), body, opsets=opsets)
        body.nodes[start:] = [made.replace(name=node.name) for made in body.nodes[start:]]
    if changed:
        graph.nodes = body.nodes
    return changed


def _with_defaults(node: Node) -> Mapping[str, Attribute]:
    schema = newest_schema(node.domain, node.op)
    defaults: dict[str, Attribute] = {}
    for name, formal in (schema.attributes if schema else {}).items():
        if formal.default_value.name:
            value = onnx.helper.get_attribute_value(formal.default_value)
            defaults[name] = value.decode() if isinstance(value, bytes) else value
    return {**defaults, **node.attrs}


def _all_names(graph: Graph) -> Names:
    names = Names()
    for part in graph.walk():
        for name in (*part.inputs, *part.constants, *(o for node in part.nodes for o in node.outputs)):
            names.reserve(name)
    return names
