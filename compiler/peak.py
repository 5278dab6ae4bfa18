"""What one core of this machine can do at most, measured: independent fused multiply-adds in registers, nothing else.

The loop keeps more accumulators than latency x throughput of any known core needs, and touches no memory. On processors without FMA
it is a multiply and an add, which is what kernels use there.
"""

from __future__ import annotations

import ctypes
import time

import llvmlite.binding as llvm

from ..codegen.target import Target, resolve
from ..ir import dtypes
from ..ir.dtypes import DType

_TYPES = {"float32": "float", "float64": "double"}


def peak_program(target: Target, dtype: DType = dtypes.float32) -> tuple[str, int]:
    """LLVM text of ``void peak(T* data, i64 count)`` and the floating-point operations of one iteration.

    ``data`` holds two vectors, the factor and the addend; the sum of the accumulators is stored over the first.
    """
    lanes, accumulators = target.lanes(dtype.bits), target.vector_registers * 3 // 4
    vector, suffix = f"<{lanes} x {_TYPES[dtype.name]}>", f"v{lanes}f{dtype.bits}"
    numbers = range(accumulators)
    phis = "".join(f"  %a{n} = phi {vector} [ %factor, %entry ], [ %b{n}, %loop ]\n" for n in numbers)
    if target.fma:
        call = f"call {vector} @llvm.fma.{suffix}({vector} %a{{n}}, {vector} %factor, {vector} %addend)"
        steps = "".join(f"  %b{n} = {call.format(n=n)}\n" for n in numbers)
    else:
        steps = "".join(f"  %p{n} = fmul {vector} %a{n}, %factor\n  %b{n} = fadd {vector} %p{n}, %addend\n" for n in numbers)
    sums = "".join(f"  %s{n + 1} = fadd {vector} %s{n}, %b{n}\n" for n in numbers)
    text = f"""
declare {vector} @llvm.fma.{suffix}({vector}, {vector}, {vector})
define void @peak(ptr %data, i64 %count) {{
entry:
  %factor = load {vector}, ptr %data, align 64
  %second = getelementptr {vector}, ptr %data, i64 1
  %addend = load {vector}, ptr %second, align 64
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
{phis}{steps}  %next = add i64 %i, 1
  %again = icmp slt i64 %next, %count
  br i1 %again, label %loop, label %done
done:
  %s0 = fadd {vector} %factor, %addend
{sums}  store {vector} %s{accumulators}, ptr %data, align 64
  ret void
}}
"""
    return text, 2 * lanes * accumulators


def peak_gflops(target: Target | None = None, dtype: DType = dtypes.float32, seconds: float = 0.1) -> float:
    """GFLOP/s of one core: the best of several short runs in about ``seconds``. ``target`` (None: the host) must run here."""
    target = target or resolve("cpu")
    target.require_runnable()
    text, flops = peak_program(target, dtype)
    module = llvm.parse_assembly(text)
    module.triple = target.triple
    engine = llvm.create_mcjit_compiler(module, target.machine())
    engine.finalize_object()
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(engine.get_function_address("peak"))
    memory = (ctypes.c_char * 512)()
    data = (ctypes.addressof(memory) + 63) & ~63
    iterations, best, stop = 1000, 0.0, time.perf_counter() + seconds
    while time.perf_counter() < stop:
        elements = (ctypes.c_float if dtype.bits == 32 else ctypes.c_double) * (2 * target.lanes(dtype.bits))
        elements.from_address(data)[:] = [1.0] * len(elements.from_address(data))
        start = time.perf_counter()
        function(data, iterations)
        elapsed = time.perf_counter() - start
        best = max(best, flops * iterations / elapsed / 1e9)
        if elapsed < seconds / 10:
            iterations *= 2
    return best
