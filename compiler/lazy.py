"""Compiled models whose compiler comes when it is needed.

What a call needs is a plan. One that is kept somewhere (an artifact, the cache on disk) needs neither onnx nor the compiler, nor the model
itself; only inputs for which there is none do. ``LazyPlanner`` stands between: a ``Planner`` of ``CompiledModel`` that reads the model and
imports the frontend and the compiler when it is first asked for a plan.

    planner = LazyPlanner(model, setup, shapes)        imports nothing, reads nothing
    CompiledModel(inputs, outputs, planner, ...)       as after ``loopnest.compile(model, shapes=shapes)``
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..ir.errors import ModelError
from ..runtime.buffers import Workspaces
from ..runtime.compile_report import CompileReport
from ..runtime.cpus import available_cpus
from ..runtime.direct import Direct
from ..runtime.foreign import Foreign
from ..runtime.forks import Work
from ..runtime.later import held
from ..runtime.linker import link
from ..runtime.model import MAX_PLANS, CompiledModel, Planner, Runner, key_of
from ..runtime.plan_data import Interface
from ..runtime.plans import KeptPlan
from ..runtime.program import TensorSpec
from ..runtime.sequel import Sequel
from . import progress
from .helper import Spare
from .kept import KeptModel, Path, Shapes
from .notices import Notices
from .setup import Setup

HELPED_BYTES = 1 << 20
"""A model of so many bytes seldom has fewer kernels than are worth a helper (``kernels.HELPED``)."""

MAX_RESTS = 64
"""So many plans for shapes that data decided are stored by a process."""

if TYPE_CHECKING:
    from ..runtime.chained import Chained
    from .frontend.reading import Model
    from .staged import Stage, StagedGraph


class _Place(NamedTuple):
    """Where a plan is in the cache, and what it is made from where it is not there."""

    path: Path
    graph: Callable[[], StagedGraph | None]


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
    _stored: int = 0
    """How many plans of rests this process has stored."""
    _work: Work = field(default_factory=Work)

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
        inputs, values_decide = self.interface.inputs, self.interface.value_inputs
        place = _Place((key_of(values, values_decide),), lambda: self._staged or self._read()[1])
        return self._plan(place, values, inputs, [spec.dtype for spec in self.interface.outputs], values_decide)

    def _plan(
        self,
        place: _Place,
        values: tuple[Any, ...],
        inputs: Sequence[TensorSpec],
        outputs: Sequence[str | None],
        value_inputs: Sequence[int],
    ) -> Runner:
        """The plan for ``values``: found, or made."""
        with self._work:
            if self._kept is not None:
                with self._looking():
                    found = self._kept.plan(place.path, inputs, outputs, value_inputs)
                if found is not None:
                    Notices.of(found.notices).tell()
                    return self._bound(place, values, value_inputs, found)
            stage, notices = self._made(place, values)
            runner = stage.runner
            if not isinstance(runner, Direct):
                if self._kept is None or self.setup.foreign or stage.sequel is None or stage.native is None:
                    return runner
                runner = self._chained(place, Direct(stage.native, stage.picks), stage.sequel, lambda: stage.rest)
            if self._kept is not None and (len(place.path) == 1 or self._stored < MAX_RESTS):
                self._stored += len(place.path) > 1
                with self._looking():
                    self._kept.keep_plan(place.path, runner, notices)
            return runner

    def _made(self, place: _Place, values: tuple[Any, ...]) -> tuple[Stage, Notices]:
        """The first stage of what is to plan there, made for ``values``, and what is to be told of it."""
        with held(), self._planning():
            graph = place.graph()
            from .staged import Stage

            assert graph is not None
            graph.engine.notices = Notices(dict(self._notices.found))
            return Stage.make(graph, values), graph.engine.notices

    def _chained(self, place: _Place, first: Direct, sequel: Sequel, left: Callable[[], StagedGraph | None]) -> Chained:
        """A plan with what follows it; ``left`` is what is left to plan behind it."""
        from ..runtime.chained import Chained

        rest = sequel.rest
        if rest is None:
            return Chained(first, sequel)

        def find(values: tuple[Any, ...]) -> Runner:
            specs = [TensorSpec("", dtype, value.shape) for dtype, value in zip(rest.dtypes, values, strict=True)]
            behind = _Place((*place.path, key_of(values, rest.value_inputs)), left)
            return self._plan(behind, values, specs, [None] * len(rest.outputs), rest.value_inputs)

        return Chained(first, sequel, find)

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

    def _bound(self, place: _Place, values: tuple[Any, ...], decisive: Sequence[int], found: KeptPlan) -> Direct | Chained:
        """A plan of the cache for ``values``, ready to run; those whose numbers are ``decisive`` are known when it is made."""
        first, sequel = self._linked(found), found.data.sequel
        if sequel is None:
            return first
        whole = len(place.path[-1]) > len(values)  # some decide by their values
        examples = tuple(value.copy() if whole else np.broadcast_to(np.zeros((), value.dtype), value.shape) for value in values)
        return self._chained(place, first, sequel, cache(lambda: self._made(place, examples)[0].rest))

    def _linked(self, found: KeptPlan) -> Direct:
        """The program of a plan of the cache, with machine code and weights."""
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
