"""Types of all values, by ONNX's shape inference on the graph IR; symbolic dims keep their names."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx.shape_inference

from ...ir import dtypes
from ...ir.errors import ModelError
from ...ir.graph import Dim, Graph, TensorType, Type
from ...ir.graph_onnx import to_model
from .types import to_type

_MAX_CONSTANT = 1024
"""Larger constants decide no shape and are left out of what inference sees."""


def infer_types(graph: Graph) -> None:
    """Fill in ``types`` of ``graph`` and of the graphs inside it, from its inputs on.

    What inference finds replaces what the model declares, except that names of dims which it cannot know are kept.
    """
    parts = list(graph.walk())
    for part in parts:
        for name, array in part.constants.items():
            part.types[name] = TensorType(dtypes.from_numpy(array.dtype), array.shape)
    found = dict(_inferred(to_model(graph, max_constant=_MAX_CONSTANT)))
    for part in parts:
        for name in _values(part):
            if name in found:
                part.types[name] = _merged(_without_invented_names(found[name]), part.types.get(name))


def _values(graph: Graph) -> Iterator[str]:
    yield from graph.inputs
    for node in graph.nodes:
        yield from filter(None, node.outputs)


def _inferred(model: onnx.ModelProto) -> Iterator[tuple[str, Type]]:
    declared = list(model.graph.output)
    for info in declared:
        info.ClearField("type")
    try:
        inferred = onnx.shape_inference.infer_shapes(model, check_type=False, strict_mode=False, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise ModelError(f"the types of the model do not fit together: {' '.join(str(error).split())}") from None
    yield from _graph_types(inferred.graph)


def _graph_types(proto: onnx.GraphProto) -> Iterator[tuple[str, Type]]:
    for info in (*proto.input, *proto.value_info, *proto.output):
        found = to_type(info.type, f"tensor {info.name!r}")
        if found is not None:
            yield info.name, found
    for node in proto.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graph_types(attribute.g)


def _without_invented_names(found: Type) -> Type:
    """Inference names extents that it does not know ``unk__0`` and so on; here they are None."""
    if not isinstance(found, TensorType) or found.shape is None:
        return found
    return TensorType(found.dtype, tuple(None if isinstance(d, str) and d.startswith("unk__") else d for d in found.shape))


def _merged(found: Type, declared: Type | None) -> Type:
    if not isinstance(found, TensorType) or not isinstance(declared, TensorType) or declared.shape is None:
        return found
    if found.shape is None:
        return TensorType(found.dtype, declared.shape)
    if len(found.shape) != len(declared.shape):
        return found
    return TensorType(found.dtype, tuple(_dim(f, d) for f, d in zip(found.shape, declared.shape, strict=True)))


def _dim(found: Dim, declared: Dim) -> Dim:
    return declared if found is None and isinstance(declared, str) else found
