"""What ``hostile`` makes of operators that compute with windows, products and images, quantized ones too."""

from __future__ import annotations

import numpy as np

from .hostile import FLOATS, HALF, I64, SINGLE, Case, Hostile, case, ints


def windows(h: Hostile, image: tuple[int, ...], kernel: list[int], pool: bool) -> dict:
    attributes: dict = {"strides": [h.one_of(1, 1, 2, 3, 5) for _ in image], "dilations": [h.one_of(1, 1, 2, 3) for _ in image]}
    if h.chance(0.3):
        attributes["auto_pad"] = h.one_of("SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET")
    else:
        attributes["pads"] = [h.between(0, (k - 1) if pool else k + 2) for k in kernel * 2]
    if h.chance(0.3):
        del attributes["dilations"]
    return attributes


@case
def convolution(h: Hostile) -> Case:
    rank = h.one_of(1, 2, 2, 2, 3)
    image = tuple(h.one_of(1, 2, 3, 5, 7, 8, 9, 13, 17) for _ in range(rank))
    kernel = [h.one_of(1, 2, 3, 3, 4, 5, 7) for _ in image]
    group = h.one_of(1, 1, 2, 3, 8)
    inside, outside = group * h.one_of(1, 2, 3, 4, 8), group * h.one_of(1, 2, 3, 5, 8, 16)
    dtype = h.one_of(*FLOATS)
    batch = h.one_of(0, 1, 1, 2, 3)
    bias = [h.finite(dtype, (outside,))] if h.chance(0.5) else []
    attributes = windows(h, image, kernel, False)
    x = h.array(dtype, (batch, inside, *image), special=h.one_of(0.0, 0.0, 0.02))
    return Case(
        "Conv", [x, h.finite(dtype, (outside, inside // group, *kernel)), *bias], {"group": group, **attributes}, tolerance=1e-4
    )


@case
def transposed_convolution(h: Hostile) -> Case:
    rank = h.one_of(1, 2, 2, 2, 3)
    image = tuple(h.one_of(1, 2, 3, 5, 7, 8, 9) for _ in range(rank))
    kernel = [h.one_of(1, 2, 3, 3, 4, 5) for _ in image]
    group = h.one_of(1, 1, 2, 3)
    inside, outside = h.one_of(1, 2, 3, 4, 8), h.one_of(1, 2, 3, 8)
    dtype = h.one_of(*FLOATS)
    attributes = windows(h, image, kernel, True)
    if h.chance(0.4):
        attributes["output_padding"] = [
            h.between(0, max(s, d) - 1)
            for s, d in zip(attributes["strides"], attributes.get("dilations", [1] * rank), strict=True)
        ]
    if h.chance(0.2):
        attributes["output_shape"] = [h.between(1, e * 3) for e in image]
    bias = [h.finite(dtype, (outside * group,))] if h.chance(0.5) else []
    return Case(
        "ConvTranspose",
        [h.finite(dtype, (h.one_of(1, 2), inside * group, *image)), h.finite(dtype, (inside * group, outside, *kernel)), *bias],
        {"group": group, **attributes},
        tolerance=1e-4,
    )


@case
def pooling(h: Hostile) -> Case:
    rank = h.one_of(1, 2, 2, 2, 3)
    image = tuple(h.one_of(1, 2, 3, 5, 7, 8, 9, 13, 17) for _ in range(rank))
    kernel = [h.one_of(1, 2, 3, 3, 4, 5, 7) for _ in image]
    op = h.one_of("MaxPool", "MaxPool", "AveragePool", "LpPool")
    attributes = {"kernel_shape": kernel, "ceil_mode": h.between(0, 1), **windows(h, image, kernel, True)}
    outputs = 1
    dtype = h.one_of(*FLOATS)
    if op == "MaxPool":
        outputs = h.between(1, 2)
        attributes["storage_order"] = h.between(0, 1) if outputs == 2 else 0
        dtype = h.one_of(*FLOATS, np.dtype(np.int8), np.dtype(np.uint8))
    elif op == "AveragePool":
        attributes["count_include_pad"] = h.between(0, 1)
    else:
        attributes["p"] = h.between(1, 3)
    return Case(
        op,
        [h.array(dtype, (h.one_of(0, 1, 2), h.one_of(1, 3, 8, 17), *image), special=h.one_of(0.0, 0.02, 0.3))],
        attributes,
        outputs,
        tolerance=1e-4,
        opset=22,
    )


@case
def product(h: Hostile) -> Case:
    m, k, n = (h.one_of(0, 1, 1, 2, 3, 7, 8, 9, 16, 17, 33, 64) for _ in range(3))
    a, b = h.broadcast(2, 2)
    dtype = h.one_of(*FLOATS, np.dtype(np.int32), I64, np.dtype(np.uint32))
    a, b = (*a, m, k), (*b, k, n)
    if h.chance(0.1):
        a = (k,)
    if h.chance(0.1):
        b = (k,)
    x, y = h.array(dtype, a, special=h.one_of(0.0, 0.0, 0.02)), h.finite(dtype, b)
    return Case("MatMul", [x, x if a == b and h.chance(0.5) else y], tolerance=1e-4)


@case
def gemm(h: Hostile) -> Case:
    m, k, n = (h.one_of(0, 1, 1, 2, 3, 7, 8, 9, 16, 17, 33) for _ in range(3))
    dtype = h.one_of(*FLOATS)
    ta, tb = h.between(0, 1), h.between(0, 1)
    c = [h.array(dtype, h.one_of((n,), (1, n), (m, 1), (m, n), (1,), (), (1, 1)))] if h.chance(0.6) else []
    attributes = {"transA": ta, "transB": tb, "alpha": h.one_of(1.0, 0.5, 0.0), "beta": h.one_of(1.0, 2.0, 0.0)}
    return Case(
        "Gemm",
        [h.finite(dtype, (k, m) if ta else (m, k)), h.finite(dtype, (n, k) if tb else (k, n)), *c],
        attributes,
        tolerance=1e-4,
    )


@case
def normalization(h: Hostile) -> Case:
    op = h.one_of(
        "LayerNormalization",
        "InstanceNormalization",
        "BatchNormalization",
        "GroupNormalization",
        "LpNormalization",
        "MeanVarianceNormalization",
        "LRN",
        "RMSNormalization",
    )
    dtype = h.one_of(*FLOATS[:5])
    shape = h.shape(3, 4, (1, 2, 3, 4, 7, 8, 9, 17))
    channels = shape[1]

    def weight(n=(channels,)):
        return h.finite(dtype, n)

    x = h.array(dtype, shape, special=h.one_of(0.0, 0.0, 0.02))
    tolerance = 1e-3
    match op:
        case "LayerNormalization" | "RMSNormalization":
            axis = h.axis(len(shape))
            rest = shape[axis:]
            more = [weight(rest)] if op == "LayerNormalization" and h.chance(0.5) else []
            outputs = h.between(1, 3) if op == "LayerNormalization" else 1
            return Case(
                op,
                [x, weight(rest), *more],
                {"axis": axis, "epsilon": h.one_of(1e-5, 0.1)},
                outputs,
                tolerance,
                23 if op[0] == "R" else 21,
            )
        case "InstanceNormalization":
            return Case(op, [x, weight(), weight()], {}, 1, tolerance)
        case "BatchNormalization":
            return Case(op, [x, weight(), weight(), weight(), np.abs(weight())], {"epsilon": 0.01}, 1, tolerance)
        case "GroupNormalization":
            groups = h.one_of(*(g for g in range(1, channels + 1) if channels % g == 0))
            return Case(op, [x, weight(), weight()], {"num_groups": groups}, 1, tolerance)
        case "LpNormalization":
            return Case(op, [x], {"axis": h.axis(len(shape)), "p": h.between(1, 2)}, 1, tolerance)
        case "LRN":
            return Case(op, [x], {"size": h.one_of(1, 3, 5, 7, 9)}, 1, tolerance)
        case _:
            axes = sorted(h.random.permutation(len(shape))[: h.between(1, len(shape))].tolist())
            return Case(op, [x], {"axes": axes}, 1, tolerance)


@case
def resize(h: Hostile) -> Case:
    rank = h.one_of(3, 4, 4, 4, 5)
    image = tuple(h.one_of(1, 2, 3, 5, 8, 9) for _ in range(rank - 2))
    shape = (h.one_of(1, 2), h.one_of(1, 3, 8), *image)
    mode = h.one_of("nearest", "linear", "cubic") if rank == 4 else h.one_of("nearest", "linear")
    attributes = {
        "mode": mode,
        "coordinate_transformation_mode": h.one_of(
            "half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric"
        ),
    }
    if mode == "nearest":
        attributes["nearest_mode"] = h.one_of("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
    if mode == "cubic":
        attributes |= {"cubic_coeff_a": h.one_of(-0.5, -0.75), "exclude_outside": h.between(0, 1)}
    if h.chance(0.2) and mode != "nearest":
        attributes["antialias"] = 1
    dtype = h.one_of(SINGLE, SINGLE, HALF, np.dtype(np.uint8), np.dtype(np.int8)) if mode != "cubic" else SINGLE
    x = h.finite(dtype, shape)
    if h.chance(0.5):
        return Case(
            "Resize", [x, None, None, ints(*shape[:2], *(h.between(1, e * 3) for e in image))], attributes, tolerance=1e-4
        )
    scales = np.array([1, 1, *(h.one_of(2.0, 0.5, 3.0, 1.0, 0.7, 1.3) for _ in image)], np.float32)
    return Case("Resize", [x, None, scales], attributes, tolerance=1e-4)


@case
def quantize(h: Hostile) -> Case:
    shape = h.shape(1)
    target = h.one_of(np.dtype(np.int8), np.dtype(np.uint8), np.dtype(np.int16), np.dtype(np.uint16))
    axis = h.axis(len(shape))
    parameters = h.one_of((), (shape[axis],))
    scale = np.abs(h.finite(SINGLE, parameters)) + np.float32(0.01)
    zero = h.array(target, parameters)
    x = h.array(SINGLE, shape)
    x = np.where(np.abs(x) < 1e4, x, 0).astype(np.float32)
    if h.chance(0.4):
        return Case("DequantizeLinear", [h.array(target, shape), scale, zero], {"axis": axis})
    return Case("QuantizeLinear", [x, scale, zero], {"axis": axis})


@case
def quantized_product(h: Hostile) -> Case:
    m, k, n = (h.one_of(1, 1, 2, 3, 7, 8, 9, 16, 17, 33, 64) for _ in range(3))
    a, b = (h.one_of(np.dtype(np.int8), np.dtype(np.uint8)) for _ in range(2))
    x, y = h.array(a, (m, k)), h.array(b, (k, n))
    if h.chance(0.5):
        zeros = [h.array(a, ()), h.array(b, h.one_of((), (n,)))][: h.between(0, 2)]
        return Case("MatMulInteger", [x, y, *zeros])
    scales = [np.array(s, np.float32) for s in (0.03, 0.02, 0.5)]
    return Case("QLinearMatMul", [x, scales[0], h.array(a, ()), y, scales[1], h.array(b, ()), scales[2], h.array(a, ())])


@case
def quantized_convolution(h: Hostile) -> Case:
    image = tuple(h.one_of(1, 2, 3, 5, 7, 8, 9, 13) for _ in range(2))
    kernel = [h.one_of(1, 2, 3, 3, 4, 5) for _ in image]
    group = h.one_of(1, 1, 2, 8)
    inside, outside = group * h.one_of(1, 2, 3, 4, 8), group * h.one_of(1, 2, 3, 5, 8, 16)
    a, b = np.dtype(np.uint8), h.one_of(np.dtype(np.int8), np.dtype(np.uint8))
    x, w = h.array(a, (h.one_of(1, 2), inside, *image)), h.array(b, (outside, inside // group, *kernel))
    attributes = {"group": group, **windows(h, image, kernel, True)}
    if h.chance(0.5):
        return Case("ConvInteger", [x, w, *[h.array(a, ()), h.array(b, ())][: h.between(0, 2)]], attributes)
    scales = [np.array(s, np.float32) for s in (0.03, 0.02, 1.5)]
    bias = [h.finite(np.dtype(np.int32), (outside,))] if h.chance(0.5) else []
    per = h.one_of((), (outside,))
    return Case(
        "QLinearConv",
        [
            x,
            scales[0],
            h.array(a, ()),
            w,
            np.broadcast_to(scales[1], per).copy(),
            np.zeros(per, b),
            scales[2],
            h.array(a, ()),
            *bias,
        ],
        attributes,
    )
