"""What follows the native program of a stage, as plain data: for stages that may be kept, after which the host only cuts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..ir import dtypes
from ..runtime.program import Program
from ..runtime.sequel import Cut, Rest, Sequel
from .host import HostStep, Value

if TYPE_CHECKING:
    from .staged import StagedGraph


def sequel_of(
    inputs: Sequence[tuple[str, Value]],
    outputs: Sequence[str],
    program: Program,
    steps: Sequence[HostStep],
    rest: StagedGraph | None,
) -> Sequel | None:
    """What follows ``program``, for a graph that gives ``outputs``; None where the host has more to do than to cut (``Trim``), or an output
    is no value of its own. ``inputs`` are those of the graph, by name."""
    if any(step.node.op != "Trim" for step in steps) or not all(_is_numeric(value) for _, value in inputs):
        return None
    kinds = {name: dtypes.from_numpy(value.dtype).name for name, value in inputs}
    fresh = {spec.name: spec.dtype for spec in program.outputs}
    kinds |= fresh
    names, cuts = [*(name for name, _ in inputs), *fresh], list[Cut]()
    for node in (step.node for step in steps):
        if not fresh.keys() >= {*node.inputs}:
            return None
        axis = node.attrs.get("axis")
        cuts.append(Cut(names.index(node.inputs[0]), names.index(node.inputs[1]), axis if isinstance(axis, int) else None))
        names.append(node.outputs[0])
        fresh[names[-1]] = kinds[names[-1]] = kinds[node.inputs[0]]
    left = rest.graph if rest is not None else None
    if left is not None and not kinds.keys() >= {*left.inputs}:
        return None
    later = () if left is None else left.outputs
    if len({*outputs}) < len(outputs) or not {*fresh, *later} >= {*outputs}:
        return None
    results = tuple(names.index(name) if name in fresh else -1 for name in outputs)
    if left is None or rest is None:
        return Sequel(tuple(cuts), tuple(outputs), results)
    takes, values = (names.index(name) for name in left.inputs), (i for i, name in enumerate(left.inputs) if name in rest.known)
    taken = tuple(kinds[name] for name in left.inputs)
    return Sequel(tuple(cuts), tuple(outputs), results, Rest(tuple(takes), taken, tuple(values), left.outputs))


def _is_numeric(value: Value) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind != "O"
