"""What ``hostile`` makes of operators on elements, and of those that move them: a case is one operator, or a family."""

from __future__ import annotations

import numpy as np
import onnx.helper as oh

from .hostile import ALL, BRAIN, EXTENTS, FLOATS, HALF, I64, INTEGERS, NUMBERS, SIGNED, SINGLE, Case, Hostile, case, ints


@case
def unary(h: Hostile) -> Case:
    names = (
        "Relu Sigmoid Tanh HardSwish HardSigmoid LeakyRelu Gelu Softplus Elu Selu Mish Erf Abs Neg Softsign ThresholdedRelu Celu Sin Cos "
        "Tan Atan Asinh Asin Acos Acosh Atanh Sinh Cosh Exp Log Sqrt Reciprocal Floor Ceil Round Sign"
    )
    op = h.one_of(*names.split())
    return Case(op, [h.array(h.one_of(*FLOATS), h.shape())], tolerance=1e-4)


@case
def unary_integers(h: Hostile) -> Case:
    op = h.one_of("Abs", "Neg", "Sign", "BitwiseNot", "Relu")
    return Case(op, [h.array(h.one_of(*(SIGNED if op in ("Neg", "Relu") else INTEGERS)), h.shape())])


@case
def classified(h: Hostile) -> Case:
    return Case(h.one_of("IsNaN", "IsInf"), [h.array(h.one_of(*FLOATS), h.shape())])


@case
def binary(h: Hostile) -> Case:
    dtype = h.one_of(*NUMBERS)
    a, b = (h.array(dtype, s) for s in h.broadcast(2))
    op = h.one_of("Add", "Sub", "Mul", "Max", "Min", "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual")
    return Case(op, [a, a if h.chance(0.1) else b])


@case
def division(h: Hostile) -> Case:
    dtype = h.one_of(*NUMBERS)
    a, b = (h.array(dtype, s) for s in h.broadcast(2))
    if dtype.kind in "iu" and h.chance(0.7):
        b = np.where(b == 0, 1, b).astype(dtype)
    op = h.one_of("Div", "Mod")
    fmod = dtype.kind not in "iu" or h.chance(0.3)
    return Case(op, [a, b], {"fmod": int(fmod)} if op == "Mod" else {}, tolerance=1e-4)


@case
def power(h: Hostile) -> Case:
    dtype, other = h.one_of(*FLOATS, np.dtype(np.int32), I64), h.one_of(*FLOATS, np.dtype(np.int32), I64)
    a, b = h.broadcast(2)
    exponent = h.array(other, b, special=0.1) if h.chance(0.5) else np.array(h.one_of(0, 1, 2, 3, -1, -2, 4), other)
    return Case("Pow", [h.array(dtype, a), exponent], tolerance=1e-3)


@case
def shift(h: Hostile) -> Case:
    dtype = h.one_of(*(d for d in INTEGERS if d.kind == "u"))
    a, b = (h.array(dtype, s) for s in h.broadcast(2))
    return Case(
        "BitShift",
        [a, (b % (dtype.itemsize * 8 if h.chance(0.7) else 70)).astype(dtype)],
        {"direction": h.one_of("LEFT", "RIGHT")},
    )


@case
def bits(h: Hostile) -> Case:
    if h.chance(0.4):
        a, b = (h.array(np.dtype(bool), s) for s in h.broadcast(2))
        return Case(h.one_of("And", "Or", "Xor", "Equal"), [a, b])
    dtype = h.one_of(*INTEGERS)
    a, b = (h.array(dtype, s) for s in h.broadcast(2))
    return Case(h.one_of("BitwiseAnd", "BitwiseOr", "BitwiseXor"), [a, b])


@case
def several(h: Hostile) -> Case:
    op = h.one_of("Max", "Min", "Sum", "Mean")
    dtype = h.one_of(*(FLOATS if op in ("Sum", "Mean") else NUMBERS))
    arrays = [h.array(dtype, s) for s in h.broadcast(h.between(1, 4))]
    return Case(op, [*arrays, *arrays[: h.between(0, 1)]])


@case
def clip(h: Hostile) -> Case:
    dtype = h.one_of(*NUMBERS)
    low, high = (h.array(dtype, ()) if h.chance(0.7) else None for _ in range(2))
    return Case("Clip", [h.array(dtype, h.shape()), low, high])


@case
def where(h: Hostile) -> Case:
    c, a, b = h.broadcast(3)
    dtype = h.one_of(*ALL)
    return Case("Where", [h.array(np.dtype(bool), c), h.array(dtype, a), h.array(dtype, b)])


