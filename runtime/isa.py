"""What a processor must have to run a piece of machine code."""

from __future__ import annotations

from dataclasses import dataclass

import llvmlite.binding as llvm


@dataclass(frozen=True)
class Isa:
    """An instruction set: ``name`` for people, the architecture, and LLVM's names of the features that code may use."""

    name: str
    arch: str
    features: tuple[str, ...]

    def missing(self) -> tuple[str, ...]:
        """What this machine lacks; empty when it can run the code."""
        arch = llvm.get_process_triple().split("-")[0]
        if {"arm64": "aarch64", "amd64": "x86_64"}.get(arch, arch) != self.arch:
            return (f"the {self.arch} architecture",)
        if self.arch == "aarch64":  # Advanced SIMD is part of the base architecture; macOS does not report it
            host = {"neon": True, **llvm.get_host_cpu_features()}
        else:
            host = llvm.get_host_cpu_features()
        return tuple(sorted(feature for feature in self.features if not host.get(feature, False)))
