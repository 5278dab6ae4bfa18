"""The vector math library: error in ulp against double (float32) or extended precision (float64), special values, targets."""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Callable
from functools import cache

import llvmlite.binding as llvm
import numpy as np
import pytest

from loopnest.codegen import llvm as ir
from loopnest.codegen.target import resolve
from loopnest.codegen.vecmath import BINARY, UNARY

llvm.initialize_native_target()
llvm.initialize_native_asmprinter()

INF, NAN = math.inf, math.nan
Array = np.ndarray
IR_TYPE = {np.dtype(np.float32): ir.FloatType(), np.dtype(np.float64): ir.DoubleType()}


# a loop over arrays around one function


def loop_module(name: str, dtype: np.dtype, lanes: int, uses: int = 1, *, fused: bool = True) -> ir.Module:
    """``void loop(x*, y*, out*, i64 n)``: out = f(x[, y]) in steps of ``lanes`` (0: scalars), ``uses`` times a step."""
    element = IR_TYPE[dtype]
    type_ = ir.VectorType(element, lanes) if lanes else element
    module = ir.Module(fused=fused)
    pointer = ir.PointerType()
    i64 = ir.IntType(64)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer, pointer, pointer, i64]), "loop")
    x, y, out, n = function.args
    entry, body, leave = (function.append_basic_block(label) for label in ("entry", "body", "leave"))
    builder = ir.IRBuilder(entry)
    builder.branch(body)
    builder.position_at_end(body)
    i = builder.phi(i64)
    i.add_incoming(i64(0), entry)

    def at(base: ir.Value, step: int, of: ir.Type) -> ir.Value:
        return builder.gep(base, [builder.add(i, i64(step))], source_etype=of)

    for use in range(uses):
        step = use * max(lanes, 1)
        a = builder.load(at(x, step, element), typ=type_, align=dtype.itemsize)
        if name in UNARY:
            result = UNARY[name](builder, a)
        else:
            result = BINARY[name](builder, a, builder.load(at(y, step, element), typ=type_, align=dtype.itemsize))
        if result.type != type_:
            i8 = ir.IntType(8)
            result = builder.zext(result, ir.VectorType(i8, lanes) if lanes else i8)
            builder.store(result, at(out, step, i8), align=1)
        else:
            builder.store(result, at(out, step, element), align=dtype.itemsize)
    following = builder.add(i, i64(max(lanes, 1) * uses))
    i.add_incoming(following, builder.block)
    builder.cbranch(builder.icmp_signed("<", following, n), body, leave)
    builder.position_at_end(leave)
    builder.ret_void()
    return module


def optimized(module: ir.Module, machine: llvm.TargetMachine) -> llvm.ModuleRef:
    parsed = llvm.parse_assembly(str(module))
    parsed.triple = machine.triple
    parsed.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(parsed, builder)
    return parsed


def host_machine(isa: str) -> llvm.TargetMachine:
    target = llvm.Target.from_default_triple()
    if isa == "host":
        features = llvm.get_host_cpu_features().flatten()
        return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=3)
    return target.create_target_machine(cpu="x86-64", opt=3)


