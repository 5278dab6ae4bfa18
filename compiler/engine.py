"""What all plans of one model share: target, configuration, kernels, workspaces."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..codegen.target import Target
from ..ir.graph import Graph
from ..runtime.buffers import Workspaces
from ..runtime.executor import Executable
from .config import Config
from .dump import Dump
from .kernels import Kernels
from .packing import PackedConstants
from .passes import PASSES, run_passes
from .plan import Plan, stages_of


@dataclass
class Engine:
    target: Target
    config: Config
    threads: int
    kernels: Kernels
    dump: Dump
    workspaces: Workspaces = field(default_factory=Workspaces)
    packs: PackedConstants = field(default_factory=PackedConstants)

    def optimize(self, graph: Graph) -> Graph:
        """The passes that need concrete shapes."""
        optimized = run_passes(graph, PASSES, dump=self.dump.graph)
        return optimized

    def executable(self, plan: Plan) -> Executable:
        """The plan bound to machine code."""
        for stage, text in stages_of(plan).items():
            self.dump.text(stage, text)
        addresses = self.kernels.addresses_of(plan.kernels, self.target)
        return Executable(plan.program, addresses, plan.constants, self.threads, workspaces=self.workspaces, keep=self.kernels)
