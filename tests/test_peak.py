"""The measured peak: the program is right, and the measurement is a plausible number."""

from __future__ import annotations

import llvmlite.binding as llvm
import pytest

from loopnest.codegen.target import known_names, resolve, runnable_names
from loopnest.compiler.peak import peak_gflops, peak_program
from loopnest.ir import dtypes
from loopnest.ir.errors import TargetError


@pytest.mark.parametrize("name", known_names())
@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.float64])
def test_the_loop_stays_in_registers(name: str, dtype: dtypes.DType) -> None:
    target = resolve(name)
    text, flops = peak_program(target, dtype)
    module = llvm.parse_assembly(text)
    module.triple = target.triple
    body = target.machine().emit_assembly(module).split("peak:")[1]
    fused = target.vector_registers * 3 // 4
    assert flops == 2 * fused * target.lanes(dtype.bits)
    if "x86_64" in target.triple:
        assert body.count("vfmadd") == (fused if target.fma else 0)
        assert "(%rsp)" not in body


@pytest.mark.parametrize("name", runnable_names())
def test_peak_is_plausible(name: str) -> None:
    assert 0.5 < peak_gflops(resolve(name), seconds=0.02) < 2000


def test_peak_of_a_target_that_does_not_run_here() -> None:
    foreign = [name for name in known_names() if name not in runnable_names()]
    with pytest.raises(TargetError, match="cannot run"):
        peak_gflops(resolve(foreign[0]))