@cache
def compiled(name: str, dtype: np.dtype, lanes: int, isa: str) -> Callable[[Array, Array], Array]:
    machine = host_machine(isa)
    module = loop_module(name, dtype, lanes, fused=isa == "host" and resolve("cpu").fma)
    engine = llvm.create_mcjit_compiler(optimized(module, machine), machine)
    engine.finalize_object()
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    loop = prototype(engine.get_function_address("loop"))

    def run(x: Array, y: Array) -> Array:
        size = len(x)
        step = max(lanes, 1)
        padded = -(-size // step) * step
        x, y = (np.concatenate([v, np.ones(padded - size, dtype)]).astype(dtype) for v in (x, y))
        out = np.zeros(padded, np.uint8 if name in ("isnan", "isinf") else dtype)
        loop(x.ctypes.data, y.ctypes.data, out.ctypes.data, padded)
        return out[:size]

    run.engine = engine  # type: ignore[attr-defined]  # the machine code lives as long as the function
    return run


# ulp


def ulp_error(got: Array, wanted: Array, least_unit: Array | float = 0.0) -> Array:
    """|got - wanted| in units in the last place of ``wanted`` in got's format, the unit being at least ``least_unit``.

    0 where both are NaN or the same infinity, inf where only one is. An infinity is right within 2^-22 of the largest number.
    """
    info = np.finfo(got.dtype)
    with np.errstate(all="ignore"):
        rounded = wanted.astype(got.dtype)
        exponent = np.frexp(np.abs(wanted))[1] - 1
        unit = np.ldexp(wanted.dtype.type(1), np.maximum(exponent, info.minexp) - info.nmant)
        unit = np.maximum(unit, least_unit)
        error = (np.abs(got.astype(wanted.dtype) - wanted) / unit).astype(np.float64)
        same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
        finite = np.isfinite(got) & np.isfinite(wanted)
        beyond = np.isinf(got) & np.isfinite(wanted) & (np.abs(wanted) > float(info.max) * (1 - 2.0**-22))
    return np.where(finite, error, np.where(same | beyond, 0.0, INF))


# references, in double for float32 and in extended precision for float64

vector_erf = np.vectorize(math.erf, otypes=[np.float64])


def sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def mish(x: Array) -> Array:
    n = np.expm1(2 * softplus(x))
    return np.where(np.isinf(n), x, x * (n / (n + 2)))


REFERENCE: dict[str, Callable[..., Array]] = {
    "exp": np.exp,
    "exp_down": np.exp,
    "exp2_down": np.exp2,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "silu": lambda x: x * sigmoid(x),
    "softplus": softplus,
    "mish": mish,
    "erf": vector_erf,
    "gelu": lambda x: 0.5 * x * (1 + vector_erf(x / np.sqrt(2.0))),
    "gelu_tanh": lambda x: x * sigmoid(2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)),
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "reciprocal": lambda x: 1 / x,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
    "trunc": np.trunc,
    "abs": np.abs,
    "neg": np.negative,
    "sign": np.sign,
    "relu": lambda x: np.maximum(x, 0),
    "isnan": np.isnan,
    "isinf": np.isinf,
    "pow": np.power,
    "fmod": np.fmod,
    "copysign": np.copysign,
    "fmax": np.maximum,
    "fmin": np.minimum,
    "max_fast": np.maximum,
    "min_fast": np.minimum,
}

# largest error in ulp for (float32, float64)
BOUNDS: dict[str, tuple[float, float]] = {
    "exp": (1.5, 1.5),
    "exp_down": (5, 1.5),
    "exp2_down": (2.5, 1.5),
    "expm1": (2, 2.5),
    "log": (1.5, 1.5),
    "log1p": (2, 1.5),
    "tanh": (4, 3),
    "sigmoid": (5, 3),
    "silu": (6, 4),
    "softplus": (3, 3),
    "mish": (5, 5),
    "erf": (4, 1),
    "gelu": (2, 2),
    "gelu_tanh": (4, 4),
    "sin": (2, 1),
    "cos": (2, 1),
    "tan": (4, 1),
    "asin": (2.5, 1),
    "acos": (2.5, 1),
    "atan": (2.5, 1),
    "sinh": (3, 3),
    "cosh": (2, 2),
    "asinh": (3, 3),
    "acosh": (3, 3),
    "atanh": (3, 3),
    "rsqrt": (1.5, 1.5),
    "sqrt": (0.5, 0.5),
    "reciprocal": (0.5, 0.5),
    "pow": (0.6, 1),
}
"""Functions that are not here are exact."""


def slack(name: str, x: Array, wanted: Array) -> Array:
    """What one "ulp" is at least, for the functions whose bound is not relative to the result."""
    info = np.finfo(x.dtype)
    magnitude = np.abs(x).astype(wanted.dtype)
    if name == "gelu":
        return magnitude * info.eps
    if name == "mish":
        return magnitude * info.smallest_subnormal
    if name == "silu":
        return magnitude * info.tiny
    if name == "gelu_tanh":
        inner = 1.6 * magnitude * (1 + 0.045 * magnitude**2)
        return np.abs(wanted) * info.eps * inner + magnitude * info.tiny
    if name in ("exp_down", "exp2_down", "sigmoid"):
        return np.full_like(wanted, info.tiny)
    return np.zeros_like(wanted)


