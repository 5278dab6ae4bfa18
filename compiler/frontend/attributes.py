"""``AttributeProto`` to graph attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx

from ...ir.errors import ModelError
from ...ir.graph import Attribute, Graph
from .tensors import sparse_to_array, to_array
from .types import to_type

_Kind = onnx.AttributeProto


def to_attribute(
    proto: onnx.AttributeProto, title: str, folder: Path | None, to_graph: Callable[[onnx.GraphProto], Graph]
) -> Attribute | None:
    """The value of an attribute; lists are tuples, strings are text, tensors are arrays, graphs go through ``to_graph``."""
    match proto.type:
        case _Kind.FLOAT:
            return proto.f
        case _Kind.INT:
            return proto.i
        case _Kind.STRING:
            return _text(proto.s, proto.name, title)
        case _Kind.FLOATS:
            return tuple(proto.floats)
        case _Kind.INTS:
            return tuple(proto.ints)
        case _Kind.STRINGS:
            return tuple(_text(item, proto.name, title) for item in proto.strings)
        case _Kind.TENSOR:
            return to_array(proto.t, folder)
        case _Kind.SPARSE_TENSOR:
            return sparse_to_array(proto.sparse_tensor, folder)
        case _Kind.GRAPH:
            return to_graph(proto.g)
        case _Kind.GRAPHS:
            return tuple(to_graph(item) for item in proto.graphs)
        case _Kind.TYPE_PROTO:
            return to_type(proto.tp, f"attribute {proto.name!r} of {title}")
        case other:
            raise ModelError(f"{title} has attribute {proto.name!r} of type {other}, which is not known")


def constant_value(attrs: Mapping[str, Attribute], title: str) -> np.ndarray:
    """What a ``Constant`` node with ``attrs`` makes."""
    if len(attrs) != 1:
        raise ModelError(f"{title} has {len(attrs)} values ({', '.join(attrs) or 'none'}); exactly one is expected")
    ((key, value),) = attrs.items()
    match key:
        case "value" | "sparse_value" if isinstance(value, np.ndarray):
            return value
        case "value_float" | "value_floats":
            return np.asarray(value, np.float32)
        case "value_int" | "value_ints":
            return np.asarray(value, np.int64)
        case "value_string" | "value_strings":
            return np.array(value, object)
        case _:
            raise ModelError(f"{title} has a value of the unknown kind {key!r}")


def _text(data: bytes, name: str, title: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ModelError(f"{title} has attribute {name!r} with text that is not UTF-8") from None
