"""The writer of LLVM's assembly language: what it writes LLVM reads, as it is meant."""

from __future__ import annotations

import math

import llvmlite.binding as llvm
import pytest

from loopnest.codegen import llvm as ll

F32, F64, I1, I8, I64 = ll.FloatType(), ll.DoubleType(), ll.IntType(1), ll.IntType(8), ll.IntType(64)


def parsed(module: ll.Module) -> str:
    reference = llvm.parse_assembly(str(module))
    reference.verify()
    return str(reference)


def returning(value: ll.Value) -> ll.Module:
    module = ll.Module("constants")
    ll.IRBuilder(ll.Function(module, ll.FunctionType(value.type, []), "f").append_basic_block()).ret(value)
    return module


def test_equal_types_are_one_object() -> None:
    assert ll.VectorType(ll.IntType(8), 4) is ll.VectorType(I8, 4) is not ll.VectorType(I8, 8)
    assert ll.FunctionType(I64, [F32, F64]) is ll.FunctionType(ll.IntType(64), (ll.FloatType(), ll.DoubleType()))


@pytest.mark.parametrize(
    ("constant", "text"),
    [
        (F32(0.5), "float 5.000000e-01"),
        (F32(0.1), "float 0x3FB99999A0000000"),
        (F32(-0.0), "float -0.000000e+00"),
        (F32(math.inf), "float 0x7FF0000000000000"),
        (F64(0.1), "double 1.000000e-01"),
        (F64(3), "double 3.000000e+00"),
        (I64(-(1 << 63)), "i64 -9223372036854775808"),
        (I1(True), "i1 true"),
        (I8(None), "i8 0"),
        (ll.Constant(ll.VectorType(I8, 2), [1, I8(2)]), "<2 x i8> <i8 1, i8 2>"),
        (ll.Constant(ll.VectorType(F32, 2), None), "<2 x float> zeroinitializer"),
        (ll.Constant(I8, ll.Undefined), "i8 undef"),
    ],
)
def test_constants_keep_every_bit(constant: ll.Constant, text: str) -> None:
    assert f"ret {text}\n" in parsed(returning(constant))


@pytest.mark.parametrize("value", [math.nan, -math.nan])
def test_nan_is_nan(value: float) -> None:
    assert "ret double 0x7FF8" in parsed(returning(F64(value))).replace("0xFFF8", "0x7FF8")


def test_names_may_be_anything_and_are_never_the_same() -> None:
    module = ll.Module("names")
    names = ["x", "x", "v1", "1", 'a "b" \\ c', "größe", "x.1", ""]
    function = ll.Function(module, ll.FunctionType(I64, [I64] * len(names)), 'the "kernel"/ö')
    for argument, name in zip(function.args, names, strict=True):
        argument.text = function.unique(name)
    assert len({argument.text for argument in function.args}) == len(names)
    b = ll.IRBuilder(function.append_basic_block("größe x"))
    total: ll.Value = I64(0)
    for argument in function.args:
        cell = b.alloca(I64, "x y")
        b.store(argument, cell)
        total = b.add(total, b.load(cell, name='"'))
    b.ret(total)
    assert parsed(module).count("alloca i64") == len(names)


def test_variables_are_made_once_wherever_the_builder_is() -> None:
    module = ll.Module("cells")
    function = ll.Function(module, ll.FunctionType(F32, [I1]), "f")
    b = ll.IRBuilder(function.append_basic_block("entry"))
    with b.if_else(function.args[0]) as (then, orelse):
        with then:
            cell = b.alloca(F32, "inside")
        with orelse:
            b.ret(F32(1.0))
    b.store(F32(2.0), cell)
    b.ret(b.load(cell))
    lines = parsed(module).splitlines()
    entry = next(i for i, line in enumerate(lines) if line.startswith("entry"))
    assert "alloca float" in lines[entry + 1]
    assert sum("br label" in line for line in lines) == 1  # what has returned does not go on


def test_branches_say_what_they_know() -> None:
    module = ll.Module("branches")
    function = ll.Function(module, ll.FunctionType(I64, [I64]), "f")
    b = ll.IRBuilder(function.append_basic_block("entry"))
    before, head, after = b.block, b.append_basic_block("head"), b.append_basic_block("after")
    b.branch(head)
    b.position_at_end(head)
    i = b.phi(I64, "i")
    i.add_incoming(I64(0), before)
    with b.if_then(b.icmp_unsigned(">", i, I64(9)), unlikely=True):
        b.ret(i)
    following = b.add(i, I64(1), ("nsw",))
    i.add_incoming(following, b.block)
    b.cbranch(b.icmp_signed("<", following, function.args[0]), head, after, rolled=True)
    b.position_at_end(after)
    b.ret(following)
    text = parsed(module)
    assert "llvm.loop.unroll.disable" in text
    assert '"branch_weights", i32 1, i32 99' in text
    assert "add nsw i64" in text
