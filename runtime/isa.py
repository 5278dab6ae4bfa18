"""What a processor must have to run a piece of machine code."""

from __future__ import annotations

import platform

from ..ir.frozen import Frozen

CPUINFO = "/proc/cpuinfo"
"""Where Linux says what the processor has, of which it has enabled what needs that."""

_SAME = (
    "adx aes avx avx2 avx512bw avx512cd avx512dq avx512f avx512vl bmi2 clflushopt clwb clzero cmov cx16 cx8 f16c fma fsgsbase fxsr gfni "
    "invpcid mmx movbe popcnt rdpid rdseed sse sse2 sse4a ssse3 vaes vpclmulqdq xsave xsavec xsaveopt xsaves"
)
LINUX_NAMES = {
    **{name: name for name in _SAME.split()},
    "64bit": "lm",
    "bmi": "bmi1",
    "crc32": "sse4_2",
    "lzcnt": "abm",
    "neon": "asimd",
    "pclmul": "pclmulqdq",
    "prfchw": "3dnowprefetch",
    "rdrnd": "rdrand",
    "sahf": "lahf_lm",
    "sse3": "pni",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    "sha": "sha_ni",
}
"""What Linux calls features of which LLVM tells, so far as a test has seen it."""

_NEVER_USED = frozenset({"shstk"})
"""Of the system's business: a processor has them, Linux does not let programs have them, and no kernel uses them."""


class Isa(Frozen):
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
        used = [feature for feature in self.features if feature not in _NEVER_USED]
        names = [LINUX_NAMES.get(feature) for feature in used]
        if flags and None not in names:  # without LLVM, which takes longer to load than all else
            return tuple(sorted(feature for feature, name in zip(used, names, strict=True) if name not in flags))
        import llvmlite.binding as llvm

        host = llvm.get_host_cpu_features()
        if self.arch == "aarch64":  # Advanced SIMD is part of the base architecture; macOS does not report it
            host = {"neon": True, **host}
        return tuple(sorted(feature for feature in used if not host.get(feature, False)))


def linux_flags() -> frozenset[str]:
    """The flags of the first processor; none where Linux does not say."""
    try:
        with open(CPUINFO, encoding="ascii", errors="replace") as file:
            text = file.read()
    except OSError:
        return frozenset()
    lines = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return frozenset(flag for name, _, flags in lines if name.strip() in ("flags", "Features") for flag in flags.split())
