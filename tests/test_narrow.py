"""Narrow floats: every code widened, dense and edge float32 values narrowed, against ml_dtypes and ONNX's Cast."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache, partial

import llvmlite.binding as llvm
import numpy as np
import onnx
import pytest
from onnx.reference.ops.op_cast import cast_to

from loopnest.codegen import llvm as ll
from loopnest.codegen import narrow, target
from loopnest.codegen.numbering import Builder
from loopnest.ir import dtypes
from loopnest.ir.dtypes import DType

NARROW = [dtype for dtype in dtypes.ALL if narrow.is_narrow(dtype)]
FLOAT8 = [dtype for dtype in NARROW if dtype.bits == 8 and dtype is not dtypes.float8e8m0]
LANES = 8
F32 = ll.FloatType()


def _bits_type(dtype: DType) -> ll.IntType:
    return ll.IntType(max(8, dtype.bits))


def _module(
    dtype: DType,
    lanes: int,
    emit: Callable[[ll.IRBuilder, ll.Value], ll.Value],
    source: ll.Type,
    to: ll.Type,
    make: Callable[[ll.Block], ll.IRBuilder] = ll.IRBuilder,
) -> str:
    """``void f(source* in, to* out, i64 n)``: ``emit`` applied ``lanes`` elements at a time."""
    module = ll.Module(name=f"{dtype.name}_{lanes}")
    i64 = ll.IntType(64)
    wide = (lambda t: ll.VectorType(t, lanes)) if lanes > 1 else (lambda t: t)
    function = ll.Function(module, ll.FunctionType(ll.VoidType(), [ll.PointerType(), ll.PointerType(), i64]), "f")
    entry, loop, end = (function.append_basic_block(name) for name in ("entry", "loop", "end"))
    builder = make(entry)
    builder.branch(loop)
    builder.position_at_end(loop)
    i = builder.phi(i64)
    i.add_incoming(i64(0), entry)
    given = builder.gep(function.args[0], [i], source_etype=source)
    out = builder.gep(function.args[1], [i], source_etype=to)
    builder.store(emit(builder, builder.load(given, align=1, typ=wide(source))), out, align=1)
    following = builder.add(i, i64(lanes))
    i.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", following, function.args[2]), loop, end)
    builder.position_at_end(end)
    builder.ret_void()
    return str(module)


def _widening(dtype: DType, lanes: int) -> str:
    return _module(dtype, lanes, lambda b, v: narrow.widen(b, v, dtype), _bits_type(dtype), F32)


def _narrowing(dtype: DType, lanes: int, saturate: bool) -> str:
    return _module(dtype, lanes, lambda b, v: narrow.narrow(b, v, dtype, saturate=saturate), F32, _bits_type(dtype))


@cache
def _engine(text: str) -> tuple[object, Callable[..., None]]:
    module = llvm.parse_assembly(text)
    module.verify()
    engine = llvm.create_mcjit_compiler(module, target.resolve("cpu").machine())
    engine.finalize_object()
    address = engine.get_function_address("f")
    return engine, ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(address)


def _run(text: str, given: np.ndarray, to: np.dtype) -> np.ndarray:
    padded = np.concatenate([given, given[: -len(given) % LANES]])
    out = np.empty(len(padded), to)
    _engine(text)[1](padded.ctypes.data, out.ctypes.data, len(padded))
    return out[: len(given)]


def _unsigned(dtype: DType) -> np.dtype:
    return np.dtype(f"u{dtype.itemsize}")


def _every_value(dtype: DType) -> np.ndarray:
    return np.arange(1 << dtype.bits, dtype=_unsigned(dtype)).view(dtype.numpy).astype(np.float32)


@cache
def _floats() -> np.ndarray:
    """Random float32 bit patterns, dense random exponents around 1, and each narrow value, its neighbours and midpoints, both signs."""
    rng = np.random.default_rng(0)
    parts = [rng.integers(0, 1 << 32, 1 << 16, dtype=np.uint32).view(np.float32)]
    parts.append((rng.standard_normal(1 << 16) * np.exp2(rng.uniform(-30, 20, 1 << 16))).astype(np.float32))
    for dtype in NARROW:
        values = _every_value(dtype)
        values = np.unique(values[np.isfinite(values)])
        with np.errstate(over="ignore"):
            middles = values[:-1] + (values[1:] - values[:-1]) / np.float32(2)
        for edge in (values, middles):
            parts += [edge, np.nextafter(edge, np.float32(np.inf)), np.nextafter(edge, np.float32(-np.inf))]
    parts.append(np.array([0.0, np.inf, np.nan, 1e-45, 3.4e38], np.float32))
    values = np.concatenate(parts)
    return np.concatenate([values, -values])


def _assert_same_codes(actual: np.ndarray, expected: np.ndarray, given: np.ndarray) -> None:
    """The same bits, but for NaNs, of which any will do."""
    with np.errstate(invalid="ignore"):
        both_nan = np.isnan(actual.astype(np.float32)) & np.isnan(expected.astype(np.float32))
    bits = _unsigned(dtypes.from_numpy(expected.dtype))
    wrong = np.flatnonzero((actual.view(bits) != expected.view(bits)) & ~both_nan)
    assert not len(wrong), [(given[i], actual[i], expected[i]) for i in wrong[:5]]


def test_the_narrow_dtypes_are_those_computed_on_in_float32() -> None:
    assert {d.name for d in NARROW} == {d.name for d in dtypes.ALL if d.kind == "float" and d.bits < 32}


@pytest.mark.parametrize("lanes", [1, LANES])
@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_widening_is_exact_for_every_code(dtype: DType, lanes: int) -> None:
    codes = np.arange(1 << dtype.bits, dtype=_unsigned(dtype))
    actual = _run(_widening(dtype, lanes), codes, np.dtype(np.float32))
    expected = codes.view(dtype.numpy).astype(np.float32)
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(np.signbit(actual[actual == 0]), np.signbit(expected[expected == 0]))


@pytest.mark.parametrize("saturate", [False, True], ids=["overflow", "saturate"])
@pytest.mark.parametrize("lanes", [1, LANES])
@pytest.mark.parametrize("dtype", [dtypes.float16, dtypes.bfloat16, *FLOAT8], ids=str)
def test_narrowing_rounds_and_overflows_as_onnx_cast(dtype: DType, lanes: int, saturate: bool) -> None:
    given = _floats()
    actual = _run(_narrowing(dtype, lanes, saturate), given, dtype.numpy)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = np.asarray(cast_to(given, dtype.onnx, saturate=saturate))
    _assert_same_codes(actual, expected, given)


def _by_instruction(lanes: int, widens: bool) -> str:
    half = dtypes.float16
    make = partial(Builder, half=True)
    if widens:
        return _module(half, lanes, lambda b, v: narrow.widen(b, v, half), _bits_type(half), F32, make)
    return _module(half, lanes, lambda b, v: narrow.narrow(b, v, half, saturate=False), F32, _bits_type(half), make)


@pytest.mark.skipif("f16c" not in target.resolve("cpu").requires, reason="this processor does not convert float16")
@pytest.mark.parametrize("lanes", [1, LANES])
def test_float16_by_instructions(lanes: int) -> None:
    """Subnormals, ties and overflow are those of the other way."""
    codes, given = np.arange(1 << 16, dtype=np.uint16), _floats()
    actual = _run(_by_instruction(lanes, True), codes, np.dtype(np.float32))
    expected = codes.view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(np.signbit(actual), np.signbit(expected))
    with np.errstate(over="ignore", invalid="ignore"):
        _assert_same_codes(_run(_by_instruction(lanes, False), given, np.dtype(np.float16)), given.astype(np.float16), given)


@pytest.mark.parametrize("lanes", [1, LANES])
def test_float4_saturates_and_makes_nan_zero(lanes: int) -> None:
    given = _floats()
    actual = _run(_narrowing(dtypes.float4e2m1, lanes, False), given, dtypes.float4e2m1.numpy)
    nan = np.isnan(given)
    with np.errstate(invalid="ignore"):
        expected = given.astype(dtypes.float4e2m1.numpy)
    _assert_same_codes(actual[~nan], expected[~nan], given[~nan])
    assert not actual[nan].astype(np.float32).any()


@pytest.mark.parametrize("saturate", [False, True], ids=["overflow", "saturate"])
def test_float8e8m0_rounds_up_as_onnx_cast(saturate: bool) -> None:
    given = np.abs(_floats())
    actual = _run(_narrowing(dtypes.float8e8m0, LANES, saturate), given, dtypes.float8e8m0.numpy)
    normal = np.isfinite(given) & (given >= np.finfo(np.float32).tiny)
    expected = onnx.numpy_helper.to_float8e8m0(given, saturate, "up")
    _assert_same_codes(actual[normal], expected[normal], given[normal])
    low = given < np.finfo(np.float32).tiny
    np.testing.assert_array_equal(actual[low].view(np.uint8), given[low] > np.float32(2.0**-127))
    assert np.isnan(actual[np.isnan(given)].astype(np.float32)).all()
    infinite = actual[np.isinf(given)].view(np.uint8)
    assert set(infinite) == {0xFE if saturate else 0xFF}


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_narrowing_undoes_widening(dtype: DType) -> None:
    given = _every_value(dtype)
    actual = _run(_narrowing(dtype, LANES, False), given, dtype.numpy)
    _assert_same_codes(actual, np.arange(1 << dtype.bits, dtype=_unsigned(dtype)).view(dtype.numpy), given)


@pytest.mark.parametrize("name", ["cpu-sse2", "cpu-avx2", "cpu-avx512"])
@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_no_conversion_calls_a_library(dtype: DType, name: str) -> None:
    machine = target.resolve(name)
    for text in (_widening(dtype, LANES), _narrowing(dtype, 1, True), _narrowing(dtype, LANES, False)):
        module = llvm.parse_assembly(text)
        module.triple = machine.triple
        assembly = machine.machine().emit_assembly(module)
        assert "call" not in assembly
        assert "hfsf" not in assembly
