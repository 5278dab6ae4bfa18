"""Compiled models whose compiler comes when it is needed.

What a call needs is a plan. One that is kept somewhere (an artifact, the cache on disk) needs neither onnx nor the compiler, nor the model
itself; only inputs for which there is none do. ``LazyPlanner`` stands between: a ``Planner`` of ``CompiledModel`` that reads the model and
imports the frontend and the compiler when it is first asked for a plan.

    planner = LazyPlanner(model, setup, shapes)        imports nothing, reads nothing
    CompiledModel(inputs, outputs, planner, ...)       as after ``loopnest.compile(model, shapes=shapes)``
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..runtime.buffers import Workspaces
from ..runtime.compile_report import CompileReport
from ..runtime.model import CompiledModel, Planner, Runner
from ..runtime.plan_data import Interface
from ..runtime.program import TensorSpec
from . import progress
from .setup import Setup

if TYPE_CHECKING:
    from .frontend.reading import Model
    from .staged import StagedGraph

Shapes = Mapping[str, Sequence[int]]


@dataclass
class LazyPlanner:
    """Makes the plans of ``model`` (a path, serialized bytes or a ``ModelProto``) with the dims of inputs that ``shapes`` fixes.

    Called by one thread at a time, as ``CompiledModel`` does. ``report`` and ``workspaces`` are shared with plans that come from
    elsewhere. Reading the model raises what ``loopnest.compile`` raises.
    """

    model: Model
    setup: Setup
    shapes: Shapes = field(default_factory=dict[str, Sequence[int]])
    report: CompileReport = field(default_factory=CompileReport)
    workspaces: Workspaces = field(default_factory=Workspaces)
    _read: tuple[Interface, StagedGraph] | None = None

    @property
    def interface(self) -> Interface:
        """What the model takes and gives; it is read for that."""
        return self._graph()[0]

    def __call__(self, values: tuple[Any, ...]) -> Runner:
        """The plan for checked inputs."""
        staged = self._graph()[1]
        from .staged import Stage

        return Stage.make(staged, values).runner

    def _graph(self) -> tuple[Interface, StagedGraph]:
        if self._read is None:
            from .build import read

            self._read = read(self.model, self.setup, self.shapes, self.report, self.workspaces)
        return self._read


def callable_of(interface: Interface, planner: Planner, setup: Setup, report: CompileReport) -> CompiledModel:
    """The callable of a model; planned now when its inputs say all that a plan needs, and then for good."""
    compiled = CompiledModel(
        interface.inputs,
        interface.outputs,
        planner,
        interface.value_inputs,
        name=interface.name,
        isa=setup.isa,
        compile_report=report,
    )
    examples = [_example(spec) for spec in interface.inputs]
    if not interface.value_inputs and all(example is not None for example in examples):
        with progress.measuring(report):
            compiled.prepare(*examples)
        compiled.seal()
    return compiled


def _example(spec: TensorSpec) -> np.ndarray | None:
    """An array of the input's shape, which is enough to plan for it; None when the shape is not fixed. It has no memory of its own."""
    if spec.shape is None or not all(isinstance(dim, int) for dim in spec.shape):
        return None
    try:
        return np.broadcast_to(np.zeros((), spec.numpy), spec.extents)
    except (KeyError, ValueError):  # no tensor; or so large that it cannot be
        return None
