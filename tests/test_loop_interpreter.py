"""The interpreter of loop nests: results against NumPy, and what it must refuse."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from onnx.reference.ops.op_cast import cast_to

from loopnest.codegen import vecmath
from loopnest.ir import dtypes, loop_values
from loopnest.ir import loops as ir
from loopnest.ir.dtypes import DType
from loopnest.ir.errors import VerificationError
from loopnest.ir.loop_interpreter import run
from loopnest.ir.loops import For, LoopNest, Param, Store
from tests import nests

EXTENTS = [1, 7, 8, 9, 15, 16, 17, 31, 33]


def _random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _output(n: int, dtype: type = np.float32) -> np.ndarray:
    return np.full(n, 99, dtype)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("n", EXTENTS)
def test_elementwise_of_any_extent(n: int, workers: int) -> None:
    x, y = _random(n), _output(n)
    assert run(nests.elementwise(n), [x, y], workers=workers) == 0
    np.testing.assert_array_equal(y, np.maximum(x, 0) * 2)


@pytest.mark.parametrize("n", [0, 5, 24])
def test_parameters_take_the_values_given_or_their_hints(n: int) -> None:
    length = Param("n", 12)
    nest = nests.elementwise(length)
    for params, extent in (({length: n}, n), ({"n": n}, n), (None, 12)):
        x, y = _random(extent), _output(extent)
        assert run(nest, [x, y], params) == 0
        np.testing.assert_array_equal(y, np.maximum(x, 0) * 2)


@pytest.mark.parametrize("columns", EXTENTS)
def test_a_vector_loop_reduces_into_an_outer_scalar(columns: int) -> None:
    x, y = _random(3, columns), _output(3)
    assert run(nests.row_sums(3, columns), [x.ravel(), y]) == 0
    np.testing.assert_allclose(y, x.sum(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("k", [1, 5])
def test_a_register_tiled_gemm(k: int, workers: int) -> None:
    a, b, c = _random(6, k), _random(k, 16, seed=1), _output(96)
    assert run(nests.gemm(6, 16, k), [a.ravel(), b.ravel(), c], workers=workers) == 0
    np.testing.assert_allclose(c.reshape(6, 16), a @ b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [dtypes.int32, dtypes.int64])
def test_gather_reads_negative_indices_and_fails_on_others(dtype: DType) -> None:
    x, y = _random(5, 9), _output(27)
    nest = nests.gather(5, 9, 3, dtype=dtype)
    assert run(nest, [x.ravel(), np.array([4, -5, 0], dtype.numpy), y]) == 0
    np.testing.assert_array_equal(y.reshape(3, 9), x[[4, -5, 0]])
    for wrong in (5, -6):
        assert run(nest, [x.ravel(), np.array([0, wrong, 0], dtype.numpy), y]) == 1


@pytest.mark.parametrize("extent", [3, 9, 20])
def test_a_guarded_load_is_not_made_outside(extent: int) -> None:
    x, y = _random(extent), _output(extent + 5)
    assert run(nests.pad(extent, 2, 3), [x, y]) == 0
    np.testing.assert_array_equal(y, np.pad(x, (2, 3)))


@pytest.mark.parametrize("n", EXTENTS)
def test_an_if_inside_a_vector_loop_concerns_its_lanes(n: int) -> None:
    x, y = _random(n), _output(n)
    assert run(nests.lanes_of_two(n), [x, y]) == 0
    np.testing.assert_array_equal(y, np.where(x > 0, x, np.float32(-1)))


@pytest.mark.parametrize("prefix", [0, 3, 6])
def test_while(prefix: int) -> None:
    x, y = np.ones(6, np.float32), _output(1, np.int64)
    x[prefix:] = -1
    assert run(nests.positive_prefix(6), [x, y]) == 0
    assert y[0] == prefix


def test_in_place_when_the_arrays_are_the_same() -> None:
    x = _random(17)
    expected = np.maximum(x, 0) * 2
    assert run(nests.elementwise(17), [x, x]) == 0
    np.testing.assert_array_equal(x, expected)


def test_scratch_is_private_to_a_worker() -> None:
    x, y = nests.buffer("x", "input", 8), nests.buffer("y", "output", 8)
    s = nests.buffer("s", "scratch", 1)
    i, n = nests.loop("i", 8)
    at = (ir.ZERO,)
    nest = LoopNest("scratch", (x, y, s), (For(i, n, (Store(s, at, x(i) + 1.0), Store(y, (i,), s(*at))), "parallel"),))
    given, result = _random(8), _output(8)
    assert run(nest, [given, result], workers=4) == 0
    np.testing.assert_array_equal(result, given + 1)


def test_shared_subexpressions_are_evaluated_once() -> None:
    x, y = nests.buffer("x", "input", 3), nests.buffer("y", "output", 3)
    i, n = nests.loop("i", 3)
    value = x(i)
    for _ in range(40):
        value = (value + value) * 0.5
    given, result = _random(3), _output(3)
    assert run(LoopNest("shared", (x, y), (For(i, n, (Store(y, (i,), value),)),)), [given, result]) == 0
    np.testing.assert_array_equal(result, given)


# --- what is refused ---------------------------------------------------------------------------------------------------------------


def test_a_load_out_of_bounds_names_buffer_index_and_shape() -> None:
    with pytest.raises(VerificationError, match=r"'elementwise': input 'x'\[9\] of shape \[9\] is loaded: out of bounds"):
        run(nests.elementwise(9, shift=1), [_random(32), _output(9)])


def test_a_negative_index_is_out_of_bounds() -> None:
    with pytest.raises(VerificationError, match=r"input 'x'\[-2\] of shape \[4\]"):
        run(nests.pad(4, 2, 3, guard=False), [_random(4), _output(9)])


def test_an_unchecked_index_is_caught_when_it_is_bad() -> None:
    nest = nests.gather(5, 2, 1, checked=False)
    with pytest.raises(VerificationError, match=r"'x'\[7, 0\] of shape \[5, 2\]"):
        run(nest, [_random(10), np.array([7]), _output(2)])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_race_is_found(workers: int) -> None:
    with pytest.raises(VerificationError, match=r"output 'y'\[0\] .* race"):
        run(nests.shared_element(4), [_random(4), _output(1)], workers=workers)


def test_a_load_of_what_another_parallel_iteration_stored_is_found() -> None:
    y = nests.buffer("y", "output", 4)
    i, n = nests.loop("i", 4)
    last = ir.guarded(i > 0, y(ir.maximum(i - 1, ir.ZERO)), 0.0)
    with pytest.raises(VerificationError, match="race"):
        run(LoopNest("carried", (y,), (For(i, n, (Store(y, (i,), last),), "parallel"),)), [_output(4)])


@pytest.mark.parametrize("scope", ["scratch", "register", "output"])
def test_a_load_of_undefined_memory_is_found(scope: ir.Scope) -> None:
    held, y = nests.buffer("held", scope, 2), nests.buffer("y", "output", 1)
    alloc = (ir.Alloc(held),) if scope == "register" else ()
    body = (*alloc, Store(held, (ir.ZERO,), nests.const(1.0)), Store(y, (ir.ZERO,), held(1)))
    arguments = (y,) if scope == "register" else (held, y)
    with pytest.raises(VerificationError, match=rf"{scope} 'held'\[1\] of shape \[2\] is loaded, but nothing was stored"):
        run(LoopNest("undefined", arguments, body), [_output(2), _output(2)][: len(arguments)])


def test_registers_lose_their_content_at_alloc() -> None:
    held, y = nests.buffer("held", "register", 1), nests.buffer("y", "output", 2)
    i, n = nests.loop("i", 2)
    first = ir.If(i.eq(0), (Store(held, (ir.ZERO,), nests.const(1.0)),))
    body = (For(i, n, (ir.Alloc(held), first, Store(y, (i,), held(0)))),)
    with pytest.raises(VerificationError, match="nothing was stored"):
        run(LoopNest("stale", (y,), body), [_output(2)])


def test_an_output_must_be_stored_in_full() -> None:
    y = nests.buffer("y", "output", 3, 2)
    i, n = nests.loop("i", 3)
    with pytest.raises(VerificationError, match=r"output 'y'\[0, 1\] of shape \[3, 2\] is never stored \(3 elements"):
        run(LoopNest("half", (y,), (For(i, n, (Store(y, (i, ir.ZERO), nests.const(0.0)),)),)), [_output(6)])


def test_inputs_are_not_stored_to() -> None:
    x = nests.buffer("x", "input", 1)
    with pytest.raises(VerificationError, match="stores into input 'x'"):
        run(LoopNest("writes", (x,), (Store(x, (ir.ZERO,), nests.const(0.0)),)), [_random(1)])


@pytest.mark.parametrize(
    ("given", "message"),
    [(np.zeros(3, np.float32), "needs 4 elements"), (np.zeros(4, np.float64), "flat array"), (None, "no array was given")],
)
def test_arrays_must_fit(given: np.ndarray | None, message: str) -> None:
    with pytest.raises(VerificationError, match=message):
        run(nests.elementwise(4), [given, _output(4)])


def test_arithmetic_on_narrow_floats_is_refused() -> None:
    x, y = (nests.buffer(n, s, 1, dtype=dtypes.float16) for n, s in (("x", "input"), ("y", "output")))
    nest = LoopNest("half", (x, y), (Store(y, (ir.ZERO,), ir.Binary("add", x(0), x(0))),))
    with pytest.raises(VerificationError, match="cast to float32 first"):
        run(nest, [np.zeros(1, np.float16), np.zeros(1, np.float16)])


def test_an_assignment_that_is_no_reduction_is_refused_in_a_vector_loop() -> None:
    x, y = nests.buffer("x", "input", 4), nests.buffer("y", "output", 1)
    i, n = nests.loop("i", 4)
    last = ir.Var("last", dtypes.float32)
    body = (ir.Declare(last, nests.const(0.0)), For(i, n, (ir.Assign(last, x(i)),), "vector"), Store(y, (ir.ZERO,), last))
    with pytest.raises(VerificationError, match="not a reduction"):
        run(LoopNest("last", (x, y), body), [_random(4), _output(1)])


# --- the meaning of operations -------------------------------------------------------------------------------------------------------

INTEGERS = [d for d in dtypes.ALL if d.is_integer and d.bits >= 8]


def _edges(dtype: DType) -> np.ndarray:
    low, high = loop_values.integer_range(dtype)
    return np.array(sorted({low, low + 1, *range(max(low, -3), 4), 7, high // 2, high - 1, high}), dtype.numpy)


def _wrapped(value: int, dtype: DType) -> int:
    value &= (1 << dtype.bits) - 1
    return value - (1 << dtype.bits) if dtype.kind == "int" and value >> (dtype.bits - 1) else value


def _c_divide(a: int, b: int) -> int:
    return 0 if b == 0 else (abs(a) // abs(b)) * (1 if (a < 0) == (b < 0) else -1)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integer_arithmetic_wraps_and_divides_as_c(dtype: DType) -> None:
    meaning = {
        "add": lambda a, b: a + b,
        "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b,
        "div": _c_divide,
        "rem": lambda a, b: a - b * _c_divide(a, b) if b else 0,
        "floordiv": lambda a, b: a // b if b > 0 else None,
        "mod": lambda a, b: a % b if b > 0 else None,
        "min": min,
        "max": max,
        "and": lambda a, b: a & b,
        "or": lambda a, b: a | b,
        "xor": lambda a, b: a ^ b,
        "pow": lambda a, b: pow(a, b, 1 << dtype.bits) if b >= 0 else (a if b & 1 else 1) if abs(a) == 1 else 0,
    }
    with np.errstate(all="ignore"):
        for op, (a, b) in itertools.product(meaning, itertools.product(_edges(dtype), repeat=2)):
            expected = meaning[op](int(a), int(b))
            if expected is not None:
                actual = loop_values.binary(op, dtype)(a, b)
                assert (actual, np.asarray(actual).dtype) == (_wrapped(expected, dtype), dtype.numpy), (op, a, b)


def test_min_and_max_give_nan_when_either_operand_is_nan() -> None:
    nan, one = np.float32("nan"), np.float32(1)
    for op in ("min", "max"):
        function = loop_values.binary(op, dtypes.float32)
        assert np.isnan([function(nan, one), function(one, nan)]).all()


@pytest.mark.parametrize("source", INTEGERS, ids=str)
@pytest.mark.parametrize("to", INTEGERS, ids=str)
def test_integer_casts_wrap_or_saturate(source: DType, to: DType) -> None:
    low, high = loop_values.integer_range(to)
    for x in _edges(source):
        assert loop_values.cast(x, source, to, False) == _wrapped(int(x), to)
        assert loop_values.cast(x, source, to, True) == min(max(int(x), low), high)


@pytest.mark.parametrize("to", [*INTEGERS, dtypes.int4, dtypes.uint4, dtypes.int2, dtypes.uint2], ids=str)
def test_float_to_integer_truncates_and_saturates(to: DType) -> None:
    low, high = loop_values.integer_range(to)
    for x in np.array([0.9, -0.9, 1.5, -1.5, 1e3, -1e3, 1e20, -1e20, np.inf, -np.inf], np.float32):
        expected = min(max(int(x), low), high) if np.isfinite(x) else (high if x > 0 else low)
        assert loop_values.cast(x, dtypes.float32, to, True) == expected
        if low <= x <= high:
            assert loop_values.cast(x, dtypes.float32, to, False) == int(x)
    assert loop_values.cast(np.float32("nan"), dtypes.float32, to, True) == 0


@pytest.mark.parametrize("saturate", [False, True])
@pytest.mark.parametrize("to", [d for d in dtypes.ALL if loop_values.is_narrow(d) and d.bits >= 8], ids=str)
def test_narrow_floats_convert_as_onnx_does(to: DType, saturate: bool) -> None:
    given = np.array([0.0, 0.3, 1.0, 1.1, 2.5, 3.5, 1e-9, 500.0, 1e6, 1e30, 3e38, np.nan], np.float32)
    given = np.concatenate([given, -given[given != 0]]) if to is not dtypes.float8e8m0 else given
    with np.errstate(over="ignore"):
        if to is dtypes.float8e8m0:
            expected = onnx.numpy_helper.to_float8e8m0(given, saturate)
        else:
            expected = np.asarray(cast_to(given, to.onnx, saturate)).astype(to.numpy)
        bits = loop_values.cast(given, dtypes.float32, to, saturate)
    np.testing.assert_array_equal(bits.view(to.numpy).astype(np.float32), expected.astype(np.float32))
    wide = loop_values.cast(bits, to, dtypes.float32, False)
    np.testing.assert_array_equal(wide, expected.astype(np.float32))


def test_four_bit_integers_wrap() -> None:
    assert loop_values.constant(9, dtypes.int4) == -7
    assert loop_values.binary("add", dtypes.int4)(np.int8(7), np.int8(1)) == -8
    assert loop_values.binary("add", dtypes.uint4)(np.uint8(15), np.uint8(1)) == 0
    assert loop_values.cast(np.int64(-3), dtypes.int64, dtypes.uint2, False) == 1


def test_bitcast_keeps_the_bits() -> None:
    assert loop_values.bitcast(np.float32(1.0), dtypes.float32, dtypes.int32) == 0x3F80_0000
    assert loop_values.bitcast(np.uint8(0xFF), dtypes.uint8, dtypes.int8) == -1


def test_every_function_of_the_code_generator_has_a_meaning() -> None:
    x = np.array([1.0, 0.5], np.float32)
    with np.errstate(all="ignore"):
        for name in vecmath.UNARY:
            assert np.shape(loop_values.unary(name, dtypes.float32)(x)) == (2,)
    for name in vecmath.BINARY:
        assert loop_values.binary(name, dtypes.float32)(x, x).dtype == np.float32
