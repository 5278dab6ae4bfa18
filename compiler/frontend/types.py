"""``TypeProto`` to graph types."""

from __future__ import annotations

import onnx

from ...ir import dtypes
from ...ir.errors import ModelError
from ...ir.graph import Dim, OptionalType, SequenceType, TensorType, Type
from .reading import text
from .tensors import element_count


def to_type(proto: onnx.TypeProto, what: str) -> Type | None:
    """The type that ``proto`` describes, None when it says nothing; dims that are named keep their names."""
    kind = proto.WhichOneof("value")
    match kind:
        case None:
            return None
        case "tensor_type":
            return _tensor_type(proto.tensor_type, what)
        case "sequence_type":
            return SequenceType(_element(proto.sequence_type.elem_type, what))
        case "optional_type":
            return OptionalType(_element(proto.optional_type.elem_type, what))
        case _:
            raise ModelError(f"{what} has a {kind}; tensors, sequences and optionals are known")


def _element(proto: onnx.TypeProto, what: str) -> Type:
    found = to_type(proto, what)
    if found is None:
        raise ModelError(f"{what} does not say what its elements are")
    return found


def _tensor_type(proto: onnx.TypeProto.Tensor, what: str) -> TensorType | None:
    if proto.elem_type == 0:
        return None
    try:
        dtype = dtypes.from_onnx(proto.elem_type)
    except KeyError:
        raise ModelError(f"{what} has element type {proto.elem_type}, which ONNX does not define") from None
    if not proto.HasField("shape"):
        return TensorType(dtype)
    shape = tuple(_dim(dim) for dim in proto.shape.dim)
    element_count(tuple(d for d in shape if isinstance(d, int)), dtype, what)
    return TensorType(dtype, shape)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None
    return text(dim.dim_param) or None
