"""The graph IR back as ONNX protobufs: for type inference, for the reference implementation, and for other engines in tests."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from . import dtypes
from .graph import Attribute, Graph, Node, OptionalType, SequenceType, TensorType, Type

if TYPE_CHECKING:
    import onnx

OTHER_DOMAINS = {"ai.onnx.ml": 5, "ai.onnx.preview": 1, "ai.onnx.preview.training": 1}


@cache
def newest_opset() -> int:
    """The opset whose semantics the graph IR speaks."""
    import onnx.defs

    return onnx.defs.onnx_opset_version()


def to_model(graph: Graph, *, max_constant: int | None = None) -> onnx.ModelProto:
    """``graph`` as a model of the newest opset.

    Constants of more than ``max_constant`` elements (when given) become inputs: their types stay, their data is left out.
    """
    import onnx.helper

    domains = {node.domain for part in graph.walk() for node in part.nodes} - {""}
    opsets = [onnx.helper.make_opsetid("", newest_opset())]
    opsets += [onnx.helper.make_opsetid(d, OTHER_DOMAINS.get(d, 1)) for d in sorted(domains)]
    model = onnx.ModelProto(ir_version=onnx.IR_VERSION, producer_name="loopnest", opset_import=opsets)
    model.graph.CopyFrom(to_graph_proto(graph, max_constant))
    seen: set[str] = set()
    for node in model.graph.node:  # several nodes may stand for one of the original model; other engines want one name each
        if node.name in seen:
            node.name = ""
        seen.add(node.name)
    return model


def to_graph_proto(graph: Graph, max_constant: int | None = None) -> onnx.GraphProto:
    """A main graph as a ``GraphProto``; see ``to_model`` for ``max_constant``."""
    proto = _graph_shell(graph)
    for name, array in graph.constants.items():
        if max_constant is not None and array.size > max_constant:
            proto.input.append(_value_info(name, TensorType(dtypes.from_numpy(array.dtype), array.shape)))
        else:
            proto.initializer.append(to_tensor(array, name))
    proto.node.extend(to_node(node) for node in graph.nodes)
    return proto


def to_body_proto(graph: Graph) -> onnx.GraphProto:
    """The graph of an attribute as a ``GraphProto``, constants as nodes: function bodies that ONNX builds copy nodes only."""
    proto = _graph_shell(graph)
    constants = (Node("Constant", (), (name,), {"value": array}) for name, array in graph.constants.items())
    proto.node.extend(to_node(node) for node in (*constants, *graph.nodes))
    return proto


def to_node(node: Node) -> onnx.NodeProto:
    """``node`` as a ``NodeProto``; attribute types come from the operator's schema where it has one."""
    import onnx

    proto = onnx.NodeProto(op_type=node.op, domain=node.domain, name=node.name, input=node.inputs, output=node.outputs)
    types = _attribute_types(node.domain, node.op)
    proto.attribute.extend(_attribute(key, value, types) for key, value in node.attrs.items())
    return proto


def to_tensor(array: np.ndarray, name: str = "") -> onnx.TensorProto:
    """``array`` as a ``TensorProto``; sub-byte types are packed."""
    import onnx
    import onnx.numpy_helper

    if array.dtype == object:
        values = [value if isinstance(value, bytes) else str(value).encode() for value in array.ravel()]
        return onnx.TensorProto(name=name, data_type=onnx.TensorProto.STRING, dims=array.shape, string_data=values)
    return onnx.numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)


def to_type(found: Type | None) -> onnx.TypeProto:
    """A ``Type`` as a ``TypeProto``; None gives the empty proto (unknown)."""
    import onnx.helper

    match found:
        case None:
            return onnx.TypeProto()
        case TensorType(dtype, shape):
            return onnx.helper.make_tensor_type_proto(dtype.onnx, shape)
        case SequenceType(element):
            return onnx.helper.make_sequence_type_proto(to_type(element))
        case OptionalType(element):
            return onnx.helper.make_optional_type_proto(to_type(element))


def _graph_shell(graph: Graph) -> onnx.GraphProto:
    import onnx

    proto = onnx.GraphProto(name=graph.name or "graph")
    proto.input.extend(_value_info(name, graph.types.get(name)) for name in graph.inputs)
    proto.output.extend(_value_info(name, graph.types.get(name)) for name in graph.outputs)
    return proto


def _value_info(name: str, found: Type | None) -> onnx.ValueInfoProto:
    import onnx

    info = onnx.ValueInfoProto(name=name)
    if found is not None:
        info.type.CopyFrom(to_type(found))
    return info


@cache
def _attribute_types(domain: str, op: str) -> Mapping[str, int]:
    import onnx.defs

    version = OTHER_DOMAINS.get(domain, 1) if domain else newest_opset()
    try:
        schema = onnx.defs.get_schema(op, version, domain)
    except onnx.defs.SchemaError:
        return {}
    return {name: int(cast(Any, attribute.type).value) for name, attribute in schema.attributes.items()}


def _attribute(key: str, value: Attribute, types: Mapping[str, int]) -> onnx.AttributeProto:
    import onnx.helper

    plain: Any = value
    if isinstance(value, np.ndarray):
        plain = to_tensor(value)
    elif isinstance(value, Graph):
        plain = to_body_proto(value)
    elif isinstance(value, TensorType | SequenceType | OptionalType):
        plain = to_type(value)
    elif isinstance(value, tuple):
        plain = [to_body_proto(item) if isinstance(item, Graph) else item for item in value]
    return onnx.helper.make_attribute(key, plain, attr_type=types.get(key) if plain == [] else None)
