"""Quantized tensors between operators: products of integers where both factors are quantized, and levels instead of numbers around them.

The levels of a tensor are its quantized numbers less the zero point, in 16 bits: what products of integers multiply
(``passes.integer_products``), and what scales turn back into numbers. Both are elementwise, and so part of the kernels around them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from ...ir import dtypes
from ...ir.graph import Node, TensorType
from ..algorithms import winograd_gain
from ..ops.pairs import DOMAIN
from .rewrite import Outcome, Refusal, Rewrite, rule
from .view import View

_BYTES = (dtypes.int8, dtypes.uint8)
MIN_FLOAT_GAIN = 1.6
"""Products of pairs of integers that a core makes in the time of one of floats, with their sums: those of an instruction are twice as many,
but take one more to be added."""
MIN_CHANNELS = 8
"""Of an image, from which on it may be in blocks of channels."""
USUAL_EXTENT = 28


@dataclass(frozen=True)
class _Quantized:
    """A value of 8-bit integers, its zero point, and its scale: one number, or one for each index of an axis."""

    value: str
    zero: str
    scale: np.ndarray
    axis: int


def _quantized(view: View, name: str) -> _Quantized | Refusal | None:
    """What is dequantized to ``name``."""
    node = view.maker(name, "DequantizeLinear")
    if node is None or view.dtype(node.inputs[0]) not in _BYTES:
        return None
    scale, zero = view.constant(node.inputs[1]), node.input(2)
    if scale is None or scale.dtype != np.float32 or (zero and view.constant(zero) is None):
        return Refusal("its scale or zero point is not constant, or no float32")
    if node.attrs.get("block_size") or node.attrs.get("output_dtype", 0) not in (0, 1):
        return Refusal("blocks have scales of their own, or the result is no float32")
    return _Quantized(node.inputs[0], zero, scale, int(node.attrs.get("axis", 1)))  # type: ignore[arg-type]


def _factors(view: View, node: Node) -> tuple[_Quantized, _Quantized] | Refusal | None:
    """Both factors of a product, the first with one scale."""
    left, right = (_quantized(view, name) for name in node.inputs[:2])
    if not isinstance(left, _Quantized) or not isinstance(right, _Quantized):
        return next((found for found in (left, right) if isinstance(found, Refusal)), None)
    if left.scale.size != 1:
        return Refusal("the scales of the first factor differ along an axis")
    return left, right


@rule("Conv")
def convolve_quantized(view: View, node: Node) -> Outcome:
    """Conv(dequantize(x), dequantize(w), b) => float(ConvInteger(x, w)) * (x_scale * w_scale) + b"""
    found = _factors(view, node)
    if found is None or isinstance(found, Refusal):
        return found
    x, w = found
    shape = view.shape(w.value)
    if shape is None or view.constant(w.value) is None:
        return Refusal("the filters are not constant")
    if shape[1] == 1:
        return Refusal("sums over single channels are exact in float32, which needs no pairs")
    if _gain_in_floats(view, node, shape) > MIN_FLOAT_GAIN:
        return Refusal("Winograd's algorithm, of floats, takes fewer products")
    if w.scale.size > 1 and w.axis % len(shape) != 0:
        return Refusal("the scales of the filters differ along another axis than that of the results")
    column = (-1, *(1,) * (len(shape) - 2))
    scale = (x.scale.reshape(()) * w.scale).reshape(column if w.scale.size > 1 else ())
    return _scaled(view, node, "ConvInteger", (x.value, w.value, x.zero, w.zero), scale, column)


def _gain_in_floats(view: View, node: Node, filters: tuple[int, ...]) -> float:
    """How many times fewer products Winograd's algorithm takes; extents that are not known are taken for images as they are in the middle
    of a network."""
    windows = (node.attrs.get("strides") or (), node.attrs.get("dilations") or ())
    if filters[1] < MIN_CHANNELS or prod(filters[2:]) == 1 or any(n != 1 for window in windows for n in window):  # type: ignore[union-attr]
        return 0.0
    batch, _, *image = view.dims(node.outputs[0]) or (1,) * len(filters)
    result = (batch if isinstance(batch, int) else 1, filters[0], *(n if isinstance(n, int) else USUAL_EXTENT for n in image))
    return winograd_gain(filters, result, int(node.attrs.get("group", 1)))  # type: ignore[arg-type]


@rule("MatMul")
def multiply_quantized(view: View, node: Node) -> Outcome:
    """MatMul(dequantize(a), dequantize(b)) => float(MatMulInteger(a, b)) * (a_scale * b_scale)"""
    found = _factors(view, node)
    if found is None or isinstance(found, Refusal):
        return found
    a, b = found
    rank = view.rank(b.value)
    if rank is None or (b.scale.size > 1 and (rank != 2 or b.axis % rank != 1)):
        return Refusal("the scales of the second factor differ along another axis than that of its columns")
    scale = a.scale.reshape(()) * (b.scale if b.scale.size > 1 else b.scale.reshape(()))
    return _scaled(view, node, "MatMulInteger", (a.value, b.value, a.zero, b.zero), scale, (-1,))


@rule("Gemm")
def multiply_quantized_matrices(view: View, node: Node) -> Outcome:
    """Gemm(dequantize(a), dequantize(b), c) => float(MatMulInteger(a, b)) * (a_scale * b_scale) + c"""
    found = _factors(view, node)
    if found is None or isinstance(found, Refusal):
        return found
    a, b = found
    array, turned = view.constant(b.value), int(bool(node.attrs.get("transB", 0)))
    if array is None or node.attrs.get("transA", 0) or any(node.attrs.get(name, 1.0) != 1.0 for name in ("alpha", "beta")):
        return Refusal("it transposes its first factor, scales its terms, or its weights are not constant")
    if b.scale.size > 1 and b.axis % 2 != 1 - turned:
        return Refusal("the scales of the second factor differ along another axis than that of its columns")
    if turned:
        b = _Quantized(view.new_constant(np.ascontiguousarray(array.T), f"{b.value}_turned"), b.zero, b.scale, 1)
    scale = a.scale.reshape(()) * (b.scale if b.scale.size > 1 else b.scale.reshape(()))
    return _scaled(view, node, "MatMulInteger", (a.value, b.value, a.zero, b.zero), scale, ())


def _scaled(
    view: View, node: Node, op: str, inputs: tuple[str, ...], scale: np.ndarray, bias_shape: tuple[int, ...]
) -> Rewrite | Refusal:
    """The product of integers, as numbers, with the bias of ``node`` (input 2)."""
    dims, bias = view.dims(node.outputs[0]), node.input(2)
    known = view.constant(bias) if bias else None
    if bias and bias_shape and known is None:
        found = _quantized_constant(view, bias)
        if found is None:
            return Refusal("the bias is not constant")
        known = found
    attrs = node.attrs if op == "ConvInteger" else {}

    def value(stem: str, dtype: dtypes.DType = dtypes.float32) -> str:
        return view.new_value(stem, TensorType(dtype, dims))

    stem = node.outputs[0]
    while inputs and not inputs[-1]:
        inputs = inputs[:-1]
    product, number = value(f"{stem}_sum", dtypes.int32), value(f"{stem}_number")
    last = value(f"{stem}_scaled") if bias else stem
    factor = view.new_constant(np.ascontiguousarray(scale, np.float32), "scale")
    nodes = [
        Node(op, inputs, (product,), attrs, node.name),
        Node("Cast", (product,), (number,), {"to": dtypes.float32.onnx}, node.name),
        Node("Mul", (number, factor), (last,), {}, node.name),
    ]
    if bias:
        term = bias if known is None else view.new_constant(known.reshape(bias_shape) if bias_shape else known, bias)
        nodes.append(Node("Add", (last, term), (stem,), {}, node.name))
    return Rewrite(nodes)


def _quantized_constant(view: View, name: str) -> np.ndarray | None:
    """A constant that is dequantized (a bias, of int32), as numbers."""
    node = view.maker(name, "DequantizeLinear")
    arrays = [view.constant(i) for i in node.inputs if i] if node is not None else []
    if not arrays or any(array is None for array in arrays) or arrays[1].size not in (1, arrays[0].size):  # type: ignore[union-attr]
        return None
    numbers, scale, *zero = (array for array in arrays if array is not None)
    shift = zero[0].astype(np.int64) if zero else 0
    return ((numbers.astype(np.int64) - shift) * scale.astype(np.float64)).astype(np.float32)


@rule("QuantizeLinear")
def quantize_to_levels(view: View, node: Node) -> Outcome:
    """QuantizeLinear(x, s, z) => cast(Levels(x, s) + z); of numbers p * f + t, where p are integers: Levels(p * (f / s) + t / s)"""
    scale, zero = view.constant(node.inputs[1]), node.input(2)
    known = np.zeros((), np.uint8) if not zero else view.constant(zero)
    dims, to = view.dims(node.inputs[0]), view.dtype(node.outputs[0])
    if scale is None or known is None or dims is None or to is None or to not in _BYTES or to.numpy != known.dtype:
        return Refusal("its scale or zero point is not constant, or it makes no integers of 8 bits")
    if scale.size != 1 or known.size != 1 or view.dtype(node.inputs[0]) is not dtypes.float32 or scale.dtype != np.float32:
        return Refusal("it has more than one scale, or one that is no float32")
    if node.attrs.get("precision", 0) not in (0, 1):
        return Refusal("it rounds its quotients to another precision")
    shift, limits = int(known.reshape(())), np.iinfo(known.dtype)
    attrs = {"low": int(limits.min) - shift, "high": int(limits.max) - shift}
    nodes, inputs = _divided(view, node, scale.reshape(()))
    level = view.new_value(f"{node.outputs[0]}_levels", TensorType(dtypes.int16, dims))
    moved = view.new_value(f"{node.outputs[0]}_moved", TensorType(dtypes.int16, dims))
    offset = view.new_constant(np.array(shift, np.int16), "zero")
    return Rewrite(
        [
            *nodes,
            Node("Levels", inputs, (level,), attrs, node.name, domain=DOMAIN),
            Node("Add", (level, offset), (moved,), {}, node.name),
            Node("Cast", (moved,), node.outputs[:1], {"to": to.onnx}, node.name),
        ]
    )


def _scalar(view: View, array: np.ndarray, name: str) -> str:
    return name if array.shape == () else view.new_constant(array.reshape(()), name)


def _divided(view: View, node: Node, scale: np.ndarray) -> tuple[list[Node], tuple[str, ...]]:
    """The inputs of the levels of ``node``, and nodes that make them: sums of products are rounded anyway, and divided by a factor."""
    folded = _folded(view, node, scale)
    if folded is not None:
        return folded
    x, reciprocal = node.inputs[0], np.float32(1 / scale)
    if not np.isfinite(reciprocal) or view.maker(x, "MatMul", "Gemm", "Conv", "ConvTranspose") is None:
        return [], (x, _scalar(view, scale, node.inputs[1]))
    made = view.new_value(f"{x}_levels", TensorType(dtypes.float32, view.dims(x)))
    return [Node("Mul", (x, view.new_constant(np.array(reciprocal), "scale")), (made,), {}, node.name)], (made,)


def _folded(view: View, node: Node, scale: np.ndarray) -> tuple[list[Node], tuple[str, ...]] | None:
    """The numbers that ``node`` quantizes divided by its scale, where they are integers scaled and shifted by constants."""
    name, shift = node.inputs[0], None
    add = view.maker(name, "Add")
    if add is not None:
        shift = view.constant(add.inputs[1])
        name = add.inputs[0]
    product = view.maker(name, "Mul")
    factor = view.constant(product.inputs[1]) if product is not None else None
    if (add is not None and shift is None) or product is None or factor is None:
        return None
    if view.dtype(_cast_of(view, product.inputs[0])) is not dtypes.int32:
        return None
    if any(array is not None and array.dtype != np.float32 for array in (factor, shift)):
        return None
    dims = view.dims(node.inputs[0])

    def divided(array: np.ndarray) -> str:
        return view.new_constant((array.astype(np.float64) / float(scale)).astype(np.float32), "scale")

    made = view.new_value(f"{name}_levels", TensorType(dtypes.float32, dims))
    nodes = [Node("Mul", (product.inputs[0], divided(factor)), (made,), {}, node.name)]
    if shift is not None:
        last = view.new_value(f"{name}_shifted", TensorType(dtypes.float32, dims))
        nodes.append(Node("Add", (made, divided(shift)), (last,), {}, node.name))
        made = last
    return nodes, (made,)


def _cast_of(view: View, name: str) -> str:
    """What is cast to ``name``."""
    cast = view.maker(name, "Cast")
    return cast.inputs[0] if cast is not None else ""


@rule("DequantizeLinear")
def dequantize_levels(view: View, node: Node) -> Outcome:
    """DequantizeLinear(cast(Levels(x, s) + z), t, z) => cast(Levels(x, s)) * t"""
    level = levels_of(view, node.inputs[0], node.input(2))
    scale = view.constant(node.inputs[1])
    if level is None or scale is None:
        return None
    if scale.size != 1 or scale.dtype != np.float32 or view.dtype(node.outputs[0]) is not dtypes.float32:
        return Refusal("it has more than one scale, or one that is no float32")
    number = view.new_value(f"{node.outputs[0]}_number", TensorType(dtypes.float32, view.dims(node.outputs[0])))
    return Rewrite(
        [
            Node("Cast", (level,), (number,), {"to": dtypes.float32.onnx}, node.name),
            Node("Mul", (number, _scalar(view, scale, node.inputs[1])), node.outputs[:1], {}, node.name),
        ]
    )


def levels_of(view: View, value: str, zero: str) -> str | None:
    """The levels that ``value`` is made of with the zero point ``zero``."""
    name, own = _cast_of(view, value), 0.0
    moved = view.maker(name, "Add")
    if moved is not None:
        name, own = moved.inputs[0], view.scalar(moved.inputs[1])
    if view.maker(name, "Levels", domain=DOMAIN) is None:
        return None
    return name if own == (view.scalar(zero) if zero else 0.0) else None
