"""Sums of products of 8-bit integers, computed in pairs, against ONNX's reference: exact for every dtype, zero point and shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.helper as oh
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import loopnest
from loopnest.codegen.kernel import emit_kernel
from loopnest.codegen.target import resolve
from loopnest.compiler.ops.pairs import in_pairs
from loopnest.ir import dtypes, loop_values
from loopnest.ir import loops as ir
from loopnest.ir.errors import VerificationError
from loopnest.ir.loop_verify import verify
from tests.graphs import make_model, reference, tensor
from tests.kernels import WAYS, arguments, kernels_of, random_inputs
from tests.operators import model_of

EXTENTS = st.sampled_from([1, 2, 7, 8, 9, 15, 16, 17, 31, 33])
BYTES = st.sampled_from([np.uint8, np.int8])


def _numbers(dtype: Any, *shape: int, seed: int = 0) -> np.ndarray:
    """Many of them the lowest and the highest of the dtype."""
    limits, random = np.iinfo(dtype), np.random.default_rng(seed)
    ends = random.choice([limits.min, limits.max], shape)
    return np.where(random.random(shape) < 0.5, ends, random.integers(limits.min, limits.max + 1, shape)).astype(dtype)


def _same(op: str, arrays: list[Any], attrs: dict[str, Any], constants: list[int], threads: int) -> None:
    """What loopnest computes, with ``constants`` as initializers, is what the reference does, to the bit."""
    known = [i for i in constants if arrays[i] is not None]
    model = model_of(op, arrays, attrs, constants=known, opset=21)
    feeds = {f"x{i}": array for i, array in enumerate(arrays) if array is not None and i not in known}
    (ours,), (theirs,) = loopnest.compile(model, threads=threads).run(None, feeds), reference(model, feeds)
    assert ours.dtype == theirs.dtype == np.int32
    np.testing.assert_array_equal(ours, theirs)


@settings(max_examples=12, deadline=None)
@given(st.tuples(EXTENTS, EXTENTS, EXTENTS), BYTES, BYTES, st.sampled_from(["", "one", "each"]), st.booleans(), st.data())
def test_matmul(mkn: tuple[int, int, int], left: Any, right: Any, zeros: str, known: bool, data: st.DataObject) -> None:
    m, k, n = mkn
    batch = data.draw(st.sampled_from([(), (2,), (2, 3)]))
    inputs: list[Any] = [_numbers(left, *batch, m, k), _numbers(right, *data.draw(st.sampled_from([(), batch])), k, n, seed=1)]
    if zeros:
        rows, columns = ((*(1,) * len(batch), m, 1), (n,)) if zeros == "each" else ((), ())
        inputs += [_numbers(left, *rows, seed=2), _numbers(right, *columns, seed=3)]
    _same("MatMulInteger", inputs, {}, [1, 2, 3][: len(inputs) - 1] if known else [], data.draw(st.sampled_from([1, 2])))


@pytest.mark.parametrize(("left", "right"), [((9,), (9, 5)), ((5, 9), (9,)), ((9,), (9,)), ((2, 3, 9), (2, 9, 4))])
def test_vectors_and_broadcast_batches(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    inputs = [_numbers(np.uint8, *left), _numbers(np.int8, *right, seed=1), np.array([7], np.uint8), np.array(-3, np.int8)]
    _same("MatMulInteger", inputs, {}, [1], 1)


@settings(max_examples=14, deadline=None)
@given(
    channels=st.tuples(st.sampled_from([1, 2, 3, 7, 8, 16, 17, 33]), st.sampled_from([1, 2, 7, 8, 9, 16, 31])),
    size=st.tuples(st.sampled_from([5, 8, 9, 15]), st.sampled_from([5, 7, 9, 16, 17, 33])),
    dtypes_=st.tuples(BYTES, BYTES),
    groups=st.sampled_from([1, 1, 2, 3]),
    kernel=st.sampled_from([(1, 1), (3, 3), (1, 3), (2, 2)]),
    strides=st.sampled_from([(1, 1), (1, 1), (2, 2), (1, 2)]),
    pads=st.sampled_from([(0, 0, 0, 0), (1, 1, 1, 1), (0, 1, 2, 0)]),
    dilation=st.sampled_from([1, 1, 2]),
    zeros=st.sampled_from(["", "one", "each"]),
    data=st.data(),
)
def test_convolution(
    channels: tuple[int, int],
    size: tuple[int, int],
    dtypes_: tuple[Any, Any],
    groups: int,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    pads: tuple[int, int, int, int],
    dilation: int,
    zeros: str,
    data: st.DataObject,
) -> None:
    """A padded number is the zero point."""
    (inputs, outputs), (left, right) = channels, dtypes_
    x = _numbers(left, data.draw(st.sampled_from([1, 2])), groups * inputs, *size)
    w = _numbers(right, groups * outputs, inputs, *kernel, seed=1)
    arrays: list[Any] = [x, w]
    if zeros:
        arrays += [_numbers(left, seed=2), _numbers(right, *((groups * outputs,) if zeros == "each" else ()), seed=3)]
    attrs = {"group": groups, "strides": list(strides), "pads": list(pads), "dilations": [dilation] * 2}
    known = [1, 2, 3][: len(arrays) - 1] if data.draw(st.booleans()) else []
    if zeros == "each":
        _same_as_convolution(arrays, attrs, known, data.draw(st.sampled_from([1, 2])))
    else:
        _same("ConvInteger", arrays, attrs, known, data.draw(st.sampled_from([1, 2])))


def _same_as_convolution(arrays: list[Any], attrs: dict[str, Any], constants: list[int], threads: int) -> None:
    """As ``_same``; the reference of ConvInteger takes no zero points of filters, that of Conv in float64 is exact."""
    x, w, x_zero, w_zero = (array.astype(np.float64) for array in arrays)
    shifted = [x - x_zero, w - w_zero.reshape(-1, 1, 1, 1)]
    model = model_of("Conv", shifted, attrs, opset=21)
    (expected,) = reference(model, {"x0": shifted[0], "x1": shifted[1]})
    feeds = {f"x{i}": array for i, array in enumerate(arrays) if i not in constants}
    (ours,) = loopnest.compile(model_of("ConvInteger", arrays, attrs, constants=constants, opset=21), threads=threads).run(
        None, feeds
    )
    np.testing.assert_array_equal(ours, expected.astype(np.int32))


@pytest.mark.parametrize("inputs", [1, 2])
@pytest.mark.parametrize("constants", [[], [1], [1, 2, 3]])
def test_zero_points_of_filters_that_data_gives(inputs: int, constants: list[int]) -> None:
    arrays = [_numbers(np.uint8, 1, 3 * inputs, 5, 7), _numbers(np.int8, 6, inputs, 2, 2, seed=1)]
    arrays += [_numbers(np.uint8, seed=2), _numbers(np.int8, 6, seed=3)]
    _same_as_convolution(arrays, {"group": 3, "pads": [1, 1, 1, 1]}, constants, 1)


@pytest.mark.parametrize("shape", [(3, 17), (2, 9, 5)])
def test_other_ranks(shape: tuple[int, ...]) -> None:
    x, w = _numbers(np.uint8, 1, 5, *shape[1:]), _numbers(np.int8, 4, 5, *(3,) * (len(shape) - 1), seed=1)
    _same("ConvInteger", [x, w, np.array(3, np.uint8)], {"pads": [1] * 2 * (len(shape) - 1)}, [1], 1)


def test_zero_points_that_do_not_fit_are_refused() -> None:
    x, w = _numbers(np.uint8, 1, 3, 5, 5), _numbers(np.uint8, 4, 3, 3, 3)
    for i, shape in ((2, (3,)), (3, (3,))):
        arrays: list[Any] = [x, w, None, None]
        arrays[i] = np.zeros(shape, np.uint8)
        with pytest.raises(loopnest.ModelError, match="zero point of the"):
            loopnest.compile(model_of("ConvInteger", arrays, opset=21))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("count", [6, 10])
def test_pairs_of_constants_are_those_of_the_kernel(count: int, groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the data and the weights are paired alike shows where only one of them is a constant."""
    x, w = _numbers(np.int8, 1, count, 4, 4), _numbers(np.uint8, 4, count // groups, 1, 1, seed=1)
    for constants in ([], [0], [1], [0, 1]):
        _same("ConvInteger", [x, w], {"group": groups}, constants, 1)
    words = in_pairs(np.array([[-1, 2, 3]], np.int32), 1)
    np.testing.assert_array_equal(words, [[0x2FFFF, 3]])


INT16 = st.integers(-(1 << 15), (1 << 15) - 1)


@given(INT16, INT16, INT16, INT16)
def test_dot16_is_the_sum_of_two_products(a: int, b: int, c: int, d: int) -> None:
    words = [((low & 0xFFFF) | (high << 16)) for low, high in ((a, b), (c, d))]
    x, y = (loop_values.constant(word, dtypes.int32) for word in words)
    with np.errstate(over="ignore"):
        result = int(loop_values.binary("dot16", dtypes.int32)(x, y))
    assert (result - (a * c + b * d)) % (1 << 32) == 0


def test_dot16_is_of_int32() -> None:
    x = ir.Buffer("x", dtypes.int64, (ir.Const(4),), (ir.ONE,), "input")
    y = ir.Buffer("y", dtypes.int64, (ir.Const(4),), (ir.ONE,), "output")
    i = ir.Var("i", extent=ir.Const(4))
    body = (ir.For(i, ir.Const(4), (ir.Store(y, (i,), ir.Binary("dot16", x(i), x(i))),), "vector"),)
    with pytest.raises(VerificationError, match="dot16"):
        verify(ir.LoopNest("bad", (x, y), body))


def test_the_same_in_the_interpreter_in_python_and_as_machine_code(monkeypatch: pytest.MonkeyPatch) -> None:
    w = _numbers(np.int8, 9, 17, seed=1)
    model = model_of("MatMulInteger", [_numbers(np.uint8, 3, 9), w, np.array(3, np.uint8)], constants=[1], opset=21)
    for source in kernels_of(model, monkeypatch):
        results = []
        for run in WAYS:
            buffers, extents = arguments(source, random_inputs(source))
            assert run(source, buffers, extents) == 0
            results.append(buffers)
        for other in results[1:]:
            for ours, theirs in zip(results[0], other, strict=True):
                np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("name", "register"), [("cpu-sse2", "xmm"), ("cpu-avx2", "ymm"), ("cpu-avx512", "zmm"), ("cpu-neon", "")]
)
def test_pairs_are_one_instruction_on_x86(name: str, register: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("MatMulInteger", [_numbers(np.uint8, 64, 64), _numbers(np.int8, 64, 64)], constants=[1], opset=21)
    product = kernels_of(model, monkeypatch)[-1]
    assert "dot16(" in product.text
    lines = [line for line in emit_kernel(product, resolve(name)).assembly().splitlines() if "pmaddwd" in line]
    assert bool(lines) == bool(register) and all(register in line for line in lines)


def test_a_quantized_product_is_two_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data in pairs, then the product with everything after it fused."""
    known = {
        "w": _numbers(np.int8, 64, 32),
        "s": np.array(0.02, np.float32),
        "z": np.array(100, np.uint8),
        "wz": np.array(0, np.int8),
    }
    node = oh.make_node("QLinearMatMul", ["x", "s", "z", "w", "s", "wz", "s", "z"], ["y"])
    model = make_model([node], {"x": tensor("x", (16, 64), dtypes.uint8.onnx)}, ["y"], known)
    names = [source.nest.name for source in kernels_of(model, monkeypatch)]
    assert len(names) == 2 and names[0] == "Pairs" and names[1].startswith("MatMul+"), names