@case
def cast(h: Hostile) -> Case:
    return Case("Cast", [h.array(h.one_of(*ALL), h.shape())], {"to": oh.np_dtype_to_tensor_dtype(h.one_of(*ALL))})


@case
def prelu(h: Hostile) -> Case:
    a, b = h.shape(1), ()
    b = tuple(e if h.chance(0.5) else 1 for e in a)
    dtype = h.one_of(*FLOATS)
    return Case("PRelu", [h.array(dtype, a), h.array(dtype, b)])


@case
def reduction(h: Hostile) -> Case:
    op = h.one_of(
        "ReduceMax",
        "ReduceMin",
        "ReduceSum",
        "ReduceMean",
        "ReduceProd",
        "ReduceL1",
        "ReduceL2",
        "ReduceSumSquare",
        "ReduceLogSumExp",
        "ReduceLogSum",
    )
    dtype = (
        h.one_of(*(d for d in NUMBERS if d.name not in ("int16", "uint16")))
        if op in ("ReduceMax", "ReduceMin")
        else h.one_of(*FLOATS, np.dtype(np.int32), I64)
    )
    shape = h.shape()
    rank = len(shape)
    chosen = h.random.permutation(rank)[: h.between(0, rank)]
    axes = [int(a) - (rank if h.chance(0.5) else 0) for a in chosen]
    extra = [ints(*axes)] if h.chance(0.8) else []
    return Case(
        op,
        [h.array(dtype, shape, special=h.one_of(0.0, 0.0, 0.05, 1.0)), *extra],
        {"keepdims": h.between(0, 1), "noop_with_empty_axes": h.between(0, 1)},
        tolerance=1e-4,
    )


@case
def arg(h: Hostile) -> Case:
    shape = h.shape(1, 4, EXTENTS[1:])
    return Case(
        h.one_of("ArgMax", "ArgMin"), [h.array(h.one_of(*NUMBERS), shape)],
        {"axis": h.axis(len(shape)), "keepdims": h.between(0, 1), "select_last_index": h.between(0, 1)},
    )  # fmt: skip


@case
def softmax(h: Hostile) -> Case:
    shape = h.shape(1)
    return Case(
        h.one_of("Softmax", "LogSoftmax", "Hardmax"),
        [h.array(h.one_of(*FLOATS), shape)],
        {"axis": h.axis(len(shape))},
        tolerance=1e-4,
    )


@case
def top_k(h: Hostile) -> Case:
    shape = h.shape(1)
    axis = h.axis(len(shape))
    k = h.between(0, shape[axis])
    x = h.array(h.one_of(*NUMBERS), shape)
    if h.chance(0.7):
        x = np.where(np.isnan(x.astype(np.float64)), np.zeros((), x.dtype), x).astype(x.dtype)
    return Case("TopK", [x, ints(k)], {"axis": axis, "largest": h.between(0, 1), "sorted": 1}, outputs=2)


@case
def cumulative(h: Hostile) -> Case:
    shape = h.shape(1)
    dtype = h.one_of(*(d for d in FLOATS if d not in (HALF, BRAIN)), np.dtype(np.int32), I64)
    return Case(
        "CumSum",
        [h.array(dtype, shape, special=h.one_of(0.0, 0.05)), np.array(h.axis(len(shape)), np.int64)],
        {"exclusive": h.between(0, 1), "reverse": h.between(0, 1)},
        tolerance=1e-4,
    )


@case
def slice_(h: Hostile) -> Case:
    shape = h.shape(1)
    rank = len(shape)
    axes = h.random.permutation(rank)[: h.between(1, rank)]
    n = len(axes)
    limits = (-(2**63), 2**63 - 1, 2**31, -(2**31), 0, -1, 1, 2, 3, -3, 5, -5, 40, -40)
    starts, ends = ([h.one_of(*limits) for _ in range(n)] for _ in range(2))
    steps = [h.one_of(1, 1, -1, -1, 2, -2, 3, -7, 2**31, -(2**63), 2**63 - 1) for _ in range(n)]
    signed = [int(a) - (rank if h.chance(0.5) else 0) for a in axes]
    return Case("Slice", [h.array(h.one_of(*ALL), shape), ints(*starts), ints(*ends), ints(*signed), ints(*steps)])


@case
def split(h: Hostile) -> Case:
    shape = h.shape(1)
    axis, parts = h.axis(len(shape)), h.between(1, 5)
    x = h.array(h.one_of(*ALL), shape)
    if h.chance(0.4):
        return Case("Split", [x], {"axis": axis, "num_outputs": parts}, outputs=parts)
    cuts = np.sort(h.random.integers(0, shape[axis] + 1, parts - 1))
    return Case("Split", [x, ints(*np.diff([0, *cuts, shape[axis]]).tolist())], {"axis": axis}, outputs=parts)


