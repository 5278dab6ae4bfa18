"""Products of quantized integers are taken apart: numbers less their zero points, and a product that knows nothing of quantization.

They need 9 bits and a sign, so two of them are the halves of an int32: see ``ops.pairs``. What a depthwise convolution sums are not
neighbours: it multiplies int32.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...ir import dtypes
from ...ir.graph import Node
from ..ops.infer import InferContext
from ..ops.pairs import DOMAIN, in_pairs, pairs_of
from ..ops.quantize import infer_conv_integer, infer_matmul_integer
from .maker import Maker
from .quantization import MIN_CHANNELS, levels_of
from .rewrite import Outcome, Refusal, Rewrite, rule
from .view import View


@rule("MatMulInteger")
def multiply_pairs(view: View, node: Node) -> Outcome:
    """MatMulInteger(a, b, a_zero, b_zero) => loopnest.MatMul(Pairs(a - a_zero), Pairs(b - b_zero))"""
    shapes = _checked(view, node, infer_matmul_integer)
    if isinstance(shapes, Refusal):
        return shapes
    make = Maker(view, dtypes.int32)
    left = _pairs(make, node.inputs[0], _column(make, node.input(2), 2), -1)
    right = _pairs(make, node.inputs[1], node.input(3), max(-2, -len(shapes[1])))
    return Rewrite([*make.nodes, Node("MatMul", (left, right), node.outputs, {}, node.name, domain=DOMAIN)])


@rule("ConvInteger")
def convolve_pairs(view: View, node: Node) -> Outcome:
    """ConvInteger(x, w, x_zero, w_zero) => loopnest.Conv(Pairs(x - x_zero), Pairs(w - w_zero)), or Conv where a group has one channel"""
    shapes = _checked(view, node, infer_conv_integer)
    if isinstance(shapes, Refusal):
        return shapes
    x, w = shapes
    make = Maker(view, dtypes.int32)
    zeros = node.input(2), _column(make, node.input(3), len(w))
    groups = x[1] // w[1]
    if w[1] == 1:
        inputs = [_shifted(make, name, zero) for name, zero in zip(node.inputs, zeros, strict=False)]
        return Rewrite([*make.nodes, Node("Conv", tuple(inputs), node.outputs, node.attrs, node.name)])
    inputs = (_pairs(make, node.inputs[0], zeros[0], 1, groups), _pairs(make, node.inputs[1], zeros[1], 1))
    return Rewrite([*make.nodes, Node("Conv", inputs, node.outputs, node.attrs, node.name, domain=DOMAIN)])


def _checked(
    view: View, node: Node, infer: Callable[[InferContext], object]
) -> tuple[tuple[int, ...], tuple[int, ...]] | Refusal:
    """The shapes of both factors, of a node whose inputs fit together."""
    left, right, *zeros = (view.shape(name) for name in node.inputs if name)
    if left is None or right is None or None in zeros:
        return Refusal("a shape is not known")
    infer(InferContext(node, tuple(view.type(name) for name in node.inputs), ()))
    return left, right


def _column(make: Maker, zero: str, rank: int) -> str:
    """Zero points given as a vector, one for each index of the first of ``rank`` axes."""
    shape = make.view.shape(zero) if zero else None
    if shape is None or len(shape) != 1 or shape == (1,):
        return zero
    wanted = (*shape, *(1,) * (rank - 1))
    known = make.view.constant(zero)
    if known is not None:
        return make.view.new_constant(known.reshape(wanted), zero)
    dtype = make.view.dtype(zero)
    assert dtype is not None
    return Maker(make.view, dtype, make.nodes).reshape(zero, wanted, zero)


def _pairs(make: Maker, value: str, zero: str, axis: int, groups: int = 1) -> str:
    """The numbers of ``value`` less their zero point, in pairs along an axis; a constant's now."""
    view = make.view
    shape = view.shape(value)
    assert shape is not None
    axis %= len(shape)
    level = levels_of(view, value, zero)
    if level is not None:
        op = "Paired" if side_by_side(view, level, shape, axis, groups) else "Pairs"
        return make.node(op, (level,), pairs_of(shape, axis, groups), f"{value}_pairs", {"axis": axis, "group": groups}, DOMAIN)
    array, shift = view.constant(value), view.constant(zero) if zero else np.zeros((), np.int32)
    if array is not None and shift is not None:
        shift = shift.reshape(()) if shift.size == 1 else shift
        return view.new_constant(in_pairs(array.astype(np.int32) - shift.astype(np.int32), axis, groups), f"{value}_pairs")
    inputs = (value, zero) if zero else (value,)
    return make.node("Pairs", inputs, pairs_of(shape, axis, groups), f"{value}_pairs", {"axis": axis, "group": groups}, DOMAIN)


def side_by_side(view: View, level: str, shape: tuple[int, ...], axis: int, groups: int) -> bool:
    """Whether pairs of levels of such a shape may be neighbours in memory: along the last axis, or in blocks of channels, which no input of
    the model is in."""
    if groups > 1 or axis == len(shape) - 1:
        return groups == 1 and shape[axis] % 2 == 0
    made = view.maker(level, "Levels", domain=DOMAIN)
    return axis == 1 and shape[1] >= MIN_CHANNELS and made is not None and made.inputs[0] not in view.graph.inputs


def _shifted(make: Maker, value: str, zero: str) -> str:
    """The numbers of ``value`` less their zero point, in int32."""
    shape = make.view.shape(value)
    assert shape is not None
    wide = make.node("Cast", (value,), shape, value, {"to": dtypes.int32.onnx})
    known = make.view.constant(zero) if zero else np.zeros(())
    if known is not None and not known.any():
        return wide
    shift = make.node("Cast", (zero,), make.view.shape(zero) or (), zero, {"to": dtypes.int32.onnx})
    return make.node("Sub", (wide, shift), shape, value)
