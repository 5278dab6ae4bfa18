"""Compiled models whose compiler comes when it is needed.

What a call needs is a plan. One that is kept somewhere (an artifact, the cache on disk) needs neither onnx nor the compiler, nor the model
itself; only inputs for which there is none do. ``LazyPlanner`` stands between: a ``Planner`` of ``CompiledModel`` that reads the model and
imports the frontend and the compiler when it is first asked for a plan.

    planner = LazyPlanner(model, setup, shapes)        imports nothing, reads nothing
    CompiledModel(inputs, outputs, planner, ...)       as after ``loopnest.compile(model, shapes=shapes)``
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.errors import ModelError
from ..runtime.buffers import Workspaces
from ..runtime.compile_report import CompileReport
from ..runtime.cpus import available_cpus
from ..runtime.direct import Direct
from ..runtime.foreign import Foreign
from ..runtime.later import held
from ..runtime.linker import link
from ..runtime.model import MAX_PLANS, CompiledModel, Planner, Runner, key_of
from ..runtime.plan_data import Interface
from ..runtime.plans import KeptPlan
from ..runtime.program import TensorSpec
from . import progress
from .helper import Spare
from .kept import KeptModel, Shapes
from .notices import Notices
from .setup import Setup

HELPED_BYTES = 1 << 20
"""A model of so many bytes seldom has fewer kernels than are worth a helper (``kernels.HELPED``)."""

if TYPE_CHECKING:
    from .frontend.reading import Model
    from .staged import StagedGraph


@dataclass
class LazyPlanner:
    """Makes the plans of ``model`` (a path, serialized bytes or a ``ModelProto``) with the dims of inputs that ``shapes`` fixes, or finds
    them in the cache on disk.

    Called by one thread at a time, as ``CompiledModel`` does. ``report`` and ``workspaces`` are shared with plans that come from
    elsewhere. Reading the model raises what ``loopnest.compile`` raises, and ``ModelError`` where it is no longer what the cache has plans
    of.
    """

    model: Model
    setup: Setup
    shapes: Shapes = field(default_factory=dict[str, Sequence[int]])
    report: CompileReport = field(default_factory=CompileReport)
    workspaces: Workspaces = field(default_factory=Workspaces)
    _spare: Spare = field(default_factory=Spare)
    """A helper that is started when a large model is read, and imports meanwhile what it needs for the first plan. Where shapes are open
    it waits for the first call, though not for long."""
    _large: bool = False
    """Whether the plan to be made is worth a helper: it is the first one, of a large model."""
    _kept: KeptModel | None = None
    _interface: Interface | None = None
    _staged: StagedGraph | None = None
    _notices: Notices = field(default_factory=Notices)

    @property
    def interface(self) -> Interface:
        """What the model takes and gives; it is read for that where the cache does not know."""
        if self._interface is None:
            self._kept = KeptModel.of(self.model, self.setup, self.shapes)
            if self._kept is not None:
                with self._looking():
                    self._interface = self._kept.interface()
            if self._interface is None:
                return self._read()[0]
            assert self._kept is not None
            self.model = self._kept.content.source
        return self._interface

    def __call__(self, values: tuple[Any, ...]) -> Runner:
        """The plan for checked inputs."""
        interface = self.interface
        key = key_of(values, interface.value_inputs)
        if self._kept is not None:
            with self._looking():
                found = self._kept.plan(key, interface)
            if found is not None:
                Notices.of(found.notices).tell()
                return self._bound(found)
        with held(), self._planning():
            staged = self._staged or self._read()[1]
            from .staged import Stage

            staged.engine.notices = Notices(dict(self._notices.found))
            runner = Stage.make(staged, values).runner
        if self._kept is not None and isinstance(runner, Direct):
            with self._looking():
                self._kept.keep_plan(key, runner, staged.engine.notices)
        return runner

    @contextmanager
    def _planning(self) -> Generator[None]:
        """Within it, a plan is made, with a helper if it is the first one of a large model."""
        if self._large:
            self._spare.start()
        try:
            yield
        finally:
            self._large = False
            self._spare.close()

    @contextmanager
    def _looking(self) -> Generator[None]:
        """What is done in the block is time for the cache."""
        with progress.measuring(self.report), progress.stage("cache", quiet=True):
            yield

    def _bound(self, found: KeptPlan) -> Direct:
        """A plan of the cache, ready to run."""
        self.report.add(found=len(found.kernels))
        with progress.measuring(self.report), progress.stage("link", quiet=True):
            objects = {digest: (entry.object_code, entry.symbol) for digest, entry in found.kernels.items()}
            if self.setup.foreign:
                return Direct(Foreign(found.data.program, found.constants, objects, self.setup.foreign), found.data.picks)
            linked = link(objects)
            return found.data.runnable(
                linked.addresses, found.constants, self.setup.threads, workspaces=self.workspaces, keep=linked
            )

    def _read(self) -> tuple[Interface, StagedGraph]:
        """Reads the model, for good."""
        self._large = self._kept is not None and self._kept.content.nbytes >= HELPED_BYTES and available_cpus() > 1
        if self._large:
            self._spare.start()
        try:
            return self._read_now()
        except BaseException:
            self._spare.close()
            raise

    def _read_now(self) -> tuple[Interface, StagedGraph]:
        from .build import read
        from .engine import make_engine
        from .frontend.tensors import noting_files

        known, kept, files = self._interface, self._kept, dict[str, None]()

        def note(name: str) -> None:
            files[name] = None
            if kept is not None:
                kept.content.note(name)

        engine = make_engine(self.setup, None, self.report, self.workspaces, kept and kept.arrays, self._spare)
        with noting_files(note):
            interface, staged = read(self.model, engine, self.shapes)
        if kept is not None and not kept.content.is_unchanged():
            if known is not None:
                raise ModelError(f"{self.model!r} is not the model any more that it was when it was compiled: compile it again")
            self._kept = None
        elif kept is not None and known is None:
            with self._looking():
                kept.keep_interface(interface, tuple(files))
        if kept is not None:
            kept.forget()
        self._interface, self._staged, self.model, self._notices = known or interface, staged, b"", engine.notices
        return interface, staged


def callable_of(interface: Interface, planner: Planner, setup: Setup, report: CompileReport) -> CompiledModel:
    """The callable of a model; planned now when its inputs say all that a plan needs, and then for good."""
    compiled = unplanned(interface, planner, setup, report)
    examples = [_example(spec) for spec in interface.inputs]
    if not interface.value_inputs and all(example is not None for example in examples):
        with progress.measuring(report):
            compiled.prepare(*examples)
        compiled.seal()
    return compiled


def unplanned(
    interface: Interface, planner: Planner, setup: Setup, report: CompileReport, max_plans: int = MAX_PLANS
) -> CompiledModel:
    """The callable of a model, without a plan so far."""
    return CompiledModel(
        interface.inputs,
        interface.outputs,
        planner,
        interface.value_inputs,
        name=interface.name,
        max_plans=max_plans,
        isa=setup.isa,
        compile_report=report,
    )


def _example(spec: TensorSpec) -> np.ndarray | None:
    """An array of the input's shape, which is enough to plan for it; None when the shape is not fixed. It has no memory of its own."""
    if spec.shape is None or not all(isinstance(dim, int) for dim in spec.shape):
        return None
    try:
        return np.broadcast_to(np.zeros((), spec.numpy), spec.extents)
    except (KeyError, ValueError):  # no tensor; or so large that it cannot be
        return None