@case
def concat(h: Hostile) -> Case:
    shape, dtype = h.shape(1), h.one_of(*ALL)
    axis = h.axis(len(shape))
    arrays = [
        h.array(dtype, tuple(h.one_of(0, 1, 2, 5, 9) if i == axis % len(shape) else e for i, e in enumerate(shape)))
        for _ in range(h.between(1, 4))
    ]
    return Case("Concat", [*arrays, *arrays[: h.between(0, 1)]], {"axis": axis})


@case
def transpose(h: Hostile) -> Case:
    shape = h.shape(0, 5, (0, 1, 2, 3, 7, 8, 9, 17))
    perm = {"perm": h.random.permutation(len(shape)).tolist()} if shape and h.chance(0.9) else {}
    return Case("Transpose", [h.array(h.one_of(*ALL), shape)], perm)


@case
def reshape(h: Hostile) -> Case:
    shape = h.shape()
    size = int(np.prod(shape))
    wanted = h.one_of(
        [-1], [size, 1], [1, -1], [*shape, 1, -1], [0] * len(shape), [0, -1], [-1, 0][: max(1, len(shape))], [], [size, -1]
    )
    return Case("Reshape", [h.array(h.one_of(*ALL), shape), ints(*wanted)], {"allowzero": h.one_of(0, 0, 1)})


@case
def pad(h: Hostile) -> Case:
    shape = h.shape(1, 4, (1, 2, 3, 5, 8, 9))
    rank, dtype = len(shape), h.one_of(*ALL)
    mode = h.one_of("constant", "constant", "reflect", "edge", "wrap")
    pads = [h.one_of(0, 0, 1, 2, 3, 6, 11, *((-1, -2) if mode == "constant" else ())) for _ in range(2 * rank)]
    filling = [h.array(dtype, ())] if mode == "constant" and h.chance(0.7) else [None]
    axes = []
    if h.chance(0.3):
        chosen = h.random.permutation(rank)[: h.between(1, rank)]
        axes, pads = [ints(*(int(a) - rank * h.between(0, 1) for a in chosen))], pads[: 2 * len(chosen)]
    return Case(
        "Pad", [h.array(dtype, shape), ints(*pads), *(filling if axes or filling[0] is not None else []), *axes], {"mode": mode}
    )


@case
def gather(h: Hostile) -> Case:
    shape = h.shape(1)
    axis = h.axis(len(shape))
    extent = shape[axis]
    indices = h.random.integers(-extent, max(extent, 1), h.one_of((), (3,), (2, 4), (0,), (1,))).astype(
        h.one_of(np.int32, np.int64)
    )
    return Case("Gather", [h.array(h.one_of(*ALL), shape), indices], {"axis": axis})


@case
def gather_elements(h: Hostile) -> Case:
    shape = h.shape(1)
    axis = h.axis(len(shape))
    extent = shape[axis]
    other = tuple(h.between(0, 5) if i == axis % len(shape) else h.between(min(e, 1), e) for i, e in enumerate(shape))
    indices = h.random.integers(-extent, max(extent, 1), other).astype(h.one_of(np.int32, np.int64))
    return Case("GatherElements", [h.array(h.one_of(*ALL), shape), indices], {"axis": axis})


@case
def scatter_elements(h: Hostile) -> Case:
    shape = h.shape(1, 3, (1, 2, 3, 5, 8, 9, 17))
    axis = h.axis(len(shape))
    extent = shape[axis]
    other = tuple(h.between(0, extent) if i == axis % len(shape) else h.between(1, e) for i, e in enumerate(shape))
    dtype, mode = (
        h.one_of(np.dtype(np.float32), np.dtype(np.int64), np.dtype(np.int32)),
        h.one_of("none", "add", "mul", "max", "min"),
    )
    if mode == "none":
        indices = np.argsort(h.random.random((*other[: axis % len(shape)], extent, *other[axis % len(shape) + 1 :])), axis)
        indices = np.take(indices, range(other[axis]), axis)
    else:
        indices = h.random.integers(-extent, extent, other)
    return Case(
        "ScatterElements",
        [h.finite(dtype, shape), indices.astype(h.one_of(np.int32, np.int64)), h.finite(dtype, other)],
        {"axis": axis, "reduction": mode},
    )