def samples(name: str, dtype: np.dtype) -> tuple[Array, Array]:
    """Bit patterns from everywhere (all binades, NaNs), the ranges where functions live, special values in all pairs."""
    rng = np.random.default_rng(7)
    count = 1 << 15
    special = special_values(dtype)
    if dtype == np.float32:
        bits = [rng.integers(0, 1 << 32, 2 * count, dtype=np.uint64).astype(np.uint32).view(np.float32) for _ in range(2)]
        wide = 110.0
    else:
        bits = [rng.integers(0, 1 << 64, 2 * count, dtype=np.uint64).view(np.float64) for _ in range(2)]
        wide = 760.0
    columns = []
    for column, pairs in zip(bits, np.meshgrid(special, special), strict=True):
        ranges = [rng.uniform(-r, r, count).astype(dtype) for r in (1, 12, wide)]
        near_one = (1 + rng.uniform(-0.5, 1, count)).astype(dtype)
        columns.append(np.concatenate([column, *ranges, near_one, pairs.ravel()]))
    x, y = columns
    if name == "pow":
        y = np.concatenate([y, np.rint(rng.uniform(-9, 9, count)).astype(dtype)])
        x = np.concatenate([x, rng.uniform(-50, 50, count).astype(dtype)])
    if name in ("exp_down", "exp2_down"):
        x = -np.abs(x)
    if name in ("max_fast", "min_fast"):
        y = np.where(np.isnan(y), dtype.type(0), y)
    return x, y


def special_values(dtype: np.dtype) -> Array:
    info = np.finfo(dtype)
    positive = [0, info.smallest_subnormal, info.tiny, info.eps, 0.5, 1, 1.5, 2, 3, 88.8, 1e6, 2.0**24 + 2, info.max, INF, NAN]
    return np.array([s * float(v) for v in positive for s in (1, -1)]).astype(dtype)


@cache
def cases(name: str, dtype: np.dtype) -> tuple[Array, Array, Array]:
    x, y = samples(name, dtype)
    wide = np.float64 if dtype == np.float32 or name in ("erf", "gelu") else np.longdouble
    reference = REFERENCE[name]
    with np.errstate(all="ignore"):
        return x, y, reference(x.astype(wide)) if name in UNARY else reference(x.astype(wide), y.astype(wide))


F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
CONFIGURATIONS = [(F32, 8, "host"), (F32, 4, "sse2"), (F32, 0, "host"), (F32, 16, "host"), (F64, 4, "host"), (F64, 0, "sse2")]


@pytest.mark.parametrize("dtype, lanes, isa", CONFIGURATIONS, ids=str)
@pytest.mark.parametrize("name", [*UNARY, *BINARY])
def test_error_is_within_its_bound(name: str, dtype: np.dtype, lanes: int, isa: str) -> None:
    x, y, wanted = cases(name, dtype)
    got = compiled(name, dtype, lanes, isa)(x, y)
    if got.dtype == np.uint8:
        assert np.array_equal(got != 0, wanted)
        return
    bound = BOUNDS.get(name, (0.0, 0.0))[0 if dtype == np.float32 else 1]
    with np.errstate(all="ignore"):
        error = ulp_error(got, wanted, slack(name, x, wanted))
    worst = int(np.argmax(error))
    assert error[worst] <= bound, (
        f"{name}({x[worst]!r}, {y[worst]!r}) = {got[worst]!r}, not {wanted[worst]!r}: {error[worst]} ulp"
    )


@pytest.mark.parametrize("name, bound", [("exp_down", 3), ("sigmoid", 4), ("silu", 5)])
@pytest.mark.parametrize("isa", ["host", "sse2"])
def test_exponentials_are_better_where_they_matter(name: str, bound: float, isa: str) -> None:
    x = np.linspace(-32, 0 if name == "exp_down" else 32, 1 << 18, dtype=np.float32)
    assert ulp_error(compiled(name, F32, 8, isa)(x, x), REFERENCE[name](x.astype(np.float64))).max() <= bound


@pytest.mark.parametrize("name", ["erf", "tanh"])
@pytest.mark.parametrize("isa", ["host", "sse2"])
def test_never_exceeds_one_and_reaches_it(name: str, isa: str) -> None:
    x = np.linspace(-12, 12, 1 << 18, dtype=np.float32)
    y = compiled(name, F32, 8, isa)(x, x)
    assert y.max() == 1.0 and y.min() == -1.0
    assert np.all(y[x > 9] == 1.0)


ODD = [
    "expm1",
    "log1p",
    "tanh",
    "erf",
    "sin",
    "tan",
    "asin",
    "atan",
    "sinh",
    "asinh",
    "atanh",
    "floor",
    "ceil",
    "round",
    "trunc",
    "sqrt",
]


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("dtype, lanes", [(F32, 8), (F64, 4)], ids=str)
def test_keeps_the_sign_of_zero(name: str, dtype: np.dtype, lanes: int) -> None:
    zeros = np.array([0.0, -0.0] * 4, dtype)
    assert np.array_equal(np.signbit(compiled(name, dtype, lanes, "host")(zeros, zeros)), np.signbit(zeros))


