"""Kernels by what they compute: from memory, from the cache on disk, or compiled now."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Generator, Hashable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from ..codegen import collector
from ..codegen.source import KernelSource
from ..codegen.target import Target
from ..ir.errors import LoopnestError, VerificationError
from ..runtime.cache import CacheKey, Claim, KernelCache, source_fingerprint
from ..runtime.compile_report import CompileReport
from ..runtime.cpus import available_cpus
from ..runtime.linker import Linked, link
from ..runtime.versions import version_of
from . import progress
from .helper import Spare
from .jobs import Job, Jobs

if TYPE_CHECKING:
    from ..codegen.kernel import KernelModule


@dataclass(frozen=True)
class KernelRequest:
    """A kernel that a plan calls; ``nodes`` are the ONNX nodes of one of its calls, for messages."""

    key: CacheKey
    source: KernelSource
    nodes: str = ""


HELPED = 4
"""As many kernels to compile are worth a helper: a process takes about 0.1 s to start, and a second to import Numba."""

PATIENCE = 60.0
"""Seconds to wait for what other processes compile: one of them may be stopped."""

_loops: dict[Hashable, bytes] = {}
"""Loops over tasks that were compiled for this process, by the keys of their jobs."""


@dataclass
class Kernels:
    """Machine code in this process, linked once per key and kept. Safe from many threads; each kernel is compiled at most once."""

    cache: KernelCache | None
    target: Target
    report: CompileReport = field(default_factory=CompileReport)
    spare: Spare = field(default_factory=Spare)
    """Helpers that have been started for the first kernels to compile."""
    _addresses: dict[str, int] = field(default_factory=dict)
    _linked: list[Linked] = field(default_factory=list)
    _objects: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    _jobs: Jobs | None = None
    _asked: set[Hashable] = field(default_factory=set)
    _claims: dict[str, Claim] = field(default_factory=dict[str, Claim])
    _elsewhere: set[str] = field(default_factory=set[str])
    """Kernels that other processes are making."""
    _users: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @contextmanager
    def compiling(self) -> Generator[Jobs]:
        """Within it, ``expect`` makes object code; helpers, if it took any, end with the last of those that are within it."""
        with self._lock:
            self._users += 1
            jobs = self._jobs = self._jobs or Jobs(dict(_loops), spare=self.spare)
        try:
            with collector.paused():
                yield jobs
        finally:
            with self._lock:
                self._users -= 1
                last = not self._users
                if last:
                    self._jobs = None
                    self._asked.clear()
                    self._elsewhere.clear()
                    while self._claims:
                        self._claims.popitem()[1].release()
                    self._objects.clear()
            if last:
                jobs.close()
                self.report.add(helper_seconds=jobs.helper_seconds)

    def expect(self, request: KernelRequest) -> None:
        """Says that a kernel will be needed: if it is in neither memory nor cache, its code is made from now on, here or by a helper.

        Raises ``VerificationError`` naming the nodes of a kernel for which no code can be emitted.
        """
        digest = request.key.digest
        with self._lock:
            if self._jobs is None or digest in self._addresses or digest in self._objects or digest in self._asked:
                return
            if digest in self._elsewhere or self._find(request):
                return
            claim = self.cache.claim(request.key) if self.cache else Claim()
            if claim is None:
                self._elsewhere.add(digest)
            else:
                self._make(self._jobs, request, claim)

    def addresses_of(self, requests: Mapping[str, KernelRequest]) -> dict[str, int]:
        """The address of each kernel, by digest; those in neither memory nor cache are compiled.

        Raises ``VerificationError`` naming the nodes of a kernel that cannot be compiled.
        """
        if not requests.keys() <= self._addresses.keys():
            with self.compiling() as jobs:
                self._bring(jobs, {digest: item for digest, item in requests.items() if digest not in self._addresses})
        return {digest: self._addresses[digest] for digest in requests}

    @property
    def objects(self) -> dict[str, tuple[bytes, str]]:
        """The object code and symbol of every kernel that was linked, by digest."""
        with self._lock:
            return {key: item for linked in self._linked for key, item in linked.objects.items()}

    def compile(self, request: KernelRequest) -> KernelModule:
        """Compiles a kernel, whether or not it is in the cache, and puts its object code there."""
        from ..codegen.kernel import emit_kernel

        with _naming(request):
            module = emit_kernel(request.source, self.target)
            self._keep(request, module, module.object_code())
        return module

    def _find(self, request: KernelRequest) -> bool:
        """Whether the cache has a kernel, whose code is then there."""
        with progress.stage("cache", quiet=True):
            entry = self.cache.get(request.key) if self.cache else None
        if entry is not None:
            self.report.add(found=1)
            self._objects[request.key.digest] = entry.object_code, entry.symbol
        return entry is not None

    def _make(self, jobs: Jobs, request: KernelRequest, claim: Claim) -> None:
        """Has a kernel made, unless another process or thread has done so, or is about to."""
        if request.key.digest in self._asked or self._find(request):
            claim.release()
        else:
            self._claims[request.key.digest] = claim
            self._submit(jobs, request)

    def _wait_for_others(self, jobs: Jobs, requests: Sequence[KernelRequest]) -> None:
        """Brings kernels that other processes were making: from the cache when they are done, made here when they have not done it."""
        deadline = time.monotonic() + PATIENCE
        for request in requests if self.cache else ():
            claim = self.cache.claim(request.key, max(0.0, deadline - time.monotonic())) if self.cache else None
            with self._lock:
                self._elsewhere.discard(request.key.digest)
                self._make(jobs, request, claim or Claim())
        jobs.finish([request.key.digest for request in requests if request.key.digest in self._asked], lambda _: None)

    def _bring(self, jobs: Jobs, missing: Mapping[str, KernelRequest]) -> None:
        for request in missing.values():
            self.expect(request)
        wanted = [digest for digest in missing if digest in self._asked]
        found = len(missing) - len(wanted)
        jobs.finish(wanted, lambda done: progress.report("kernels", found + done, len(missing)))
        self._wait_for_others(jobs, [request for digest, request in missing.items() if digest in self._elsewhere])
        with self._lock:
            objects = {digest: self._objects[digest] for digest in missing if digest not in self._addresses}
            if objects:
                with progress.stage("link", quiet=True):
                    linked = link(objects) if self.target.runs_here else Linked(objects, dict.fromkeys(objects, 0), ())
                self._linked.append(linked)
                self._addresses.update((digest, linked.address(digest)) for digest in objects)
        progress.report("kernels", len(missing), len(missing))

    def _submit(self, jobs: Jobs, request: KernelRequest) -> None:
        """Emits a kernel and leaves the rest of its compilation to ``jobs``."""
        from ..codegen.kernel import emit_kernel

        with _naming(request):
            with progress.stage("emit", quiet=True):
                module = emit_kernel(request.source, self.target)
            loops = tuple(self._loops_of(jobs, rank, request) for rank in module.needs)

        def object_code(texts: Sequence[bytes]) -> bytes:
            with _naming(request), progress.stage("llvm", quiet=True):
                return module.object_code(texts)

        digest = request.key.digest
        keep = partial(self._keep, request, module)
        jobs.add(Job(digest, object_code, module.message, keep, loops, len(module.text)))
        self._asked.add(digest)
        count = sum(isinstance(key, str) for key in self._asked)
        if self.spare or count % HELPED == 0:
            jobs.start(min(available_cpus() - 1, max(1, count // HELPED)))

    def _loops_of(self, jobs: Jobs, rank: int, request: KernelRequest) -> Hashable:
        """The key of so many loops over tasks. A helper compiles them unless this process has imported Numba already."""
        from ..codegen.kernel import loops_over_tasks

        key = ("loops", rank)
        if key in jobs.results or key in self._asked:
            return key

        def compile_here(_: Sequence[bytes]) -> bytes:
            with _naming(request), progress.stage("numba", quiet=True):
                return loops_over_tasks(rank).encode()

        def keep(text: bytes) -> None:
            _loops[key] = text

        job = Job(key, compile_here, lambda _: [b"loops", str(rank).encode()], keep)
        if "numba.core.compiler" in sys.modules:
            keep(compile_here(()))
            jobs.results[key] = _loops[key]
        else:
            jobs.add(job)
            self._asked.add(key)
        return key

    def _keep(self, request: KernelRequest, module: KernelModule, code: bytes) -> None:
        self.report.add(compiled=1)
        with self._lock:
            self._objects[request.key.digest] = code, module.symbol
        with progress.stage("cache", quiet=True):
            if self.cache:
                self.cache.put(request.key, code, module.symbol)
        claim = self._claims.pop(request.key.digest, None)
        if claim:
            claim.release()


@contextmanager
def _naming(request: KernelRequest) -> Generator[None]:
    """Errors of Numba and LLVM, whatever they raise, name the kernel and the nodes of one of its calls."""
    try:
        yield
    except LoopnestError:
        raise
    except Exception as error:
        raise VerificationError(
            f"the kernel {request.source.nest.name} of {request.nodes or 'a node'} cannot be compiled: {type(error).__name__}: {error}"
        ) from error


def kernel_key(source: KernelSource, target: Target) -> CacheKey:
    """What a kernel's machine code depends on. Options of a configuration act through the source and the target."""
    return CacheKey(
        (
            ("codegen", source_fingerprint()),
            ("numba", version_of("numba")),
            ("llvmlite", version_of("llvmlite")),
            ("target", target.key),
            ("source", source.text),
        )
    )
