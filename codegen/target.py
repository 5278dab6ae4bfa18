"""Targets: what the code generator needs to know about a processor, as data.

A target is an instruction set (lanes, registers, masks, fused multiply-add) on an LLVM triple, plus the cache sizes that tile
sizes are derived from. ``resolve("cpu")`` is the machine we run on; a named one such as ``"cpu-avx2"`` gives the same machine
code everywhere, because it takes nothing but cache sizes from the host.

>>> resolve("cpu-avx2").lanes(32)
8
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..ir.errors import TargetError
from .host import host

if TYPE_CHECKING:
    import llvmlite.binding as llvm


@dataclass(frozen=True)
class RegisterTile:
    """Accumulators of a GEMM or convolution kernel: ``rows`` x ``vectors`` vector registers."""

    rows: int
    vectors: int


@dataclass(frozen=True)
class Isa:
    """An instruction set: the part of a target that is the same on every machine that has it."""

    name: str
    arch: str
    cpu: str
    """LLVM's name of the baseline processor; it implies the features, so that the feature string can stay empty."""
    requires: frozenset[str]
    """LLVM features that a host must have to run the code."""
    vector_bits: int
    vector_registers: int
    fma: bool
    masked: bool
    tuning: str = ""
    """LLVM tuning switches in feature-string form."""