@pytest.mark.parametrize("name, reference", [("pow", np.power), ("fmod", np.fmod)])
def test_signs_of_zeros_and_infinities_of_pairs(name: str, reference: Callable[[Array, Array], Array]) -> None:
    x, y = (v.ravel() for v in np.meshgrid(special_values(F32), special_values(F32)))
    got = compiled(name, F32, 8, "host")(x, y)
    with np.errstate(all="ignore"):
        wanted = reference(x, y)
    assert np.array_equal(np.signbit(got)[~np.isnan(wanted)], np.signbit(wanted)[~np.isnan(wanted)])


def test_large_arguments_of_sine_come_out_right_among_small_ones() -> None:
    # the last is the float32 nearest to a multiple of pi/2
    x = np.array([1e-30, 3e38, -0.0, 1e22, -1e7, 0.5, INF, 16367173 * 2.0**72], np.float32)
    with np.errstate(invalid="ignore"):
        error = ulp_error(compiled("sin", F32, 8, "host")(x, x), np.sin(x.astype(np.float64)))
    assert error.max() <= 2


# code for other targets

TARGETS = {
    "sse2": ("x86_64-unknown-linux-gnu", "x86-64", 4),
    "avx2": ("x86_64-unknown-linux-gnu", "x86-64-v3", 8),
    "avx512": ("x86_64-unknown-linux-gnu", "skylake-avx512", 16),
    "neon": ("aarch64-unknown-linux-gnu", "generic", 4),
}
FUSED = {"avx2": r"\bvfn?m(add|sub)\d+ps\b", "avx512": r"\bvfn?m(add|sub)\d+ps\b.*zmm", "neon": r"\bfml[as]\b"}
LIBM_OF_ROUNDING = {"floorf", "ceilf", "truncf", "rintf", "rint"}


def machine_of(target: str) -> llvm.TargetMachine:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    triple, cpu, _ = TARGETS[target]
    return llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, opt=3)


def assembly(name: str, dtype: np.dtype, lanes: int, target: str) -> str:
    machine = machine_of(target)
    return machine.emit_assembly(optimized(loop_module(name, dtype, lanes, fused=target in FUSED), machine))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", [*UNARY, *BINARY])
def test_float32_calls_no_libm(name: str, target: str) -> None:
    text = assembly(name, F32, TARGETS[target][2], target)
    called = set(re.findall(r"^\s+(?:callq?|bl|jmp|b)\s+\*?(\w+)", text, re.MULTILINE)) - {"loop"}
    allowed = LIBM_OF_ROUNDING if target == "sse2" else set()
    assert called <= allowed | ({"fmodf"} if name == "fmod" else set())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["exp", "log", "sin", "pow", "round"])
def test_float64_compiles(name: str, target: str) -> None:
    assert "loop:" in assembly(name, F64, TARGETS[target][2] // 2, target)


@pytest.mark.parametrize("target", FUSED)
@pytest.mark.parametrize("name", ["exp", "log", "tanh", "erf", "sin"])
def test_products_and_sums_are_fused_where_the_target_can(name: str, target: str) -> None:
    text = assembly(name, F32, TARGETS[target][2], target)
    assert len(re.findall(FUSED[target], text)) >= 5


def test_a_function_is_emitted_once_per_module() -> None:
    module = str(loop_module("gelu", F32, 8, uses=12))
    assert module.count("define internal") == 1
    assert module.count("call <8 x float> @loopnest.gelu.v8f32") == 12


@pytest.mark.parametrize("name, uses, inlined", [("gelu", 12, True), ("sin", 1, True), ("sin", 12, False)])
def test_long_functions_are_not_inlined_many_times(name: str, uses: int, inlined: bool) -> None:
    module = optimized(loop_module(name, F32, 8, uses), host_machine("host"))
    assert ("define internal" not in str(module)) == inlined


def test_any_number_of_lanes() -> None:
    x = np.linspace(-4, 4, 3 * 41, dtype=np.float32)
    for name in ("exp", "sin", "fmod"):
        odd, scalar = (compiled(name, F32, lanes, "host")(x, np.full_like(x, 0.7)) for lanes in (3, 0))
        assert np.array_equal(odd, scalar)
