"""What a processor must have to run a piece of machine code."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
"""Where Linux says what the processor has, of which it has enabled what needs that."""

_SAME = "avx avx2 avx512bw avx512cd avx512dq avx512f avx512vl bmi2 cx16 f16c fma movbe popcnt sse2 ssse3 xsave"
LINUX_NAMES = {
    **{name: name for name in _SAME.split()},
    "bmi": "bmi1",
    "lzcnt": "abm",
    "neon": "asimd",
    "sahf": "lahf_lm",
    "sse3": "pni",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
}
"""What Linux calls the features of the instruction sets that code is generated for."""


@dataclass(frozen=True)
class Isa:
    """An instruction set: ``name`` for people, the architecture, and LLVM's names of the features that code may use."""

    name: str
    arch: str
    features: tuple[str, ...]

    def is_host_architecture(self) -> bool:
        """Whether this machine is of the architecture, whatever its features."""
        arch = platform.machine().lower()
        return {"arm64": "aarch64", "amd64": "x86_64"}.get(arch, arch) == self.arch

    def missing(self) -> tuple[str, ...]:
        """What this machine lacks; empty when it can run the code."""
        if not self.is_host_architecture():
            return (f"the {self.arch} architecture",)
        flags = linux_flags()
        names = [LINUX_NAMES.get(feature) for feature in self.features]
        if flags and None not in names:  # without LLVM, which takes longer to load than all else
            return tuple(sorted(feature for feature, name in zip(self.features, names, strict=True) if name not in flags))
        import llvmlite.binding as llvm

        host = llvm.get_host_cpu_features()
        if self.arch == "aarch64":  # Advanced SIMD is part of the base architecture; macOS does not report it
            host = {"neon": True, **host}
        return tuple(sorted(feature for feature in self.features if not host.get(feature, False)))


def linux_flags() -> frozenset[str]:
    """The flags of the first processor; none where Linux does not say."""
    try:
        text = CPUINFO.read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    lines = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return frozenset(flag for name, _, flags in lines if name.strip() in ("flags", "Features") for flag in flags.split())
