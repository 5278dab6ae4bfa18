"""What a processor must have to run a piece of machine code."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Isa:
    """An instruction set: ``name`` for people, the architecture, and LLVM's names of the features that code may use."""

    name: str
    arch: str
    features: tuple[str, ...]

    def is_host_architecture(self) -> bool:
        """Whether this machine is of the architecture, whatever its features."""
        import llvmlite.binding as llvm  # takes a while, which others spend on checksums

        arch = llvm.get_process_triple().split("-")[0]
        return {"arm64": "aarch64", "amd64": "x86_64"}.get(arch, arch) == self.arch

    def missing(self) -> tuple[str, ...]:
        """What this machine lacks; empty when it can run the code."""
        import llvmlite.binding as llvm

        if not self.is_host_architecture():
            return (f"the {self.arch} architecture",)
        host = llvm.get_host_cpu_features()
        if self.arch == "aarch64":  # Advanced SIMD is part of the base architecture; macOS does not report it
            host = {"neon": True, **host}
        return tuple(sorted(feature for feature in self.features if not host.get(feature, False)))
