"""Shape and Size: what planning knows without computing anything."""

from __future__ import annotations

from math import prod

import numpy as np

from ...ir import dtypes
from ...ir.graph import Node, TensorType
from .infer import InferContext
from .registry import shape


def _infer_shape(context: InferContext) -> TensorType:
    return TensorType(dtypes.int64, shape_of(context.node, context.shape(0)).shape)


@shape("Shape", infer=_infer_shape)
def shape_of(node: Node, extents: tuple[int, ...]) -> np.ndarray:
    """int64[rank], or the part of it from ``start`` to ``end``."""
    start, end = node.attrs.get("start", 0), node.attrs.get("end")
    return np.array(extents[slice(start, end)], np.int64)  # type: ignore[misc]


@shape("Size", infer=lambda context: TensorType(dtypes.int64, ()))
def size_of(node: Node, extents: tuple[int, ...]) -> np.ndarray:
    return np.array(prod(extents), np.int64)