_X86_64_V2 = frozenset(("sse2", "sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "cx16", "sahf"))
_X86_64_V3 = _X86_64_V2 | {"avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "xsave"}
_X86_64_V4 = _X86_64_V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}

# Best first within an architecture: the host takes the first one it has. AVX2 counts as unmasked although it has vmaskmov, because
# its masked store is microcoded on AMD (tens of cycles); scalar tails are faster there.
ISAS: tuple[Isa, ...] = (
    Isa("avx512", "x86_64", "x86-64-v4", _X86_64_V4, 512, 32, fma=True, masked=True, tuning="-prefer-256-bit"),
    Isa("avx2", "x86_64", "x86-64-v3", _X86_64_V3, 256, 16, fma=True, masked=False),
    Isa("sse2", "x86_64", "x86-64", frozenset({"sse2"}), 128, 16, fma=False, masked=False),
    Isa("neon", "aarch64", "generic", frozenset({"neon"}), 128, 32, fma=True, masked=False),
)
_BY_NAME = {isa.name: isa for isa in ISAS}

# Intrinsics by lanes of 32 bits.
_PMADDWD = {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}

# Accumulators leave room for one row of vectors, a broadcast value and, without fused multiply-add, a product.
REGISTER_TILES: dict[tuple[str, str], RegisterTile] = {
    (isa, dtype): tile
    for isa, tile in {
        "avx512": RegisterTile(14, 2),
        "avx2": RegisterTile(6, 2),
        "sse2": RegisterTile(6, 2),
        "neon": RegisterTile(12, 2),
    }.items()
    for dtype in ("float32", "float64", "int32", "int64")
}


@dataclass(frozen=True)
class Target:
    """What kernels are generated for. Two targets with equal ``key`` give the same machine code for the same scheduled nest."""

    name: str
    isa: str
    triple: str
    cpu: str
    features: str
    vector_bits: int
    vector_registers: int
    fma: bool
    masked: bool
    l1: int
    l2: int
    l3: int
    missing: tuple[str, ...] = ()
    """Features that this machine lacks to run the code; empty when it can."""

    def lanes(self, bits: int) -> int:
        """Elements of ``bits`` bits in one vector register."""
        return max(1, self.vector_bits // bits)

    def dot16(self, lanes: int) -> str | None:
        """LLVM's name of the instruction for ``dot16`` on so many lanes of 32 bits, where the target has one."""
        have = self.arch == "x86_64" and 32 * lanes <= _BY_NAME[self.isa].vector_bits
        return _PMADDWD.get(lanes) if have else None

    @property
    def block(self) -> int:
        """Channels in the innermost block of the NCHWc layout: one vector of float32."""
        return self.lanes(32)

    def register_tile(self, dtype: str = "float32") -> RegisterTile:
        """The accumulator block of GEMM and convolution for ``dtype``; ``KeyError`` for one with no row in the table."""
        return REGISTER_TILES[self.isa, dtype]

    @property
    def arch(self) -> str:
        """The architecture, as LLVM calls it."""
        return _BY_NAME[self.isa].arch

    @property
    def requires(self) -> tuple[str, ...]:
        """LLVM's names of the features that the machine code may use."""
        stated = {feature[1:] for feature in self.features.split(",") if feature.startswith("+")}
        return tuple(sorted(_BY_NAME[self.isa].requires | stated))

    @property
    def runs_here(self) -> bool:
        return not self.missing

    @property
    def key(self) -> str:
        """All that LLVM's output depends on, printable; cache sizes are not part of it (they reach code through tile sizes)."""
        return f"{self.triple} {self.cpu} [{self.features}] {self.isa}/{self.vector_bits}"

    def with_vector_bits(self, bits: int | None) -> Target:
        """The same processor used with narrower vectors; ``TargetError`` when it has none that wide. None changes nothing."""
        if bits is None or bits == self.vector_bits:
            return self
        if bits > self.vector_bits:
            raise TargetError(f"target {self.name!r} has {self.vector_bits}-bit vectors; vector_bits = {bits} is wider")
        return replace(self, vector_bits=bits)

    def require_runnable(self) -> None:
        """Raise ``TargetError`` naming the missing features when this machine cannot run the code."""
        if self.missing:
            raise TargetError(
                f"this machine ({host().cpu}) cannot run code for target {self.name!r}: "
                f"it lacks {', '.join(self.missing)}; it can run {', '.join(runnable_names())}"
            )

    def machine(self, opt: int = 3) -> llvm.TargetMachine:
        """An LLVM target machine that emits position-independent code for this target; any triple of ``ISAS`` works on any host."""
        import llvmlite.binding as llvm

        _initialize_llvm()
        return llvm.Target.from_triple(self.triple).create_target_machine(
            cpu=self.cpu, features=self.features, opt=opt, reloc="pic", codemodel="default", jit=True
        )

    def as_text(self) -> str:
        here = "runs here" if self.runs_here else f"does not run here: lacks {', '.join(self.missing)}"
        return (
            f"{self.name}: {self.isa}, {self.vector_registers} registers of {self.vector_bits} bits, "
            f"{'fma' if self.fma else 'no fma'}, {'masks' if self.masked else 'no masks'}, "
            f"L1 {self.l1 >> 10} KiB, L2 {self.l2 >> 10} KiB, L3 {self.l3 >> 10} KiB, {self.triple} {self.cpu} ({here})"
        )


def resolve(name: str = "cpu") -> Target:
    """The target called ``name``. ``TargetError`` listing the known names for any other.

    A known target that this machine cannot run is returned too (for cross generation), with ``missing`` filled in.
    """
    return _resolve(name)


@cache
def _resolve(name: str) -> Target:
    if name == "cpu":
        isa = host_isa()
        features = ",".join(filter(None, (host().features, isa.tuning)))
        return _target(name, isa, host().triple, host().cpu, features)
    if name == "cpu-generic":
        isa = [isa for isa in ISAS if isa.arch == host_isa().arch][-1]
    elif name in known_names():
        isa = _BY_NAME[name.removeprefix("cpu-")]
    else:
        near = difflib.get_close_matches(name, known_names(), 1)
        hint = f", did you mean {near[0]!r}?" if near else "."
        raise TargetError(f"unknown target {name!r}{hint} The known ones are {', '.join(known_names())}")
    return _target(name, isa, _triple(isa.arch), isa.cpu, isa.tuning)


def _target(name: str, isa: Isa, triple: str, cpu: str, features: str) -> Target:
    l1, l2, l3 = cache_sizes()
    return Target(
        name=name,
        isa=isa.name,
        triple=triple,
        cpu=cpu,
        features=features,
        vector_bits=isa.vector_bits,
        vector_registers=isa.vector_registers,
        fma=isa.fma,
        masked=isa.masked,
        l1=l1,
        l2=l2,
        l3=l3,
        missing=_missing(isa),
    )


def known_names() -> tuple[str, ...]:
    """Every name that ``resolve`` takes."""
    return ("cpu", *(f"cpu-{isa.name}" for isa in ISAS), "cpu-generic")


def runnable_names() -> tuple[str, ...]:
    """The known names whose code this machine can run."""
    return tuple(name for name in known_names() if resolve(name).runs_here)


def host_isa() -> Isa:
    """The best instruction set of ``ISAS`` that this machine has; ``TargetError`` on an architecture without any."""
    for isa in ISAS:
        if not _missing(isa):
            return isa
    raise TargetError(f"loopnest has no code generator for this machine's architecture, {host().arch!r}")


def _missing(isa: Isa) -> tuple[str, ...]:
    if isa.arch != host().arch:
        return (f"the {isa.arch} architecture",)
    if isa.arch == "aarch64":  # Advanced SIMD is part of the base architecture; macOS does not report it
        return ()
    return tuple(sorted(isa.requires - host().enabled))


def _triple(arch: str) -> str:
    return host().triple if arch == host().arch else f"{arch}-unknown-linux-gnu"


@cache
def _initialize_llvm() -> None:
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


DEFAULT_CACHES: tuple[int, int, int] = (32 << 10, 1 << 20, 8 << 20)
"""Bytes of L1 data, L2 and L3 cache assumed where the system does not tell."""


@cache
def cache_sizes(directory: str = "/sys/devices/system/cpu/cpu0/cache") -> tuple[int, int, int]:
    """Bytes of L1 data, L2 and L3 cache of this machine as Linux reports them; ``DEFAULT_CACHES`` for what is not reported."""
    sizes: dict[int, int] = dict(enumerate(DEFAULT_CACHES, 1))
    for index in Path(directory).glob("index*"):
        try:
            level, kind = int((index / "level").read_text()), (index / "type").read_text().strip()
            size = _parse_size((index / "size").read_text().strip())
        except (OSError, ValueError):
            continue
        if kind != "Instruction" and level in sizes and size > 0:
            sizes[level] = size
    return sizes[1], sizes[2], sizes[3]


def _parse_size(text: str) -> int:
    units = {"K": 10, "M": 20, "G": 30}
    return int(text[:-1]) << units[text[-1]] if text[-1:] in units else int(text)
