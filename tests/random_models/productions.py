"""What may be added to a model: each production adds one node, or a few that models have together. A name stands as often as its weight."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx.helper as oh

from .chances import weighted
from .growing import Growing, Refused

Production = Callable[[Growing], object]
PRODUCTIONS: list[Production] = []
CHANNELS = (1, 3, 7, 8, 16, 17, 24, 32, 33, 48, 64)
COLUMNS = (1, 3, 7, 8, 16, 17, 31, 33, 64, 100)


def production(weight: int = 1) -> Callable[[Production], Production]:
    return weighted(PRODUCTIONS, weight)


# --- elementwise ------------------------------------------------------------------------------------------------------------------


@production(4)
def activation(g: Growing) -> None:
    names = (
        "Relu Relu Sigmoid Tanh HardSwish HardSigmoid LeakyRelu Gelu Softplus Elu Selu Mish Erf Abs Neg Softsign "
        "ThresholdedRelu Identity Celu Sin Cos Atan Asinh"
    )
    g.add(g.one_of(*names.split()), g.value())


@production()
def function_of_a_range(g: Growing) -> None:
    """Functions that are not defined, or grow, everywhere."""
    op = g.one_of("Sqrt", "Log", "Reciprocal", "Exp", "Sinh")
    if op in ("Exp", "Sinh"):
        inside = g.add("Clip", g.value(), g.constant(-3), g.constant(3))
    else:
        inside = g.add("Add", g.add("Abs", g.value()), g.constant(0.5))
    g.add(op, inside)


@production()
def power(g: Growing) -> None:
    g.add("Pow", g.value(), g.constant(g.one_of(2, 3)))


@production()
def clip(g: Growing) -> None:
    low, high = (g.constant(limit) for limit in np.sort(g.random.standard_normal(2)))
    g.add("Clip", g.value(), *g.one_of((low, high), ("", high), (low,)))


@production(3)
def binary(g: Growing) -> None:
    a = g.value()
    pair = [a, g.partner(a)]
    g.random.shuffle(pair)
    g.add(g.one_of("Add", "Add", "Mul", "Sub", "Max", "Min"), *pair)


@production()
def division(g: Growing) -> None:
    a = g.value()
    g.add("Div", a, g.add("Add", g.add("Abs", g.partner(a)), g.constant(1)))


@production(3)
def binary_with_constant(g: Growing) -> None:
    a = g.value()
    shape = [extent if g.chance(0.5) else 1 for extent in g.shape(a)]
    pair = [a, g.weight(*shape[g.between(0, len(shape)) :])]
    if g.chance(0.3):
        pair.reverse()
    g.add(g.one_of("Add", "Mul", "Sub", "Max", "Min"), *pair)


@production()
def where(g: Growing) -> None:
    a = g.value()
    g.add("Where", g.add("Greater", a, g.constant(0.137)), a, g.partner(a))


@production()
def condition(g: Growing) -> None:
    """Numbers are compared with what none of them is likely to be close to."""
    a = g.value(kinds="fib")
    if g.values[a].dtype == np.bool_:
        g.add("Not", g.add(g.one_of("And", "Or", "Xor"), a, g.partner(a)))
    else:
        g.add(
            g.one_of("Less", "GreaterOrEqual"), a, g.constant(0.137 if g.values[a].dtype.kind == "f" else 2, g.values[a].dtype)
        )


@production()
def cast(g: Growing) -> None:
    """From what is exact."""
    g.add("Cast", g.value(kinds="ib"), to=oh.np_dtype_to_tensor_dtype(np.dtype(g.one_of(g.float, np.int64, np.int32))))


@production(2)
def integers(g: Growing) -> None:
    a = g.value(kinds="i")
    dtype = g.values[a].dtype
    match g.between(0, 4):
        case 0:
            g.add(g.one_of("Add", "Sub", "Mul", "Max", "Min"), a, g.partner(a))
        case 1:
            g.add(g.one_of("Div", "Mod"), a, g.constant(g.between(1, 7), dtype))
        case 2:
            g.add(g.one_of("Abs", "Neg", "Sign"), a)
        case 3:
            g.add(
                g.one_of("ReduceSum", "ReduceMax", "ReduceMin"), a, g.constant([g.axis(a)], np.int64), keepdims=g.between(0, 1)
            )
        case _:
            g.add(g.one_of("Equal", "Greater"), a, g.constant(g.between(-3, 3), dtype))


@production()
def places_of_the_largest(g: Growing) -> None:
    x = g.value()
    g.add(g.one_of("ArgMax", "ArgMin"), x, axis=g.axis(x), keepdims=g.between(0, 1))


# --- convolutions and pooling -----------------------------------------------------------------------------------------------------


@production(6)
def convolution(g: Growing) -> None:
    x = g.value(4, 4, 4, 3)
    channels, *image = g.shape(x)[1:]
    rank = len(image)
    groups = g.one_of(1, 1, 1, *(n for n in (2, 4, 8, channels) if channels % n == 0))
    filters = g.one_of(*CHANNELS) if groups == 1 else groups * g.one_of(1, 2, 3, 4, 5, 8, 16)
    kernel = [g.one_of(1, 2, 3, 3, 5, 7) for _ in image] if g.chance(0.3) else [g.one_of(1, 1, 3, 3, 3, 5)] * rank
    strides = [g.one_of(1, 1, 1, 2, 3)] * rank if g.chance(0.8) else [g.one_of(1, 2, 3) for _ in image]
    padding: dict[str, object] = {"pads": [g.between(0, k // 2) for k in kernel] * 2}
    if g.chance(0.2):
        padding = {"auto_pad": g.one_of("SAME_UPPER", "SAME_LOWER", "VALID")}
    elif g.chance(0.3):
        padding = {"pads": [g.between(0, 2) for _ in (*kernel, *kernel)]}
    summed = channels // groups * int(np.prod(kernel))
    bias = [g.weight(filters, summed=4)] if g.chance(0.6) else []
    weight = g.weight(filters, channels // groups, *kernel, summed=summed)
    attributes = {"group": groups, "strides": strides, "dilations": [g.one_of(1, 1, 1, 1, 2, 3)] * rank, "kernel_shape": kernel}
    g.add("Conv", x, weight, *bias, **attributes, **padding)


@production(2)
def depthwise_convolution(g: Growing) -> None:
    x = g.value(4)
    channels, k, stride = g.shape(x)[1], g.one_of(3, 3, 5, 7), g.one_of(1, 1, 2)
    weight = g.weight(channels, 1, k, k, summed=k * k)
    g.add("Conv", x, weight, g.weight(channels, summed=4), group=channels, strides=[stride] * 2, pads=[k // 2] * 4)


@production(2)
def residual(g: Growing) -> None:
    x = g.value(4)
    channels = g.shape(x)[1]
    y = g.add("Conv", x, g.weight(channels, channels, 3, 3, summed=9 * channels), g.weight(channels, summed=4), pads=[1] * 4)
    g.add("Relu", g.add("Add", y, x))


@production()
def squeeze_and_excite(g: Growing) -> None:
    x = g.value(4)
    channels = g.shape(x)[1]
    y = g.add("Conv", g.add("GlobalAveragePool", x), g.weight(8, channels, 1, 1, summed=channels), g.weight(8))
    y = g.add("Conv", g.add("Relu", y), g.weight(channels, 8, 1, 1, summed=8))
    g.add("Mul", x, g.add(g.one_of("Sigmoid", "HardSigmoid"), y))


@production()
def transposed_convolution(g: Growing) -> None:
    x = g.value(4)
    channels, k, stride = g.shape(x)[1], g.one_of(1, 2, 3, 4), g.one_of(1, 2, 3)
    groups = g.one_of(1, 1, 2) if channels % 2 == 0 else 1
    extra = {"output_padding": [g.between(0, stride - 1)] * 2} if g.chance(0.3) else {}
    weight = g.weight(channels, g.one_of(1, 3, 8, 16), k, k, summed=channels * k)
    pads = [g.between(0, 1) for _ in range(4)]
    g.add("ConvTranspose", x, weight, group=groups, strides=[stride] * 2, dilations=[g.one_of(1, 1, 2)] * 2, pads=pads, **extra)


@production(2)
def pooling(g: Growing) -> None:
    window = {
        "kernel_shape": [g.one_of(2, 3, 3, 5)] * 2, "strides": [g.one_of(1, 2, 2, 3)] * 2, "pads": [g.between(0, 1) for _ in range(4)],
    }  # fmt: skip
    if g.chance(0.5):
        g.add("MaxPool", g.value(4), dilations=[g.one_of(1, 1, 2)] * 2, **window)
    else:
        g.add("AveragePool", g.value(4), count_include_pad=g.between(0, 1), **window)


@production()
def global_pooling(g: Growing) -> None:
    g.add(g.one_of("GlobalAveragePool", "GlobalMaxPool"), g.value(4))


@production()
def resize(g: Growing) -> None:
    x, scale = g.value(4), g.one_of(2.0, 2.0, 3.0)
    mode = g.one_of({"mode": "nearest", "nearest_mode": "floor"}, {"mode": "linear"}, {"mode": "cubic"})
    how = "asymmetric" if mode["mode"] == "nearest" else g.one_of("half_pixel", "asymmetric", "align_corners")
    g.add("Resize", x, "", g.constant([1, 1, scale, scale]), coordinate_transformation_mode=how, **mode)


# --- products ---------------------------------------------------------------------------------------------------------------------


@production(2)
def product_with_constant(g: Growing) -> None:
    x = g.value()
    if not g.shape(x):
        raise Refused
    *batch, depth = g.shape(x)
    stack = batch[:-1] if g.chance(0.2) else []
    g.add("MatMul", x, g.weight(*stack, depth, g.one_of(*COLUMNS), summed=depth))


@production()
def product(g: Growing) -> None:
    """With another value, or with itself transposed."""
    a = g.value(2, 3, 4)
    depth = g.shape(a)[-1]
    b = g.alike(a, lambda v: v.ndim == len(g.shape(a)))
    if g.shape(b)[-2] != depth:
        b = b if g.shape(b)[-1] == depth else a
        order = list(range(len(g.shape(b))))
        b = g.add("Transpose", b, perm=[*order[:-2], order[-1], order[-2]])
    g.add("Mul", g.add("MatMul", a, b), g.constant(depth**-0.5))


@production()
def gemm(g: Growing) -> None:
    a, trans_a, trans_b, n = g.value(2), g.between(0, 1), g.between(0, 1), g.one_of(*COLUMNS)
    k, m = g.shape(a) if trans_a else g.shape(a)[::-1]
    b = g.weight(*((n, k) if trans_b else (k, n)), summed=k)
    c = [g.weight(*g.one_of((n,), (1, n), (m, 1), (m, n), (1,)))] if g.chance(0.7) else []
    g.add("Gemm", a, b, *c, transA=trans_a, transB=trans_b, alpha=g.one_of(1.0, 0.5), beta=g.one_of(1.0, 2.0))


@production()
def einsum(g: Growing) -> None:
    x = g.value(3)
    depth = g.shape(x)[-1]
    g.add("Einsum", x, g.weight(depth, 7, summed=depth), equation=g.one_of("abc,cd->abd", "abc,cd->adb", "abc,cd->dab"))


@production(2)
def attention(g: Growing) -> None:
    x = g.value(3)
    batch, length, width = g.shape(x)
    heads, size = g.one_of(1, 2, 4), g.one_of(4, 8, 16, 20)
    split = g.constant([batch, length, heads, size], np.int64)

    def projected(order: list[int]) -> str:
        y = g.add("MatMul", x, g.weight(width, heads * size, summed=width))
        return g.add("Transpose", g.add("Reshape", y, split), perm=order)

    scores = g.add("MatMul", projected([0, 2, 1, 3]), projected([0, 2, 3, 1]))
    scores = g.add("Mul", scores, g.constant(size**-0.5))
    if g.chance(0.5):
        scores = g.add("Add", scores, g.constant(np.where(np.tri(length), 0, -30)[None, None]))
    y = g.add("MatMul", g.add("Softmax", scores, axis=-1), projected([0, 2, 1, 3]))
    g.add("Reshape", g.add("Transpose", y, perm=[0, 2, 1, 3]), g.constant([batch, length, heads * size], np.int64))


# --- reductions and normalization -------------------------------------------------------------------------------------------------


@production()
def softmax(g: Growing) -> None:
    x = g.value()
    g.add(g.one_of("Softmax", "Softmax", "LogSoftmax"), x, axis=g.axis(x))


@production()
def reduction(g: Growing) -> None:
    x = g.value()
    rank = g.axis(x) + 1
    axes = np.sort(g.random.choice(len(g.shape(x)), rank, replace=False))
    ops = "ReduceMean ReduceSum ReduceMax ReduceMin ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSumExp"
    g.add(g.one_of(*ops.split()), x, g.constant(axes, np.int64), keepdims=g.between(0, 1))


@production()
def layer_normalization(g: Growing) -> None:
    x = g.value()
    axis = g.axis(x)
    shape = g.shape(x)[axis:]
    g.add("LayerNormalization", x, g.weight(*shape), g.weight(*shape), axis=axis, epsilon=0.1)


@production()
def rms_normalization(g: Growing) -> None:
    x = g.value(1, 2, 3, 4)
    mean = g.add("ReduceMean", g.add("Mul", x, x), g.constant([-1], np.int64), keepdims=1)
    g.add("Div", x, g.add("Sqrt", g.add("Add", mean, g.constant(0.1))))


@production()
def channels_last_normalization(g: Growing) -> None:
    x = g.value(4)
    channels = g.shape(x)[1]
    y = g.add("Transpose", x, perm=[0, 2, 3, 1])
    y = g.add("LayerNormalization", y, g.weight(channels), g.weight(channels), axis=-1, epsilon=0.1)
    g.add("Transpose", y, perm=[0, 3, 1, 2])


@production()
def batch_normalization(g: Growing) -> None:
    x = g.value(2, 3, 4, 4)
    channels = g.shape(x)[1]
    variance = g.constant(g.random.uniform(0.5, 2, channels))
    g.add("BatchNormalization", x, g.weight(channels), g.weight(channels), g.weight(channels), variance)


@production()
def instance_normalization(g: Growing) -> None:
    x = g.value(4)
    g.add("InstanceNormalization", x, g.weight(g.shape(x)[1]), g.weight(g.shape(x)[1]), epsilon=0.1)


@production()
def local_response_normalization(g: Growing) -> None:
    g.add("LRN", g.value(4), size=g.one_of(3, 5))


@production()
def cumulative_sum(g: Growing) -> None:
    x = g.value()
    g.add("CumSum", x, g.constant(g.axis(x), np.int64), exclusive=g.between(0, 1), reverse=g.between(0, 1))


@production()
def largest(g: Growing) -> None:
    x = g.value()
    axis = g.axis(x)
    k = g.between(1, min(5, g.shape(x)[axis]))
    g.add("TopK", x, g.constant([k], np.int64), outputs=2, axis=axis, largest=g.between(0, 1))


# --- movement ---------------------------------------------------------------------------------------------------------------------


@production()
def transpose(g: Growing) -> None:
    x = g.anything(1, 2, 3, 4, 5, 6)
    g.add("Transpose", x, perm=g.random.permutation(len(g.shape(x))).tolist())


@production(2)
def reshape(g: Growing) -> None:
    """Joins two axes, cuts one, or anything with as many elements."""
    x = g.anything()
    shape = list(g.shape(x))
    axis = g.axis(x)
    divisor = g.one_of(*(n for n in (1, 2, 3, 4, 7, 8) if shape[axis] % n == 0))
    size = int(np.prod(shape))
    rows = g.one_of(*(n for n in range(1, 65) if size % n == 0))
    choices = [[-1], [rows, -1], [1, -1, rows], [*shape[:axis], divisor, shape[axis] // divisor, *shape[axis + 1 :]]]
    if axis:
        choices.append([*shape[: axis - 1], shape[axis - 1] * shape[axis], *shape[axis + 1 :]])
    g.add("Reshape", x, g.constant(g.one_of(*choices), np.int64))


@production()
def unsqueeze_or_squeeze(g: Growing) -> None:
    x = g.anything()
    ones = [axis for axis, extent in enumerate(g.shape(x)) if extent == 1]
    if ones and g.chance(0.5):
        g.add("Squeeze", x, g.constant([g.one_of(*ones)], np.int64))
    else:
        g.add("Unsqueeze", x, g.constant([g.between(0, len(g.shape(x)))], np.int64))


@production(2)
def concat(g: Growing) -> None:
    x = g.anything()
    axis = g.axis(x)
    rest = [*g.shape(x)[:axis], *g.shape(x)[axis + 1 :]]

    def joins(v: np.ndarray) -> bool:
        return v.ndim > len(rest) and [*v.shape[:axis], *v.shape[axis + 1 :]] == rest

    parts = [x, *(g.alike(x, joins) for _ in range(g.between(1, 3)))]
    g.random.shuffle(parts)
    g.add("Concat", *parts, axis=axis)


@production(2)
def split(g: Growing) -> None:
    x = g.anything()
    axis = g.axis(x)
    extent = g.shape(x)[axis]
    first = g.one_of(1, max(1, extent // 2), max(1, extent // 3))
    g.add("Split", x, g.constant([first, extent - first], np.int64), outputs=2, axis=axis)


@production()
def slice_(g: Growing) -> None:
    x = g.anything()
    axis = g.axis(x)
    extent = g.shape(x)[axis]
    start, end, step = g.between(0, extent // 2), g.one_of(extent, 2**31, -1, extent // 2 + 1), g.one_of(1, 1, 1, 2, 3)
    if g.chance(0.25):
        start, end, step = g.one_of(-1, extent), g.one_of(-extent - 1, 0), g.one_of(-1, -2)
    g.add("Slice", x, *(g.constant([number], np.int64) for number in (start, end, axis, step)))


@production()
def pad(g: Growing) -> None:
    x = g.anything()
    pads = [0] * (2 * len(g.shape(x)))
    for _ in range(g.between(1, 3)):
        pads[g.axis(x) + g.one_of(0, len(pads) // 2)] = g.one_of(1, 2, 3)
    mode = g.one_of("constant", "constant", "reflect", "edge")
    filling = [g.constant(1, g.values[x].dtype)] if mode == "constant" else []
    g.add("Pad", x, g.constant(pads, np.int64), *filling, mode=mode)


@production()
def gather(g: Growing) -> None:
    x = g.anything()
    axis = g.axis(x)
    extent = g.shape(x)[axis]
    g.add("Gather", x, g.constant(g.random.integers(-extent, extent, g.one_of((), (3,), (2, 4), (8,))), np.int64), axis=axis)


@production()
def gather_nd(g: Growing) -> None:
    x = g.anything(2, 3, 4)
    indices = np.stack([g.random.integers(0, extent, 5) for extent in g.shape(x)[: g.axis(x) + 1]], -1)
    g.add("GatherND", x, g.constant(indices, np.int64))


@production()
def expand(g: Growing) -> None:
    x = g.anything()
    shape = [extent if extent > 1 else g.one_of(1, 2, 3, 8) for extent in g.shape(x)]
    g.add("Expand", x, g.constant([*g.one_of([], [2]), *shape], np.int64))


@production()
def tile(g: Growing) -> None:
    x = g.anything()
    g.add("Tile", x, g.constant([g.one_of(1, 1, 2, 3) for _ in g.shape(x)], np.int64))


@production()
def space_and_depth(g: Growing) -> None:
    if g.chance(0.5):
        g.add("DepthToSpace", g.value(4), blocksize=2, mode=g.one_of("DCR", "CRD"))
    else:
        g.add("SpaceToDepth", g.value(4), blocksize=2)
