"""Damaged models: an error of loopnest's own in one sentence, or what ONNX Runtime computes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

import loopnest
from loopnest.ir import dtypes
from loopnest.ir.errors import LoopnestError, VerificationError

from .comparing import by_onnxruntime, by_reference, difference
from .damage import DAMAGES, broken_bytes
from .hostile import Hostile
from .judging import grow
from .judging_operators import made

LARGEST = 1 << 22
"""Elements of an input."""


def damaged(seed: int) -> tuple[onnx.ModelProto | bytes, str]:
    """A model, as proto or as bytes, and what was done to it."""
    h = Hostile(seed)
    model = grow(h.between(0, 60)).model() if h.chance(0.12) else made(seed)[1]
    done: list[str] = []
    for _ in range(h.one_of(1, 1, 2)):
        change = h.one_of(*DAMAGES)
        change(h, model)
        done.append(change.__name__)
    data = model.SerializeToString()
    if h.chance(0.06):
        return broken_bytes(h, data), "broken_bytes"
    return (data if h.chance(0.5) else model), " ".join(done)


def shown(seed: int) -> onnx.ModelProto:
    return _parsed(damaged(seed)[0])


def problems(seed: int) -> list[str]:
    """An error that is not loopnest's or not a sentence; a result that differs from those of all who have a finite one."""
    model, what = damaged(seed)
    try:
        f = loopnest.compile(model, threads=1)
        feeds = _feeds(seed, f)
        ours = f.run(None, feeds)
    except VerificationError as error:
        return [f"{what}: VerificationError {error}"]
    except LoopnestError as error:
        return [f"{what}: no sentence: {error!r}"] if "\n" in str(error) or not str(error) else []
    theirs = [judge(_parsed(model), feeds) for judge in (by_onnxruntime, by_reference)]
    found = [difference(ours, their, 1e-3) for their in theirs if their is not None and _is_finite(their)]
    return [f"{what}: {found}"] if found and all(found) else []


def _parsed(model: onnx.ModelProto | bytes) -> onnx.ModelProto:
    return onnx.load_from_string(model) if isinstance(model, bytes) else model


def _feeds(seed: int, f: loopnest.CompiledModel) -> dict[str, Any]:
    """Arrays as the inputs are declared."""
    h = Hostile(seed)
    feeds: dict[str, Any] = {}
    for spec in f.inputs:
        declared = h.shape(0, 3) if spec.shape is None else spec.shape
        shape = tuple(extent if isinstance(extent, int) else h.one_of(1, 2, 5) for extent in declared)
        if np.prod([float(extent) for extent in shape]) > LARGEST:
            shape = (1,) * len(shape)
        dtype = dtypes.by_name(spec.dtype).numpy if "(" not in spec.dtype else np.dtype(np.float32)
        feeds[spec.name] = h.finite(dtype, shape) if dtype.kind in "fiubV" else np.zeros(shape, dtype)
    return feeds


def _is_finite(results: list[Any]) -> bool:
    floats = [np.asarray(value) for value in results if np.asarray(value).dtype.kind in "fV"]
    return all(np.isfinite(value.astype(np.float64)).all() for value in floats)
