"""The builder that makes no index twice."""

from __future__ import annotations

import llvmlite.binding as llvm
import pytest

from loopnest.codegen import llvm as ll
from loopnest.codegen.numbering import Builder

I64 = ll.IntType(64)


@pytest.fixture
def function() -> ll.Function:
    return ll.Function(ll.Module(), ll.FunctionType(I64, [I64, I64, ll.PointerType()]), "f")


def test_the_same_operation_is_one_instruction(function: ll.Function) -> None:
    b = Builder(function.append_basic_block())
    x, y, pointer = function.args
    assert b.add(x, y) is b.add(x, y)
    assert b.mul(x, I64(3)) is b.mul(I64(3), x)
    assert b.sub(x, y) is not b.sub(y, x)
    assert b.udiv(x, y) is b.udiv(x, y)
    assert b.urem(x, y) is not b.udiv(x, y)
    assert b.gep(pointer, [x], source_etype=I64) is b.gep(pointer, [x], source_etype=I64)
    assert b.gep(pointer, [x], source_etype=I64) is not b.gep(pointer, [x], source_etype=ll.IntType(8))
    assert b.add(x, y, flags=("nsw",)) is not b.add(x, y)
    narrow = b.trunc(x, ll.IntType(32))
    assert b.add(narrow, ll.IntType(32)(0)) is not narrow  # other widths are left alone


def test_constants_are_folded(function: ll.Function) -> None:
    b = Builder(function.append_basic_block())
    x = function.args[0]
    assert b.add(x, I64(0)) is b.add(I64(0), x) is b.mul(I64(1), x) is b.sub(x, I64(0)) is b.udiv(x, I64(1)) is x
    assert b.mul(x, I64(0)).constant == 0
    assert b.sub(I64(0), x) is not x
    assert [b.add(I64(2), I64(3)).constant, b.sub(I64(2), I64(3)).constant, b.mul(I64(2), I64(3)).constant] == [5, -1, 6]
    assert b.add(I64((1 << 63) - 1), I64(1)).constant == -(1 << 63)


def test_what_is_in_one_branch_is_not_used_in_another(function: ll.Function) -> None:
    b = Builder(function.append_basic_block("entry"))
    x, y, _ = function.args
    before = b.add(x, y)
    with b.if_then(b.icmp_signed("<", x, y)):
        assert b.add(x, y) is before
        inside = b.mul(x, y)
    after = b.mul(x, y)
    assert after is not inside
    first, second = function.append_basic_block(), function.append_basic_block()
    b.cbranch(b.icmp_signed("<", y, x), first, second)
    b.position_at_end(first)
    left = b.mul(x, y)
    b.branch(second)
    b.position_at_end(second)
    assert left is not after  # nobody said that there is one way only
    b.ret(b.mul(x, y))
    llvm.parse_assembly(str(function.module)).verify()
