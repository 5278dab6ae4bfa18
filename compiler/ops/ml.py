"""Operators of ai.onnx.ml that compute on numbers: ArrayFeatureExtractor, Binarizer; TreeEnsemble runs on the host."""

from __future__ import annotations

from math import prod

from ...ir import loops as ir
from ...ir.graph import TensorType
from .builder import Builder
from .context import Op
from .infer import InferContext
from .registry import host, nest, pointwise
from .text import by_reference

DOMAIN = "ai.onnx.ml"

host("TreeEnsemble", domain=DOMAIN)(by_reference)


@pointwise("Binarizer", domain=DOMAIN)
def binarizer(op: Op, x: ir.Expr) -> ir.Expr:
    return ir.select(x > op.attr("threshold", 0.0), ir.wrap(1, x.dtype), 0)


def infer_extractor(context: InferContext) -> TensorType:
    """[..., n] and the indices of k features give [..., k]; a vector counts as one row."""
    shape = context.shape(0)
    if not shape:
        raise context.fail("the data must have an axis of features")
    return TensorType(context.dtype(0), (*(shape[:-1] or (1,)), prod(context.shape(1))))


@nest("ArrayFeatureExtractor", domain=DOMAIN, infer=infer_extractor)
def array_feature_extractor(op: Op, b: Builder) -> None:
    extent, count = op.input(0).shape[-1], prod(op.input(1).shape, start=ir.ONE)
    rows = prod(op.input(0).shape[:-1], start=ir.ONE)
    data, indices, y = op.input(0).reshape(rows, extent), op.input(1).reshape(count), op.output().reshape(rows, count)
    message = f"index {{value}} is outside [0, {op.input(0).sizes[-1] - 1}], the features of {op.input(0).name!r}"
    with b.loop("n", rows, "parallel") as n, b.loop("k", count) as k:
        feature = b.let("feature", ir.cast(indices(k), ir.INDEX))
        b.fail_if(ir.logical("or", feature < 0, feature >= extent), message, feature)
        y.store((n, k), data(n, feature))
