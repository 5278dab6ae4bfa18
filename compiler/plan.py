"""From groups to a program: nests lowered, kernels found or compiled, memory laid out."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np

from ..codegen.source import KernelSource, print_kernel
from ..codegen.target import Target
from ..ir import dtypes
from ..ir.canonical import Canonical, canonicalize
from ..ir.errors import LoopnestError, VerificationError
from ..ir.graph import Graph, Node, TensorType
from ..runtime.cache import CacheKey
from ..runtime.memory import Lifetime, plan_arena
from ..runtime.program import ALIGNMENT, BufferSpec, Program, Step, TensorSpec
from .algorithms import groups_of
from .choices import IllegalChoice
from .config import Config, NodeOptions
from .fusion import definition_of, fuse
from .group import Group
from .kernels import KernelRequest, kernel_key
from .late_filters import late_filters
from .layout import LaidOut, assign_layouts
from .likeness import Lookalikes, likeness, renamed
from .lowering import Lowered, Lowering
from .notices import Notices
from .ops.pairs import is_of_pairs
from .overrides import check_layouts, check_overrides, ineffective, without_illegal
from .packing import PackedConstants, Packer
from .placement import Places, place_parts
from .tensor import Tensor
from .traffic import traffic
from .tuning.entries import tuned_config, tuned_options
from .tuning.signature import graph_signature

PACKING_THREADS = 2


@dataclass(frozen=True)
class PlannedStep:
    """One kernel call before memory is laid out."""

    group: Group
    lowered: Lowered
    canonical: Canonical
    source: KernelSource
    key: CacheKey
    flops: int
    bytes: int


@dataclass(frozen=True)
class Plan:
    """A program, the kernels it calls and the constants it reads, in the order of ``Program.constants``."""

    program: Program
    steps: tuple[PlannedStep, ...]
    kernels: dict[str, KernelRequest]
    constants: tuple[np.ndarray, ...]
    groups: tuple[Group, ...]
    notices: Notices

    def repeated(self, images: int) -> Plan:
        """The plan of one image for so many of them (``images.py``): the same program, walked once for each."""
        program = self.program
        inputs, outputs = (
            tuple(spec.replace(shape=(images, *spec.extents[1:])) for spec in specs)
            for specs in (program.inputs, program.outputs)
        )
        return replace(self, program=program.replace(inputs=inputs, outputs=outputs, images=images))


def make_plan(
    graph: Graph,
    target: Target,
    config: Config,
    packs: PackedConstants | None = None,
    expect: Callable[[KernelRequest], None] = lambda _: None,
    threads: int = 1,
) -> Plan:
    """The plan of a graph whose types are all concrete; ``packs`` holds what plans of the same model have packed already.

    ``expect`` is called with every kernel as soon as it is known. ``threads`` will run it: kernels may have been tuned for as many.
    """
    with ThreadPoolExecutor(PACKING_THREADS) as pool:
        return Planner(graph, target, config, Packer(packs or PackedConstants(), pool), expect, threads=threads).run()


@dataclass
class Planner:
    """Makes the plan of a graph, which it changes. ``packs`` and ``expect`` as in ``make_plan``."""

    graph: Graph
    target: Target
    config: Config
    packs: Packer
    expect: Callable[[KernelRequest], None]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    places: Places = field(default_factory=Places)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    lookalikes: Lookalikes = field(default_factory=Lookalikes)
    threads: int = 1
    tuned: Mapping[str, NodeOptions] = field(default_factory=dict[str, NodeOptions])
    """Options by the first output of a group's anchor; what the configuration sets comes first."""
    notices: Notices = field(default_factory=Notices)
    late: frozenset[str] = frozenset()
    """Filters that kernels transform."""

    def fused(self) -> list[Group]:
        """Groups, and all tensors, none laid out."""
        self.constants = dict(self.graph.constants)
        self._export_constants()
        for name, kind in self.graph.types.items():
            if isinstance(kind, TensorType) and kind.static_shape is not None:
                self.tensors[name] = Tensor(name, kind.dtype, kind.static_shape)
        for name, array in self.constants.items():
            self.tensors[name] = Tensor(name, dtypes.from_numpy(array.dtype), array.shape)
        apart = {id(node) for node in self.graph.nodes if not self.config.for_node(node.op, node.name).fuse}
        return fuse(self.graph, allowed=lambda node: id(node) not in apart)

    def lay_out(self) -> LaidOut:
        """Groups, and tensors with their layouts."""
        groups = self.fused()
        if self.config.tuned and not self.tuned:
            self.config = tuned_config(
                self.graph, groups, self.tensors, self.constants, self.target, self.config, self.threads, self.notices
            )
            self.tuned = tuned_options(
                self.graph, groups, self.tensors, self.constants, self.target, self.config, self.threads, self.notices
            )
        laid_out = assign_layouts(self.graph, groups, self.tensors, self.constants, self.target, self.options)
        check_layouts(laid_out.refused, self.options, self.config, self.target, self.notices)
        anchors = [group.anchor for group in laid_out.groups]
        self.late = late_filters(anchors, self.tensors, self.constants, self.options, self.target)
        return laid_out

    def signature(self) -> str:
        """What names the graph among those that were tuned."""
        groups = self.fused()
        return graph_signature(self.graph.inputs, groups, self.graph.outputs, self.tensors, self.constants)

    def options(self, anchor: Node) -> NodeOptions:
        """The options in force for the group around ``anchor``."""
        options = self.config.for_node(anchor.op, anchor.name, self.tuned.get(anchor.outputs[0]))
        return replace(options, filters="kernel") if self.late.intersection(anchor.inputs[1:2]) else options

    def run(self) -> Plan:
        laid_out = self.lay_out()
        groups = list(laid_out.groups)
        for group in groups:
            if definition_of(group.anchor).kind == "view":
                self.places.put(group.anchor.outputs[0], group.anchor.inputs[0])
        fixed = {*self.graph.inputs, *self.constants}
        groups = place_parts(groups, self.places, self.tensors, fixed, self.graph.outputs)
        last = {self.resolve(name): at for at, group in enumerate(groups) for name in group.inputs}
        last.update((self.resolve(name), len(groups)) for name in self.graph.outputs)
        steps: list[PlannedStep] = []
        for at, group in enumerate(groups):
            if definition_of(group.anchor).kind == "view" or not any(prod(self.tensors[n].shape) for n in group.outputs):
                continue
            inplace = self.inplace(group, {root for root, end in last.items() if end == at})
            steps.append(self.step(group, laid_out.views.get(group, {}), inplace))
            if inplace:
                source, output = inplace
                self.places.put(output, source)
                last[source] = last.pop(output, len(groups))
        if self.config.node:
            self.notices.add(*ineffective(laid_out.groups, [step.group for step in steps], self.config))
        return self.assemble(steps, groups)

    def inplace(self, group: Group, dying: set[str]) -> tuple[str, str] | None:
        """An input and the output that may take its memory: both are walked element by element, and nobody reads the input later.

        That is so for the inputs of pointwise nodes that follow the anchor, or of all nodes where the anchor is pointwise too.
        """
        output = group.outputs[0]
        if len(group.outputs) != 1 or any(definition_of(n).kind != "pointwise" for n in group.nodes if n is not group.anchor):
            return None
        kind = definition_of(group.anchor).kind
        if kind not in ("pointwise", "reduction"):
            return None
        before = () if kind == "pointwise" else (*group.prologue, group.anchor)
        read_apart = {self.resolve(n) for node in before for n in node.inputs if n}
        target = self.tensors[output]
        if self.resolve(output) != output:
            return None
        for name in group.inputs:
            root, tensor = self.resolve(name), self.tensors[name]
            if root not in dying or root in read_apart or root in self.constants or root in self.graph.inputs:
                continue
            if [self.resolve(n) for n in group.inputs].count(root) > 1 or root != name:
                continue
            if (tensor.shape, tensor.dtype, tensor.layout) == (target.shape, target.dtype, target.layout):
                return name, output
        return None

    def _export_constants(self) -> None:
        """Outputs that are inputs, constants or views of them get a kernel that copies them, since outputs are fresh memory."""
        producers = self.graph.producers()
        seen: set[str] = set()
        outputs: list[str] = []
        for name in self.graph.outputs:
            root = name
            while root in producers and definition_of(producers[root]).kind == "view":
                root = producers[root].inputs[0]
            if root in producers and root not in seen and root not in self.graph.outputs[: len(outputs)]:
                seen.add(root)
                outputs.append(name)
                continue
            copy = self.graph.fresh_name(f"{name}_copy")
            self.graph.nodes.append(Node("Identity", (name,), (copy,), name=name))
            self.graph.types[copy] = self.graph.types[name]
            outputs.append(copy)
        self.graph.outputs = tuple(outputs)

    def resolve(self, name: str) -> str:
        """The value whose memory ``name`` is."""
        return self.places.root(name)

    def step(self, group: Group, view: dict[str, Tensor], inplace: tuple[str, str] | None) -> PlannedStep:
        tensors = ChainMap(view, self.tensors)
        options = self.options(group.anchor)
        like = likeness(group, tensors, self.constants, options, inplace)
        found = self.lookalikes.find(like) if like is not None else None
        if found is not None:
            twin, names = found
            arguments = renamed(twin.lowered, names, self.constants, self.packs)
            return replace(twin, group=group, lowered=Lowered(twin.lowered.nest, arguments))
        step = self.new_step(group, tensors, options, inplace)
        if like is not None:
            self.lookalikes.add(like, step)
        return step

    def new_step(
        self, group: Group, tensors: MutableMapping[str, Tensor], options: NodeOptions, inplace: tuple[str, str] | None
    ) -> PlannedStep:
        try:
            lowered = self.lower(group, tensors, options, inplace)
        except IllegalChoice as error:
            legal = without_illegal(error, group.anchor, options, self.config, self.notices)
            return self.new_step(group, tensors, legal, inplace)
        except (LoopnestError, MemoryError):
            raise
        except Exception as error:  # a defect: say where
            raise VerificationError(
                f"{group.title} of {group.node_names} cannot be lowered: {type(error).__name__}: {error}"
            ) from error
        check_overrides(group, tensors, self.constants, options, self.config, self.target, lowered.choices)
        canonical = canonicalize(lowered.nest)
        source = print_kernel(canonical)
        moved = traffic(group, tensors, (n for n in lowered.arguments if isinstance(n, str)))
        key = kernel_key(source, self.target)
        self.expect(KernelRequest(key, source, group.node_names))
        return PlannedStep(group, lowered, canonical, source, key, self.flops(group), moved)

    def lower(
        self, group: Group, tensors: MutableMapping[str, Tensor], options: NodeOptions, inplace: tuple[str, str] | None
    ) -> Lowered:
        lowered = Lowering(group, tensors, self.constants, self.target, options, self.packs, inplace).lower()
        if self.config.verifies:
            from ..ir import loop_verify

            loop_verify.verify(lowered.nest)
        return lowered

    def flops(self, group: Group) -> int:
        """Two per multiply-add of a sum of products, one per element of each other node that computes."""
        total = 0
        for node in group.nodes:
            if definition_of(node).kind == "injective" or node.op == "Identity":
                continue
            elements = prod(self.tensors[node.outputs[0]].shape) if node.outputs[0] in self.tensors else 0
            total += elements * (2 * self.depth(node) if node.op in _CONTRACTIONS else 1)
        return total

    def depth(self, node: Node) -> int:
        """Products summed into one element."""
        shapes = [self.tensors[name].shape for name in node.inputs[:2]]
        each = 2 if is_of_pairs(node) else 1
        if node.op == "Conv":
            return each * prod(shapes[1][1:])
        if node.op == "MatMul":
            return each * shapes[0][-1] if shapes[0] else 1
        if node.op == "Attention":
            queries, keys, values = (self.tensors[name].shape for name in node.inputs[:3])
            return keys[-1] * (queries[-1] + values[-1]) // values[-1]
        if node.domain == "loopnest":
            return shapes[1][1]  # recurrence: all gates for each hidden unit
        if node.op == "ConvTranspose":
            strides = node.attrs.get("strides") or (1,)
            return max(1, shapes[1][0] * prod(shapes[1][2:]) // (groups_of(node) * prod(strides)))  # type: ignore[arg-type]
        return shapes[0][-2 if node.op == "Gemm" and node.attrs.get("transA") else -1] if shapes[0] else 1

    # --- memory ----------------------------------------------------------------------------------------------------------------

    def assemble(self, steps: list[PlannedStep], groups: list[Group]) -> Plan:
        self.constants.update(self.packs.arrays())
        layout = _Memory(self, steps)
        table = tuple(layout.step(step) for step in steps)
        program = Program(
            tuple(self.spec(name) for name in self.graph.inputs if name in self.tensors),
            tuple(self.spec(name) for name in self.graph.outputs),
            tuple(layout.specs),
            table,
            layout.arena,
            layout.scratch,
            tuple(array.nbytes for array in layout.blobs),
        )
        kernels = {step.key.digest: KernelRequest(step.key, step.source, step.group.node_names) for step in steps}
        return Plan(program, tuple(steps), kernels, tuple(layout.blobs), tuple(groups), self.notices)

    def spec(self, name: str) -> TensorSpec:
        tensor = self.tensors[name]
        return TensorSpec(name, tensor.dtype.name, tensor.shape)


_CONTRACTIONS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "Attention"})


