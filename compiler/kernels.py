"""Kernels by what they compute: from memory, from the cache on disk, or compiled now."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import cache

import llvmlite

from ..codegen.source import KernelSource
from ..codegen.target import Target
from ..runtime.cache import CacheKey, KernelCache, source_fingerprint
from ..runtime.linker import Linked, link
from . import progress


@dataclass
class Kernels:
    """Machine code in this process, linked once per key and kept. Safe from many threads."""

    cache: KernelCache | None
    addresses: dict[str, int] = field(default_factory=dict)
    linked: list[Linked] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    compiled: int = 0

    def addresses_of(self, sources: dict[str, tuple[CacheKey, KernelSource]], target: Target) -> dict[str, int]:
        """The address of each kernel, by digest; those in neither memory nor cache are compiled."""
        with self.lock:
            missing = {digest: item for digest, item in sources.items() if digest not in self.addresses}
            objects: dict[str, tuple[bytes, str]] = {}
            for done, (digest, (key, source)) in enumerate(missing.items()):
                progress.report("kernels", done, len(missing))
                objects[digest] = self._object(key, source, target)
            if objects:
                linked = link(objects)
                self.linked.append(linked)
                self.addresses.update((digest, linked.address(digest)) for digest in objects)
            return {digest: self.addresses[digest] for digest in sources}

    def _object(self, key: CacheKey, source: KernelSource, target: Target) -> tuple[bytes, str]:
        entry = self.cache.get(key) if self.cache else None
        if entry is not None:
            return entry.object_code, entry.symbol
        from ..codegen.kernel import compile_kernel

        kernel = compile_kernel(source, target)
        self.compiled += 1
        if self.cache:
            self.cache.put(key, kernel.object, kernel.symbol)
        return kernel.object, kernel.symbol


def kernel_key(source: KernelSource, target: Target) -> CacheKey:
    """What a kernel's machine code depends on."""
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
