"""What LLVM says of this machine.

Asking it means to load it, 45 MB and more than all else that a process does which finds its plan in the cache. Such a process is told
(``tell``) what LLVM said to an earlier one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Host:
    """LLVM's triple of this process, and its name and features (as a feature string) of the processor."""

    triple: str
    cpu: str
    features: str

    @property
    def arch(self) -> str:
        """The architecture, as LLVM calls it."""
        arch = self.triple.split("-")[0]
        return {"arm64": "aarch64", "amd64": "x86_64"}.get(arch, arch)

    @property
    def enabled(self) -> frozenset[str]:
        """The features that the processor has."""
        return frozenset(feature[1:] for feature in self.features.split(",") if feature.startswith("+"))


_known: list[Host] = []


def host() -> Host:
    """This machine; LLVM is asked once, unless this process was told."""
    if not _known:
        import llvmlite.binding as llvm

        features = llvm.get_host_cpu_features().flatten()
        _known.append(Host(llvm.get_process_triple(), llvm.get_host_cpu_name(), features))
    return _known[0]


def tell(said: Host) -> None:
    """Spares this process asking, if it has not done so yet."""
    if not _known:
        _known.append(said)


def is_known() -> bool:
    """Whether LLVM need not be asked any more."""
    return bool(_known)