class _Memory:
    """Where each value lies: inputs, outputs and constants where they are, everything else in the arena, reused by lifetime."""

    def __init__(self, planner: Planner, steps: list[PlannedStep]) -> None:
        self.planner = planner
        self.specs: list[BufferSpec] = []
        self.blobs: list[np.ndarray] = []
        self.numbers: dict[str, int] = {}
        self.scratch = 0
        graph = planner.graph
        for i, name in enumerate(n for n in graph.inputs if n in planner.tensors):
            self._add(name, BufferSpec("input", i, 0, planner.tensors[name].nbytes))
        for i, name in enumerate(graph.outputs):
            self._add(planner.resolve(name), BufferSpec("output", i, 0, planner.tensors[name].nbytes))
        self.arena = self._plan_arena(steps)

    def _add(self, name: str, spec: BufferSpec) -> int:
        self.numbers[name] = len(self.specs)
        self.specs.append(spec)
        return self.numbers[name]

    def _plan_arena(self, steps: list[PlannedStep]) -> int:
        first: dict[str, int] = {}
        last: dict[str, int] = {}
        for at, step in enumerate(steps):
            for argument in step.lowered.arguments:
                if isinstance(argument, str):
                    name = self.planner.resolve(argument)
                    if name in self.numbers or name in self.planner.constants:
                        continue
                    first.setdefault(name, at)
                    last[name] = at
        names = list(first)
        lives = [Lifetime(max(1, self.planner.tensors[n].nbytes), first[n], last[n]) for n in names]
        offsets, total = plan_arena(lives)
        for name, offset, life in zip(names, offsets, lives, strict=True):
            self._add(name, BufferSpec("arena", 0, offset, life.nbytes))
        return total

    def place(self, name: str) -> tuple[int, int]:
        """The buffer of a value and the offset there; constants get a buffer when they are first used."""
        root, offset = self.planner.places.find(name)
        found = self.numbers.get(root)
        if found is not None:
            value, size = self.planner.tensors.get(name), self.specs[found].nbytes
            end = offset + value.nbytes if value else size  # a packed constant is as large as its memory
            if end > size:
                raise VerificationError(f"{name} ends {end} bytes behind the start of {root}, whose memory has {size}")
            return found, offset
        array = np.require(self.planner.constants[root], requirements=("C", "A"))
        blob = array.reshape(-1).view(np.uint8)
        self.blobs.append(blob)
        return self._add(root, BufferSpec("constant", len(self.blobs) - 1, 0, blob.nbytes)), offset

    def step(self, planned: PlannedStep) -> Step:
        arguments: list[tuple[int, int]] = []
        at = 0
        for argument in planned.lowered.arguments:
            if isinstance(argument, str):
                arguments.append(self.place(argument))
                continue
            nbytes = -(-max(1, argument) // ALIGNMENT) * ALIGNMENT
            self.specs.append(BufferSpec("scratch", 0, at, nbytes))
            arguments.append((len(self.specs) - 1, 0))
            at += nbytes
        self.scratch = max(self.scratch, at)
        nest = planned.canonical.nest
        return Step(
            planned.key.digest,
            tuple(arguments),
            planned.canonical.values,
            parallel=nest.parallel,
            name=planned.group.node_names,
            op=planned.group.title,
            layout=str(self.planner.tensors[planned.group.outputs[0]].layout),
            flops=planned.flops,
            bytes=planned.bytes,
            errors=nest.errors,
        )


def _nest_text(step: PlannedStep) -> str:
    """A step's loop nest with what it is called with: values by name, and the numbers that its parameters have."""
    arguments = ", ".join(
        f"{b.name} = {a if isinstance(a, str) else f'{a} bytes of scratch'}"
        for b, a in zip(step.canonical.nest.buffers, step.lowered.arguments, strict=True)
    )
    numbers = ", ".join(f"{p.name} = {p.hint}" for p in step.canonical.params)
    return f"# {step.group}\n# {arguments}\n# {numbers}\n{step.source.text}"


def stages_of(plan: Plan) -> Mapping[str, str]:
    """Groups, kernels and program as text."""
    return {
        "groups": "\n".join(map(str, plan.groups)),
        "nests": "\n\n".join(map(_nest_text, plan.steps)),
        "kernels": "\n\n".join(f"# {digest[:12]}\n{request.source.text}" for digest, request in plan.kernels.items()),
        "program": plan.program.as_text(),
    }
