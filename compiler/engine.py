"""What all plans of one model share: target, configuration, kernels, packed constants, workspaces."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ..codegen.target import Target
from ..ir.graph import Graph, Node
from ..runtime.arrays import ArrayCache
from ..runtime.buffers import Workspaces
from ..runtime.compile_report import CompileReport
from ..runtime.executor import Executable
from ..runtime.foreign import Foreign
from . import progress
from .config import Config
from .dump import Dump
from .helper import Spare
from .kernels import Kernels
from .notices import Notices
from .overrides import no_effect
from .packing import PackedConstants
from .passes import passes_of, run_passes
from .plan import Plan, make_plan, stages_of
from .setup import Setup


@dataclass
class Engine:
    """Turns graphs into executables, for one target and configuration."""

    setup: Setup
    kernels: Kernels
    dump: Dump
    workspaces: Workspaces = field(default_factory=Workspaces)
    arrays: ArrayCache | None = None
    packs: PackedConstants = field(init=False)
    notices: Notices = field(default_factory=Notices)
    """What is to be told of the configuration, about the model and the plans made so far."""

    def __post_init__(self) -> None:
        files = self.kernels.cache.files if self.kernels.cache else None
        self.packs = PackedConstants(self.arrays or (ArrayCache(files) if files else None))

    @property
    def target(self) -> Target:
        return self.setup.target

    @property
    def config(self) -> Config:
        return self.setup.config

    def optimize(self, graph: Graph) -> Graph:
        """The passes of the optimization level: once on the model as it comes, again when shapes are concrete."""
        left = self.named(graph.nodes)

        def report(name: str, changed: Graph) -> None:
            nonlocal left
            self.dump.graph(name, changed)
            left = self.remaining(left, changed.nodes, f"the pass {name} put others in its place, or found it needless")

        with progress.stage("passes"):
            return run_passes(graph, passes_of(self.config.opt_level), dump=report, check=self.config.verifies)

    def named(self, nodes: Iterable[Node]) -> set[str]:
        """The nodes, or nodes of their bodies, that the configuration has options for, by name."""
        return self.config.node.keys() & _node_names(nodes) if self.config.node else set()

    def remaining(self, before: set[str], after: Iterable[Node], reason: str) -> set[str]:
        """Those of ``before`` that are ``after``; notes of each other one that its options have no effect."""
        left = before & self.named(after)
        self.notices.add(*(no_effect(name, reason) for name in sorted(before - left)))
        return left

    def plan(self, graph: Graph) -> Plan:
        """The plan of a graph whose types are all concrete. Within ``kernels.compiling``, its kernels are compiled meanwhile."""
        optimized = self.optimize(graph)
        with progress.stage("plan"):
            plan = make_plan(optimized, self.target, self.config, self.packs, self.kernels.expect, self.setup.threads)
        self.notices.add(*plan.notices)
        self.notices.tell()
        for stage, text in stages_of(plan).items() if self.dump.wanted else ():
            self.dump.text(stage, text)
        return plan

    def executable(self, plan: Plan) -> Executable:
        """The plan bound to machine code."""
        if self.dump.directory is not None:
            self._dump_kernels(plan)
        addresses = self.kernels.addresses_of(plan.kernels)
        if self.setup.foreign:
            return Foreign(plan.program, plan.constants, self.kernels.objects, self.setup.foreign)
        return Executable(
            plan.program, addresses, plan.constants, self.setup.threads, workspaces=self.workspaces, keep=self.kernels
        )

    def _dump_kernels(self, plan: Plan) -> None:
        """Writes every kernel; compiles those that are in the cache too, since only the compiler has their LLVM."""
        for digest, request in plan.kernels.items():
            if digest not in self.dump.kernels:
                kernel = self.kernels.compile(request)
                text = f"# {digest[:12]}: {' '.join(request.nodes.split())}\n{request.source.text}"
                self.dump.kernel(digest, {"py": text, "ll": kernel.llvm(), "s": kernel.assembly()})


def _node_names(nodes: Iterable[Node]) -> set[str]:
    """The names of nodes and of those in their bodies."""
    return {
        name for node in nodes for name in (node.name, *(n.name for b in node.bodies for part in b.walk() for n in part.nodes))
    }


def make_engine(
    setup: Setup,
    dump: Dump | None = None,
    report: CompileReport | None = None,
    workspaces: Workspaces | None = None,
    arrays: ArrayCache | None = None,
    spare: Spare | None = None,
) -> Engine:
    """What turns graphs into executables; what is given is shared with plans that come from elsewhere. ``spare`` are helpers that have been
    started already."""
    dump = dump or Dump()
    dump.directory = dump.directory or setup.config.dump_directory
    kernels = Kernels(setup.cache, setup.target, report or CompileReport(), spare if spare is not None else Spare())
    return Engine(setup, kernels, dump, workspaces or Workspaces(), arrays)
