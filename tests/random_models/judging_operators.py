"""One operator on hostile arrays against ONNX Runtime, or ONNX's reference where that does not have it."""

from __future__ import annotations

import numpy as np
import onnx

import loopnest
from loopnest.ir.errors import LoopnestError

from . import cases_elements, cases_windows  # noqa: F401  they fill CASES
from .comparing import by_onnxruntime, by_reference, difference
from .hostile import CASES, Case, Hostile, model_of


def made(seed: int) -> tuple[Case, onnx.ModelProto, dict[str, np.ndarray]]:
    """A case, its model, and what the caller gives."""
    h = Hostile(seed)
    it = h.one_of(*CASES)(h)
    return it, *model_of(h, it)


def model(seed: int) -> onnx.ModelProto:
    return made(seed)[1]


def problems(seed: int) -> list[str]:
    """A result that differs from those of all who have one; an error where all have a result."""
    it, proto, feeds = made(seed)
    what = " ".join([it.op, *(f"{a.dtype}{list(a.shape)}" if a is not None else "-" for a in it.inputs), str(it.attributes)])
    expected = [found for judge in (by_onnxruntime, by_reference) if (found := judge(proto, feeds)) is not None]
    try:
        ours = loopnest.compile(proto, threads=1 + seed % 2).run(None, feeds)
    except LoopnestError as error:
        return [f"{what}: {type(error).__name__}: {error}"] if expected else []
    found = [difference(ours, theirs, it.tolerance) for theirs in expected]
    return [f"{what}: {found}"] if found and all(found) else []
