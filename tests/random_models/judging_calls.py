"""Calls with odd, wrong and extreme arrays, in guarded memory: the right result, or an error of loopnest's own in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper as nh

import loopnest
from loopnest.ir.errors import LoopnestError, VerificationError

from .calls import ODD, WRONG, extreme_integers
from .comparing import by_onnxruntime, by_reference, difference
from .guards import guarded_copy, guarded_memory
from .hostile import Hostile
from .judging_operators import made

LARGEST = 1_000_000
"""Elements of results beyond which nobody is asked for another opinion."""


def called(seed: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray], Hostile]:
    """An operator whose inputs are the caller's, indices and shapes too, unless chance has it."""
    h = Hostile(seed)
    _, model, feeds = made(seed)
    for it in list(model.graph.initializer):
        if h.chance(0.8):
            feeds[it.name] = nh.to_array(it)
            model.graph.initializer.remove(it)
            model.graph.input.append(oh.make_tensor_value_info(it.name, it.data_type, it.dims))
    return model, feeds, h


def shown(seed: int) -> onnx.ModelProto:
    return called(seed)[0]


def problems(seed: int) -> list[str]:
    """What is wrong with three calls of each sort, and with one after them."""
    model, feeds, h = called(seed)
    try:
        with guarded_memory(at_end=True):
            f = loopnest.compile(model, threads=1 + seed % 2)
            expected = f.run(None, feeds)
    except LoopnestError:
        return []
    found: list[str] = []
    for _ in range(3):
        odd = {name: h.one_of(*ODD)(h, array) for name, array in feeds.items()}
        if _differ(f.run(None, odd), expected):
            found.append(f"another result for {_described(odd)}")
        if feeds:
            found += _judged(model, f, _wrong(h, feeds))
        found += _judged(model, f, {name: guarded_copy(extreme_integers(h, a), at_end=True) for name, a in feeds.items()})
    return [*found, *(["another result after errors"] if _differ(f.run(None, feeds), expected) else [])]


def _wrong(h: Hostile, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
    wrong: dict[str, Any] = dict(feeds)
    name = h.one_of(*feeds)
    with np.errstate(all="ignore"):
        wrong[name] = h.one_of(*WRONG)(h, feeds[name])
    if h.chance(0.1):
        wrong["nothing"] = wrong.pop(name)
    return wrong


def _differ(ours: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    return any(a.tobytes() != b.tobytes() for a, b in zip(ours, expected, strict=True))


def _judged(model: onnx.ModelProto, f: loopnest.CompiledModel, given: Mapping[str, Any]) -> list[str]:
    try:
        with guarded_memory(at_end=True):
            ours = f.run(None, given)
    except VerificationError as error:
        return [f"VerificationError: {error}"]
    except LoopnestError as error:
        return [f"no sentence: {error!r}"] if "\n" in str(error) or not str(error) else []
    except MemoryError:
        return []
    except Exception as error:
        return [f"{type(error).__name__}: {error} for {_described(given)}"]
    if sum(result.size for result in ours) > LARGEST:
        return []
    arrays = {name: np.asarray(value) for name, value in given.items()}
    theirs = [found for judge in (by_onnxruntime, by_reference) if (found := judge(model, arrays)) is not None]
    found = [difference(ours, their, 1e-3) for their in theirs]
    return [f"{found} for {_described(given)}"] if found and all(found) else []


def _described(given: Mapping[str, Any]) -> list[str]:
    return [f"{getattr(a, 'dtype', type(a).__name__)}{list(getattr(a, 'shape', ()))}" for a in given.values()]
