"""The builder that makes no index twice."""

from __future__ import annotations

from ctypes import CFUNCTYPE, c_uint64

import llvmlite.binding as llvm
import numpy as np
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


def test_constants_that_are_added_go_outwards(function: ll.Function) -> None:
    b = Builder(function.append_basic_block())
    x, y, pointer = function.args
    offset = b.add(b.mul(b.add(x, I64(3)), I64(8)), b.sub(y, I64(2)))
    addresses = [b.gep(pointer, [b.add(offset, I64(i))], source_etype=ll.FloatType()) for i in range(4)]
    assert len({a.text for a in addresses}) == 4
    assert function.instructions == 3 + 4  # 8 * x, + y, the address; each other one is so many bytes further


def test_a_sum_is_made_where_it_is_needed(function: ll.Function) -> None:
    b = Builder(function.append_basic_block("entry"))
    x, y, _ = function.args
    above = b.add(x, I64(1))
    with b.if_then(b.icmp_signed("<", x, y)):
        b.mul(above, y)  # made in a branch,
    b.ret(b.mul(above, x))  # and again behind it
    llvm.parse_assembly(str(function.module)).verify()


def test_a_sum_that_a_loop_begins_with_is_made_before_it(function: ll.Function) -> None:
    b = Builder(function.append_basic_block("entry"))
    x, y, _ = function.args
    before, head, after = b.block, function.append_basic_block("head"), function.append_basic_block("after")
    b.branch(head)
    b.position_at_end(head)
    phi = b.phi(I64)
    phi.add_incoming(b.add(x, I64(1)), before)
    phi.add_incoming(b.add(phi, I64(1)), head)
    b.cbranch(b.icmp_signed("<", phi, y), head, after)
    b.position_at_end(after)
    b.ret(phi)
    llvm.parse_assembly(str(function.module)).verify()
    assert len(before.lines) == 2


@pytest.mark.parametrize("seed", range(20))
def test_arithmetic_is_that_of_a_ring(seed: int) -> None:
    """Random expressions against Python's integers modulo 2^64, of numbers that wrap."""
    rng = np.random.default_rng(seed)
    function = ll.Function(ll.Module(), ll.FunctionType(I64, [I64, I64]), "f")
    b = Builder(function.append_basic_block())
    arguments = [int(n) for n in rng.integers(0, 1 << 64, 2, np.uint64)]
    known: list[tuple[ll.Value, int]] = list(zip(function.args, arguments, strict=True))
    known += [(I64(n), n) for n in (0, 1, -1, 7, -(1 << 63), (1 << 62) + 5)]
    for _ in range(40):
        (x, a), (y, c) = (known[i] for i in rng.integers(len(known), size=2))
        op = str(rng.choice(["add", "sub", "mul", "gep"]))
        if op == "gep":
            base = b.insert(ll.PointerType(), f"inttoptr {x} to ptr")
            address = b.gep(base, [y], source_etype=ll.DoubleType())
            known.append((b.insert(I64, f"ptrtoint {address} to i64"), a + 8 * c))
        else:
            known.append((getattr(b, op)(x, y), {"add": a + c, "sub": a - c, "mul": a * c}[op]))
    total, expected = known[0]
    for value, number in known[1:]:
        total, expected = b.xor(total, value), (expected ^ number) % (1 << 64)
    b.ret(total)
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    engine = llvm.create_mcjit_compiler(
        llvm.parse_assembly(str(function.module)), llvm.Target.from_default_triple().create_target_machine()
    )
    compiled = CFUNCTYPE(c_uint64, c_uint64, c_uint64)(engine.get_function_address("f"))
    assert compiled(*arguments) == expected
