"""What all plans of one model share: target, configuration, kernels, packed constants, workspaces."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..codegen.target import Target
from ..ir.graph import Graph
from ..runtime.arrays import ArrayCache
from ..runtime.buffers import Workspaces
from ..runtime.executor import Executable
from . import progress
from .config import Config
from .dump import Dump
from .kernels import Kernels
from .packing import PackedConstants
from .passes import passes_of, run_passes
from .plan import Plan, make_plan, stages_of


@dataclass
class Engine:
    """Turns graphs into executables, for one target and configuration."""

    target: Target
    config: Config
    threads: int
    kernels: Kernels
    dump: Dump
    workspaces: Workspaces = field(default_factory=Workspaces)
    packs: PackedConstants = field(init=False)

    def __post_init__(self) -> None:
        files = self.kernels.cache.files if self.kernels.cache else None
        self.packs = PackedConstants(ArrayCache(files) if files else None)

    def optimize(self, graph: Graph) -> Graph:
        """The passes of the optimization level: once on the model as it comes, again when shapes are concrete."""
        with progress.stage("passes"):
            return run_passes(graph, passes_of(self.config.opt_level), dump=self.dump.graph, check=self.config.verifies)

    def plan(self, graph: Graph) -> Plan:
        """The plan of a graph whose types are all concrete. Within ``kernels.compiling``, its kernels are compiled meanwhile."""
        optimized = self.optimize(graph)
        with progress.stage("plan"):
            plan = make_plan(optimized, self.target, self.config, self.packs, self.kernels.expect)
        for stage, text in stages_of(plan).items() if self.dump.wanted else ():
            self.dump.text(stage, text)
        return plan

    def executable(self, plan: Plan) -> Executable:
        """The plan bound to machine code."""
        if self.dump.directory is not None:
            self._dump_kernels(plan)
        addresses = self.kernels.addresses_of(plan.kernels)
        return Executable(plan.program, addresses, plan.constants, self.threads, workspaces=self.workspaces, keep=self.kernels)

    def _dump_kernels(self, plan: Plan) -> None:
        """Writes every kernel; compiles those that are in the cache too, since only the compiler has their LLVM."""
        for digest, request in plan.kernels.items():
            if digest not in self.dump.kernels:
                kernel = self.kernels.compile(request)
                text = f"# {digest[:12]}: {' '.join(request.nodes.split())}\n{request.source.text}"
                self.dump.kernel(digest, {"py": text, "ll": kernel.llvm(), "s": kernel.assembly()})