@case
def scatter_nd(h: Hostile) -> Case:
    shape = h.shape(1, 3, (1, 2, 3, 5, 8, 9))
    depth, count = h.between(1, len(shape)), h.between(0, 6)
    mode = h.one_of("none", "add", "max", "min", "mul")
    if mode == "none":
        every = np.stack(np.meshgrid(*(np.arange(e) for e in shape[:depth]), indexing="ij"), -1).reshape(-1, depth)
        indices = h.random.permutation(every)[:count]
    else:
        indices = np.stack([h.random.integers(-e, e, count) for e in shape[:depth]], -1)
    return Case(
        "ScatterND",
        [h.finite(SINGLE, shape), indices.astype(np.int64), h.finite(SINGLE, (len(indices), *shape[depth:]))],
        {"reduction": mode},
    )


@case
def gather_nd(h: Hostile) -> Case:
    shape = h.shape(1, 4, (1, 2, 3, 5, 8))
    batch = h.between(0, len(shape) - 1)
    depth = h.between(1, len(shape) - batch)
    rows = h.one_of((), (3,), (0,), (2, 2))
    indices = np.stack([h.random.integers(-e, e, (*shape[:batch], *rows)) for e in shape[batch : batch + depth]], -1)
    return Case("GatherND", [h.array(h.one_of(*ALL), shape), indices.astype(np.int64)], {"batch_dims": batch})


@case
def expand(h: Hostile) -> Case:
    a, b = h.broadcast(2)
    return Case("Expand", [h.array(h.one_of(*ALL), a), ints(*b)])


@case
def tile(h: Hostile) -> Case:
    shape = h.shape(0, 4, (0, 1, 2, 3, 7))
    return Case("Tile", [h.array(h.one_of(*ALL), shape), ints(*(h.between(0, 3) for _ in shape))])


@case
def one_hot(h: Hostile) -> Case:
    depth = h.between(1, 9)
    indices = h.random.integers(-depth - 3, depth + 3, h.shape(0, 3)).astype(h.one_of(np.int32, np.int64))
    return Case(
        "OneHot", [indices, np.array(depth, np.int64), h.array(h.one_of(SINGLE, I64), (2,))], {"axis": h.axis(indices.ndim + 1)}
    )


@case
def trilu(h: Hostile) -> Case:
    k = [np.array(h.one_of(0, 1, -1, 5, -5, 100, -100, 2**62, -(2**62)), np.int64)] if h.chance(0.8) else []
    return Case("Trilu", [h.array(h.one_of(*ALL), h.shape(2)), *k], {"upper": h.between(0, 1)})


@case
def various(h: Hostile) -> Case:
    match h.between(0, 8):
        case 0:
            return Case(
                "Range", [np.array(v, np.int64) for v in (h.between(-9, 9), h.between(-9, 30), h.one_of(1, 2, -1, -3, 100))]
            )
        case 1:
            return Case("NonZero", [h.array(h.one_of(*ALL), h.shape(0, 3))])
        case 2:
            return Case(
                "Compress",
                [(x := h.array(h.one_of(*ALL), h.shape(1))), h.array(np.dtype(bool), (h.between(0, x.shape[0]),))],
                {"axis": 0},
            )
        case 3:
            return Case("Unique", [h.array(h.one_of(SINGLE, I64), h.shape(1, 1))], {"sorted": 1}, outputs=4)
        case 4:
            c, b = h.one_of(4, 8, 16), 2
            return Case(
                "DepthToSpace",
                [h.array(h.one_of(*FLOATS), (h.one_of(0, 1, 2), c, h.one_of(0, 1, 3), h.one_of(1, 5)))],
                {"blocksize": b, "mode": h.one_of("DCR", "CRD")},
            )
        case 5:
            return Case(
                "SpaceToDepth", [h.array(h.one_of(*FLOATS), (h.one_of(0, 1, 2), 3, h.one_of(0, 2, 6), 4))], {"blocksize": 2}
            )
        case 6:
            x = h.finite(SINGLE, (h.one_of(1, 2), h.one_of(1, 3), h.one_of(1, 4, 7), h.one_of(1, 5)))
            grid = h.array(SINGLE, (x.shape[0], h.one_of(1, 3), h.one_of(1, 4), 2), special=h.one_of(0.0, 0.0, 0.1))
            return Case(
                "GridSample",
                [x, grid],
                {
                    "mode": h.one_of("linear", "nearest", "cubic"),
                    "padding_mode": h.one_of("zeros", "border", "reflection"),
                    "align_corners": h.between(0, 1),
                },
                tolerance=1e-3,
            )
        case 7:
            return Case(
                "ReverseSequence",
                [
                    h.array(h.one_of(*FLOATS), (s := h.shape(2, 3, (1, 2, 3, 5)))),
                    h.random.integers(1, s[0] + 1, s[1]).astype(np.int64),
                ],
                {"batch_axis": 1, "time_axis": 0},
            )
        case _:
            return Case("EyeLike", [h.array(SINGLE, h.shape(2, 2))], {"k": h.one_of(0, 1, -2, 100)})
