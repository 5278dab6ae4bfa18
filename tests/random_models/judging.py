"""The model that a seed grows into, and how far loopnest's results are from ONNX Runtime's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

import loopnest

from .growing import Growing, Refused, onnxruntime
from .productions import PRODUCTIONS

TOLERANCE = 2e-4
"""Of an output's largest value: a score of operators in sequence, each with rounding errors of its own."""
SPANS = (5, 7, 8, 9, 14, 16, 17, 28)


def grow(seed: int) -> Growing:
    """A model of 4 to 25 operators on one or two inputs."""
    g = Growing(seed)
    for _ in range(g.between(1, 2)):
        batch, image = g.one_of(1, 1, 2, 3), (g.one_of(*SPANS), g.one_of(*SPANS))
        image_of_channels = (batch, g.one_of(1, 3, 8, 16, 17, 24, 32), *image)
        g.input(*g.one_of(image_of_channels, image_of_channels, image_of_channels, (batch, *image), image))
    wanted = g.between(4, 25)
    for _ in range(60):
        if len(g.nodes) < wanted:
            try:
                g.one_of(*PRODUCTIONS)(g)
            except Refused:
                continue
    return g


def shown(seed: int) -> onnx.ModelProto:
    return grow(seed).model()


def problems(seed: int, *team: int) -> list[str]:
    """What is wrong with two calls of the model of ``seed`` on different inputs, on as many threads as ``team`` says, one and two by
    default; a difference counts if ONNX's reference has it too."""
    g = grow(seed)
    model = g.model()
    found: list[str] = []
    for threads in team or (1, 2):
        f = loopnest.compile(model, threads=threads)
        each = [problem for call in range(2) for problem in _differences(model, f, _feeds(g, call))]
        found += [f"{threads} threads: {problem}" for problem in each]
    return found


def _feeds(g: Growing, call: int) -> dict[str, np.ndarray]:
    if not call:
        return g.inputs
    random = np.random.default_rng(call)
    return {name: random.standard_normal(array.shape).astype(array.dtype) for name, array in g.inputs.items()}


def _differences(model: onnx.ModelProto, f: loopnest.CompiledModel, feeds: dict[str, np.ndarray]) -> list[str]:
    ours = f.run(None, feeds)
    found = _unlike(model, ours, onnxruntime(model, feeds))
    return found and _unlike(model, ours, ReferenceEvaluator(model).run(None, feeds))


def _unlike(model: onnx.ModelProto, ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> list[str]:
    found = [_unlike_value(a, b) for a, b in zip(ours, theirs, strict=True)]
    return [f"{value.name}: {problem}" for value, problem in zip(model.graph.output, found, strict=True) if problem]


def _unlike_value(ours: np.ndarray, theirs: np.ndarray) -> str:
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return f"{ours.dtype}{list(ours.shape)} instead of {theirs.dtype}{list(theirs.shape)}"
    if theirs.dtype.kind != "f":
        return "" if np.array_equal(ours, theirs) else f"{int((ours != theirs).sum())} elements differ"
    largest, error = float(np.abs(theirs).max()), np.abs(ours - theirs).max()
    return "" if error <= TOLERANCE * max(largest, 1e-2) else f"differs by {error:.2e} where the largest value is {largest:.2e}"
