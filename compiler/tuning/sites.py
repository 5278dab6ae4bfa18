"""Kernels of a model one by one: found in its plans, made with other options, run on arrays of their own."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np

from ...ir.errors import ConfigError, LoopnestError
from ...ir.graph import Graph
from ...runtime.arrays import PAGE
from ...runtime.buffers import aligned_empty
from ...runtime.executor import Executable
from ...runtime.program import ALIGNMENT, BufferSpec, Program, Step, TensorSpec
from ..build import read
from ..choices import Choices
from ..config import Layout, NodeOptions
from ..engine import Engine
from ..group import Group
from ..kernels import KernelRequest, Kernels
from ..layout import to_layout
from ..packing import Packer
from ..plan import Plan, PlannedStep, Planner, make_plan
from ..setup import Setup
from ..staged import Stage
from ..tensor import Tensor
from .signature import signature

MOST_COPIES = 64
"""Of the weights of a kernel: smaller ones are soon read."""
APART = 320
"""Bytes by which arrays lie apart within their pages."""


@dataclass(frozen=True)
class Site:
    """A kernel: where one of those with its ``signature`` is. ``count`` steps of the model have it, ``milliseconds`` is their sum."""

    signature: str
    graph: int
    output: str
    nodes: tuple[str, ...]
    milliseconds: float = 0.0

    @property
    def count(self) -> int:
        return len(self.nodes)


@dataclass(frozen=True)
class Trial:
    """A kernel made with some options. ``run`` computes ``results``, whose padding is unspecified. Trials of one kernel with the same
    ``identity`` do the same: it is the digest of the code and the extents that it is called with."""

    identity: tuple[str, tuple[int, ...]]
    choices: Choices
    group: Group
    tensors: Mapping[str, Tensor]
    run: Callable[[], None]
    results: tuple[np.ndarray, ...]

    def outputs(self) -> list[np.ndarray]:
        """What was computed, without padding."""
        named = zip(self.group.outputs, self.results, strict=True)
        return [from_layout(array, self.tensors[name]) for name, array in named]


@dataclass
class _Recording(Engine):
    """Keeps the graphs of the plans that it makes."""

    planned: list[tuple[Graph, Plan]] = field(default_factory=list[tuple[Graph, Plan]])

    def plan(self, graph: Graph) -> Plan:
        graph = self.optimize(graph)
        kept = graph.copy()
        plan = make_plan(graph, self.target, self.config, self.packs, self.kernels.expect, self.setup.threads)
        self.planned.append((kept, plan))
        return plan


@dataclass(frozen=True)
class WholeTrial:
    """All of a model with a layout. ``identity``: the steps of its plans, their kernels and the layouts of what they make."""

    identity: tuple[tuple[str, str], ...]
    run: Callable[[], list[Any]]

    def outputs(self) -> list[np.ndarray]:
        """The results that are numbers."""
        return [array for array in self.run() if isinstance(array, np.ndarray) and array.dtype.kind in "fiub"]


class Sites:
    """The kernels of ``model`` for inputs of the given shapes, those that the configuration has tuned as without that."""

    def __init__(self, model: Any, setup: Setup, shapes: Mapping[str, Sequence[int]]) -> None:
        from ..dump import Dump

        self.model, self.shapes = model, shapes
        self.setup = replace(setup, config=replace(setup.config, tuned={}))
        self.engine = _Recording(self.setup, Kernels(setup.cache, setup.target), Dump())
        self.alone = Kernels(None, setup.target)
        interface, staged = read(model, self.engine, shapes)
        feeds = [_stand_in(spec) for spec in interface.inputs]
        self.runner = Stage.make(staged, feeds).runner
        self.feeds = feeds
        self.run = partial(self.runner.run, feeds)

    def sites(self, repeat: int = 5) -> list[Site]:
        """All kernels by what they take in the model, measured; the one that takes most first."""
        taken: dict[str, list[float]] = {}
        for step in self.runner.profile(self.feeds, repeat).steps:
            taken.setdefault(step.name, []).append(step.ms)
        found: dict[str, Site] = {}
        for number, (graph, plan) in enumerate(self.engine.planned):
            names = self._signatures(graph)
            for step in plan.steps:
                output, nodes = step.group.anchor.outputs[0], step.group.node_names
                name = names.get(output)
                if name is None or not taken.get(nodes):
                    continue
                known = found.get(name, Site(name, number, output, ()))
                spent = known.milliseconds + taken[nodes].pop(0)
                found[name] = replace(known, nodes=(*known.nodes, nodes), milliseconds=spent)
        return sorted(found.values(), key=lambda site: -site.milliseconds)

    def _signatures(self, graph: Graph) -> dict[str, str]:
        with ThreadPoolExecutor(1) as pool:
            planner = self._planner(graph, {}, pool)
            groups = planner.lay_out().groups
        return {group.anchor.outputs[0]: signature(group, planner.tensors, planner.constants) for group in groups}

    def _planner(self, graph: Graph, tuned: Mapping[str, NodeOptions], pool: ThreadPoolExecutor) -> Planner:
        packs = Packer(self.engine.packs, pool)
        return Planner(graph.copy(), self.setup.target, self.setup.config, packs, lambda _: None, tuned=tuned)

    def graphs(self) -> list[str]:
        """The signatures of those graphs of the model of which values are in blocks of channels."""
        blocked = [graph for graph, plan in self.engine.planned if any("NCHW" in step.layout for step in plan.program.steps)]
        with ThreadPoolExecutor(1) as pool:
            return list(dict.fromkeys(self._planner(graph, {}, pool).signature() for graph in blocked))

    def whole(self, layout: Layout) -> WholeTrial:
        """The model with its values in ``layout``."""
        config = replace(self.setup.config, layout=layout)
        sites = Sites(self.model, replace(self.setup, config=config), self.shapes)
        sites.run()  # what needs values to be planned is planned now
        steps = [step for _, plan in sites.engine.planned for step in plan.program.steps]
        return WholeTrial(tuple((step.kernel, step.layout) for step in steps), sites.run)

    def _passing(self) -> int:
        """Bytes of weights that a call of the model reads, as far as the caches could hold them."""
        weights = sum(sum(plan.program.constants) for _, plan in self.engine.planned)
        return min(weights, 2 * max(self.setup.target.l2, self.setup.target.l3))

    def trial(self, site: Site, options: NodeOptions) -> Trial:
        """The kernel made with ``options``, where the configuration does not say otherwise. Raises ``LoopnestError`` where it cannot be."""
        graph, _ = self.engine.planned[site.graph]
        with ThreadPoolExecutor(1) as pool:
            planner = self._planner(graph, {site.output: options}, pool)
            laid_out = planner.lay_out()
            group = next(g for g in laid_out.groups if g.anchor.outputs[0] == site.output)
            view = dict(laid_out.views.get(group, {}))
            step = planner.new_step(group, ChainMap(view, planner.tensors), planner.options(group.anchor), None)
            for notice in planner.notices:
                raise ConfigError(str(notice))
            constants = {**planner.constants, **planner.packs.arrays()}
        return self._bound(step, planner.tensors, constants)

    def _bound(self, step: PlannedStep, tensors: Mapping[str, Tensor], constants: Mapping[str, np.ndarray]) -> Trial:
        program, inputs, blobs = _program(step, tensors, constants)
        request = KernelRequest(step.key, step.source, step.group.node_names)
        addresses = self.alone.addresses_of({step.key.digest: request})
        natives = [
            Executable(program, addresses, _placed(blobs, 8), self.setup.threads, keep=self.alone)
            for _ in range(_copies(sum(blob.nbytes for blob in blobs), self._passing()))
        ]
        random = np.random.default_rng(0)
        arrays = _placed((to_layout(_values(tensors[name], random), tensors[name]) for name in inputs), 4)
        results = tuple(_placed(np.zeros(spec.extents, spec.numpy) for spec in program.outputs))
        identity = step.key.digest, step.canonical.values
        return Trial(
            identity,
            step.lowered.choices,
            step.group,
            tensors,
            _in_turn([native.bind(arrays, results) for native in natives]),
            results,
        )


def _copies(nbytes: int, passing: int) -> int:
    """How many copies of so many bytes of weights to run a kernel on in turn: in a model, ``passing`` bytes of weights pass through the
    caches before the same ones come again. A kernel whose weights stay there would be tuned to what never is."""
    return max(1, min(MOST_COPIES, -(-passing // nbytes))) if nbytes else 1


def _in_turn(calls: Sequence[Callable[[], None]]) -> Callable[[], None]:
    if len(calls) == 1:
        return calls[0]
    following = cycle(calls)

    def run() -> None:
        next(following)()

    return run


def _program(
    step: PlannedStep, tensors: Mapping[str, Tensor], constants: Mapping[str, np.ndarray]
) -> tuple[Program, list[str], list[np.ndarray]]:
    """A program of one step, the values that it takes, and its constants."""
    buffers, arguments, inputs, blobs, scratch = list[BufferSpec](), list[tuple[int, int]](), list[str](), list[np.ndarray](), 0
    for argument in step.lowered.arguments:
        if isinstance(argument, int):
            nbytes = -(-max(1, argument) // ALIGNMENT) * ALIGNMENT
            buffers.append(BufferSpec("scratch", 0, scratch, nbytes))
            scratch += nbytes
        elif argument in step.group.outputs:
            buffers.append(BufferSpec("output", step.group.outputs.index(argument), 0, tensors[argument].nbytes))
        elif argument in constants:
            blobs.append(np.require(constants[argument], requirements=("C", "A")).reshape(-1).view(np.uint8))
            buffers.append(BufferSpec("constant", len(blobs) - 1, 0, blobs[-1].nbytes))
        else:
            inputs.append(argument)
            buffers.append(BufferSpec("input", len(inputs) - 1, 0, tensors[argument].nbytes))
        arguments.append((len(buffers) - 1, 0))

    def spec(name: str) -> TensorSpec:
        return TensorSpec(name, tensors[name].dtype.name, tensors[name].physical)

    nest = step.canonical.nest
    one = Step(step.key.digest, tuple(arguments), step.canonical.values, parallel=nest.parallel, errors=nest.errors)
    sizes = tuple(blob.nbytes for blob in blobs)
    outputs = tuple(map(spec, step.group.outputs))
    return Program(tuple(map(spec, inputs)), outputs, tuple(buffers), (one,), 0, scratch, sizes), inputs, blobs


def from_layout(array: np.ndarray, tensor: Tensor) -> np.ndarray:
    """The elements of a tensor in row-major order: the inverse of ``to_layout``, without padding."""
    if tensor.layout.block:
        array = np.moveaxis(array, -1, 2)
        array = array.reshape(array.shape[0], -1, *array.shape[3:])
    return array[tuple(slice(p, p + n) for (p, _), n in zip(tensor.margins, tensor.shape, strict=True))]


def _placed(arrays: Iterable[np.ndarray], first: int = 0) -> list[np.ndarray]:
    """Copies, each a few lines further behind the start of a page than the one before: no candidate is luckier than another in which of
    its arrays fall on the same lines of the first cache, or whose stores seem to meet its loads."""
    return [_copy_at(array, (first + number) * APART) for number, array in enumerate(arrays)]


def _copy_at(array: np.ndarray, offset: int) -> np.ndarray:
    raw, address = aligned_empty((array.nbytes + 2 * PAGE,), np.dtype(np.uint8), array.nbytes + 2 * PAGE)
    start = -address % PAGE + offset % PAGE
    copy = np.ndarray(array.shape, array.dtype, raw, start)
    copy[...] = array
    return copy


def _values(tensor: Tensor, random: np.random.Generator) -> np.ndarray:
    if tensor.dtype.is_float:
        return random.standard_normal(tensor.shape, np.float32).astype(tensor.dtype.numpy)
    return random.integers(0, 2, tensor.shape).astype(tensor.dtype.numpy)


def _stand_in(spec: TensorSpec) -> np.ndarray:
    """An array for an input; dims that are left open are 1."""
    if spec.shape is None:
        raise LoopnestError(f"the shape of input {spec.name!r} is not known: give it one")
    shape = tuple(dim if isinstance(dim, int) else 1 for dim in spec.shape)
    random = np.random.default_rng(0)
    if spec.numpy.kind == "f":
        return random.standard_normal(shape, np.float32).astype(spec.numpy)
    return random.integers(0, 2, shape).astype(spec.numpy)
