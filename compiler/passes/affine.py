"""Scales and shifts per channel (batch normalization too) become part of the weights of what comes before them.

All rules here are one: the result of a linear operator is scaled by ``s`` and shifted by ``t``, both constant vectors over its
output channels, so that the scale goes into its weights and both go into its bias.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...ir.graph import Node
from .rewrite import Outcome, Refusal, Rewrite, replace_with, rule
from .view import View

_CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True)
class _Linear:
    """A linear operator: its weights ``w``, bias ``b``, channel count, and where the channels are in its result."""

    node: Node
    w: np.ndarray
    b: np.ndarray | None
    channels: int
    rank: int | None
    axis: int


@rule("BatchNormalization")
def batch_norm_into_linear(view: View, node: Node) -> Outcome:
    """batch_norm(linear(x, w, b)) => linear(x, w * s, b * s + t), for Conv, ConvTranspose, Gemm"""
    found = _linear(view, node.inputs[0], "Conv", "ConvTranspose", "Gemm")
    if found is None or isinstance(found, Refusal):
        return found
    affine = _batch_norm_affine(view, node)
    if isinstance(affine, Refusal):
        return affine
    scale, shift = affine
    if found.rank == 2 and found.axis != 1:
        return Refusal("the channels of the normalization are not those of the weights")
    return _absorb(view, node, found, scale, shift)


@rule("Mul")
def scale_into_linear(view: View, node: Node) -> Outcome:
    """linear(x, w, b) * s => linear(x, w * s, b * s), for Conv, ConvTranspose, Gemm, MatMul"""
    return _pointwise(view, node, "Conv", "ConvTranspose", "Gemm", "MatMul")


@rule("Add")
def shift_into_linear(view: View, node: Node) -> Outcome:
    """linear(x, w, b) + t => linear(x, w, b + t), for Conv, ConvTranspose, Gemm"""
    return _pointwise(view, node, "Conv", "ConvTranspose", "Gemm")


@rule("Mul", "Add")
def affine_into_batch_norm(view: View, node: Node) -> Outcome:
    """batch_norm(x, scale, b) * s + t => batch_norm(x, scale * s, b * s + t)"""
    for data, other in (node.inputs, node.inputs[::-1]):
        norm, factor = view.maker(data, "BatchNormalization"), view.constant(other)
        if norm is None or factor is None:
            continue
        scale, bias, dims = view.constant(norm.inputs[1]), view.constant(norm.inputs[2]), view.dims(norm.inputs[0])
        if scale is None or bias is None or norm.attrs.get("training_mode"):
            return Refusal("the normalization is not constant")
        if not view.read_once(data):
            return Refusal("the normalized value is used elsewhere")
        vector = None if dims is None else _per_channel(factor, len(dims), 1, scale.size)
        if vector is None:
            return Refusal("the constant is not one number a channel")
        scale, bias = (scale * vector, bias * vector) if node.op == "Mul" else (scale, bias + vector)
        names = view.new_constant(scale, f"{norm.inputs[1]}_scaled"), view.new_constant(bias, f"{norm.inputs[2]}_shifted")
        return replace_with(node, "BatchNormalization", (norm.inputs[0], *names, *norm.inputs[3:]), norm.attrs)
    return None


@rule("BatchNormalization")
def batch_norm_alone(view: View, node: Node) -> Outcome:
    """batch_norm(x) => x * s + t"""
    affine = _batch_norm_affine(view, node)
    if isinstance(affine, Refusal):
        return affine
    rank = view.rank(node.inputs[0])
    if rank is None:
        return Refusal("the rank is not known")
    shape = (-1, *[1] * (rank - 2))
    dtype = affine[0].dtype if view.dtype(node.inputs[0]) is None else view.dtype(node.inputs[0]).numpy  # type: ignore[union-attr]
    scale, shift = (view.new_constant(part.astype(dtype).reshape(shape), node.op.lower()) for part in affine)
    scaled = view.new_value("scaled", view.type(node.inputs[0]))
    name = node.name
    return Rewrite(
        [Node("Mul", (node.inputs[0], scale), (scaled,), {}, name), Node("Add", (scaled, shift), node.outputs[:1], {}, name)]
    )


def _pointwise(view: View, node: Node, *ops: str) -> Outcome:
    refusal: Refusal | None = None
    for data, other in (node.inputs, node.inputs[::-1]):
        factor = view.constant(other)
        found = _linear(view, data, *ops)
        if factor is None or found is None:
            continue
        if isinstance(found, Refusal):
            refusal = found
            continue
        vector = _per_channel(factor, found.rank, found.axis, found.channels)
        if vector is None:
            refusal = Refusal("the constant is not one number a channel")
            continue
        return _absorb(view, node, found, *((vector, None) if node.op == "Mul" else (None, vector)))
    return refusal


def _linear(view: View, value: str, *ops: str) -> _Linear | Refusal | None:
    """The operator that makes ``value``, when it can take on a scale and a shift."""
    node = view.maker(value, *ops)
    if node is None:
        return None
    w = view.constant(node.inputs[1])
    bias = node.input(2)
    b = view.constant(bias) if bias else None
    if w is None or w.dtype.kind != "f":
        return Refusal("the weights are not constant")
    if bias and b is None:
        return Refusal("the bias is not constant")
    if not view.read_once(value):
        return Refusal("the result is used elsewhere")
    if node.op == "MatMul":
        return (
            _Linear(node, w, b, w.shape[-1], view.rank(value), -1) if w.ndim == 2 else Refusal("the weights are not a matrix")
        )
    if node.op == "Gemm":
        return _Linear(node, w, b, w.shape[0 if node.attrs.get("transB", 0) else 1], 2, 1)
    groups = int(str(node.attrs.get("group", 1))) if node.op == "ConvTranspose" else 1
    channels = w.shape[1] * groups if node.op == "ConvTranspose" else w.shape[0]
    return _Linear(node, w, b, channels, w.ndim, 1)


def _absorb(view: View, node: Node, linear: _Linear, scale: np.ndarray | None, shift: np.ndarray | None) -> Rewrite:
    source, stem = linear.node, linear.node.inputs[1]
    w, b, attrs = linear.w, linear.b, dict(source.attrs)
    if b is not None and source.op == "Gemm":
        b = b * w.dtype.type(attrs.pop("beta", 1.0))  # type: ignore[arg-type]
    if scale is not None:
        w = (w * _over_weights(linear, scale.astype(w.dtype))).astype(w.dtype, copy=False)
        b = None if b is None else b * scale.astype(w.dtype)
    if shift is not None:
        b = shift if b is None else b + shift
    weights = source.inputs[1] if scale is None else view.new_constant(w, f"{stem}_scaled")
    inputs = (source.inputs[0], weights)
    if b is not None:
        inputs = (*inputs, view.new_constant(np.ascontiguousarray(b.astype(w.dtype)), f"{stem}_bias"))
    return Rewrite([Node(source.op, inputs, node.outputs[:1], attrs, source.name)])


def _over_weights(linear: _Linear, scale: np.ndarray) -> np.ndarray:
    """``scale`` over the output channels, shaped to broadcast with the weights."""
    w, node = linear.w, linear.node
    if node.op == "Conv":
        return scale.reshape(-1, *[1] * (w.ndim - 1))
    if node.op == "ConvTranspose":
        groups = linear.channels // w.shape[1]
        each = np.repeat(scale.reshape(groups, 1, -1), w.shape[0] // groups, axis=1)
        return each.reshape(*w.shape[:2], *[1] * (w.ndim - 2))
    return scale[:, None] if node.op == "Gemm" and node.attrs.get("transB", 0) else scale


def _per_channel(constant: np.ndarray, rank: int | None, axis: int, channels: int) -> np.ndarray | None:
    """``constant`` as a vector over the channels of a value of ``rank``, None when it varies along another axis or adds axes."""
    if constant.dtype.kind != "f" or (constant.ndim > 1 and (rank is None or constant.ndim > rank)):
        return None
    if rank is None:
        rank = max(constant.ndim, 1)
    shape = (1,) * (rank - constant.ndim) + constant.shape
    axis %= rank
    others = shape[:axis] + shape[axis + 1 :]
    if any(extent != 1 for extent in others) or shape[axis] not in (1, channels):
        return None
    return np.broadcast_to(constant.reshape(-1), (channels,))


def _batch_norm_affine(view: View, node: Node) -> tuple[np.ndarray, np.ndarray] | Refusal:
    """``s`` and ``t`` such that batch_norm(x) = x * s + t, in double precision."""
    if node.attrs.get("training_mode"):
        return Refusal("it trains")
    parameters = [view.constant(name) for name in node.inputs[1:]]
    if any(array is None for array in parameters):
        return Refusal("its parameters are not constant")
    scale, bias, mean, variance = (array.astype(np.float64) for array in parameters if array is not None)
    factor = scale / np.sqrt(variance + float(str(node.attrs.get("epsilon", 1e-5))))
    return factor, bias - mean * factor
