"""Models in memory with guards around it: the same results as in other memory, and the process lives."""

from __future__ import annotations

from typing import Any

import onnx

import loopnest
from loopnest.ir.errors import LoopnestError

from .guards import guarded_copy, guarded_like, guarded_memory
from .judging import grow
from .judging_operators import made


def _made(seed: int) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Of three models two are of a single operator."""
    if seed % 3:
        return made(seed)[1:]
    g = grow(seed)
    return g.model(), g.inputs


def shown(seed: int) -> onnx.ModelProto:
    return _made(seed)[0]


def problems(seed: int) -> list[str]:
    """Outputs that differ where memory ends behind all arrays, or (for every fourth seed) begins with them."""
    model, feeds = _made(seed)
    return [
        problem for at_end in ((True, False) if seed % 4 == 0 else (True,)) for problem in _problems(model, feeds, seed, at_end)
    ]


def _problems(model: onnx.ModelProto, feeds: dict[str, Any], seed: int, at_end: bool) -> list[str]:
    with guarded_memory(at_end=at_end):
        try:
            f = loopnest.compile(model, threads=1 + seed % 2)
            expected = f.run(None, feeds)
        except LoopnestError:
            return []
        given = [guarded_copy(feeds[spec.name], at_end=at_end) for spec in f.inputs]
        outputs = guarded_like([(a.shape, a.dtype) for a in expected], at_end=at_end)
        f.bind(*given, out=outputs).run()
    return [f"output {i} differs" for i, (a, b) in enumerate(zip(outputs, expected, strict=True)) if a.tobytes() != b.tobytes()]
