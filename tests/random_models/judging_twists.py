"""Twisted models against ONNX Runtime, in several calls, the first shapes again at the end."""

from __future__ import annotations

import numpy as np
import onnx

import loopnest
from loopnest.ir.errors import LoopnestError, VerificationError

from .comparing import by_reference, difference
from .growing import Refused, onnxruntime
from .hostile import Hostile
from .judging import grow
from .twists import TWISTS, Feeds, other_shapes

TOLERANCE = 3e-4
PLACES = ("TopK", "ArgMax", "ArgMin")
"""Where numbers differ by rounding, these may name other places."""


def twisted(seed: int) -> tuple[onnx.ModelProto, Feeds, str, Hostile]:
    """A model that ONNX Runtime takes, feeds for it, and what was done to it."""
    h = Hostile(seed)
    g = grow(seed)
    model, feeds, done = g.model(), dict(g.inputs), []
    for _ in range(h.between(1, 4)):
        change = h.one_of(*TWISTS)
        kept = model.SerializeToString(), dict(feeds)
        change(h, model, feeds, g.values)
        try:
            onnxruntime(model, feeds)
        except Refused:
            model, feeds = onnx.load_from_string(kept[0]), kept[1]
        else:
            done.append(change.__name__)
    return model, feeds, " ".join(done), h


def shown(seed: int) -> onnx.ModelProto:
    return twisted(seed)[0]


def problems(seed: int) -> list[str]:
    """What differs from both, or is refused where ONNX Runtime computes it, in a call with these feeds, two others, and these again."""
    model, feeds, what, h = twisted(seed)
    f = loopnest.compile(model, threads=1 + seed % 2)
    calls = [feeds, *(other_shapes(h, model, feeds) for _ in range(2)), feeds]
    found = [(call, [list(a.shape) for a in given.values()], _wrong(model, f, given)) for call, given in enumerate(calls)]
    return [f"{what}: call {call} with {shapes}: {problem}" for call, shapes, problem in found if problem]


def _wrong(model: onnx.ModelProto, f: loopnest.CompiledModel, feeds: Feeds) -> str:
    try:
        ours = f.run(None, feeds)
    except VerificationError:
        raise
    except LoopnestError as error:
        ours = error
    if any(0 in array.shape for array in feeds.values()):
        return ""  # ONNX Runtime divides by such an extent
    try:
        theirs = onnxruntime(model, feeds)
    except Refused:
        return ""
    if isinstance(ours, LoopnestError):
        return "" if any(np.size(value) == 0 for value in theirs) else f"refused: {ours}"
    found = difference(ours, theirs, TOLERANCE)
    places = [
        at for at, value in enumerate(ours) if value.dtype == np.int64 and any(n.op_type in PLACES for n in model.graph.node)
    ]
    if found and any(
        np.count_nonzero(ours[at] != theirs[at]) <= 0.02 * ours[at].size for at in places if ours[at].shape == theirs[at].shape
    ):
        kept = [at for at in range(len(ours)) if at not in places]
        found = difference([ours[at] for at in kept], [theirs[at] for at in kept], TOLERANCE)
    if found and (reference := by_reference(model, feeds)) is not None:
        return found and difference(ours, reference, TOLERANCE)
    return found
