"""Kernels by what they compute: from memory, from the cache on disk, or compiled now."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import llvmlite

from ..codegen.source import KernelSource
from ..codegen.target import Target
from ..ir.errors import LoopnestError, VerificationError
from ..runtime.cache import CacheKey, KernelCache, source_fingerprint
from ..runtime.linker import Linked, link
from . import progress

if TYPE_CHECKING:
    from ..codegen.kernel import KernelModule


@dataclass(frozen=True)
class KernelRequest:
    """A kernel that a plan calls; ``nodes`` are the ONNX nodes of one of its calls, for messages."""

    key: CacheKey
    source: KernelSource
    nodes: str = ""


@dataclass
class Kernels:
    """Machine code in this process, linked once per key and kept. Safe from many threads: one compiles, those that need nothing
    new do not wait."""

    cache: KernelCache | None
    target: Target
    compiled: int = 0
    """Kernels compiled here, not found in the cache."""
    _addresses: dict[str, int] = field(default_factory=dict)
    _linked: list[Linked] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def addresses_of(self, requests: Mapping[str, KernelRequest]) -> dict[str, int]:
        """The address of each kernel, by digest; those in neither memory nor cache are compiled.

        Raises ``VerificationError`` naming the nodes of a kernel that cannot be compiled.
        """
        if not requests.keys() <= self._addresses.keys():
            with self._lock:
                self._bring({digest: item for digest, item in requests.items() if digest not in self._addresses})
        return {digest: self._addresses[digest] for digest in requests}

    def compile(self, request: KernelRequest) -> tuple[KernelModule, bytes]:
        """Compiles a kernel, whether or not it is in the cache, and puts its object code there."""
        from ..codegen.kernel import emit_kernel

        try:
            module = emit_kernel(request.source, self.target)
            code = module.object_code()
        except LoopnestError:
            raise
        except Exception as error:  # whatever Numba or LLVM raise
            raise VerificationError(
                f"the kernel {request.source.nest.name} of {request.nodes or 'a node'} cannot be compiled: {type(error).__name__}: {error}"
            ) from error
        self.compiled += 1
        if self.cache:
            self.cache.put(request.key, code, module.symbol)
        return module, code

    def _bring(self, missing: Mapping[str, KernelRequest]) -> None:
        objects: dict[str, tuple[bytes, str]] = {}
        for done, (digest, request) in enumerate(missing.items()):
            progress.report("kernels", done, len(missing))
            entry = self.cache.get(request.key) if self.cache else None
            if entry is not None:
                objects[digest] = entry.object_code, entry.symbol
            else:
                module, code = self.compile(request)
                objects[digest] = code, module.symbol
        if objects:
            linked = link(objects)
            self._linked.append(linked)
            self._addresses.update((digest, linked.address(digest)) for digest in objects)
        progress.report("kernels", len(missing), len(missing))


def kernel_key(source: KernelSource, target: Target) -> CacheKey:
    """What a kernel's machine code depends on. Options of a configuration act through the source and the target."""
    return CacheKey(
        (
            ("codegen", source_fingerprint()),
            ("numba", _numba_version()),
            ("llvmlite", llvmlite.__version__),
            ("target", target.key),
            ("source", source.text),
        )
    )


@cache
def _numba_version() -> str:
    """The installed version, without importing numba."""
    from importlib.metadata import version

    return version("numba")
