"""What a compilation is for, known before anything of the model is read: target, options, threads, cache on disk."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..codegen.target import Target, resolve
from ..runtime.cache import KernelCache, open_cache
from ..runtime.cpus import available_cpus
from ..runtime.isa import Isa
from .config import Config
from .kept_host import bring_host


@dataclass(frozen=True)
class Setup:
    """``cache`` None: nothing is kept on disk, nor found there."""

    target: Target
    config: Config
    threads: int
    cache: KernelCache | None

    @staticmethod
    def of(target: str, config: Config, threads: int | None = None, *, foreign: bool = False) -> Setup:
        """Raises ``TargetError`` for a target that is not known or does not run here, ``ConfigError`` for a number of threads that is
        none. ``threads`` None means what the config says, else the CPUs that this process may use. With ``foreign``, what is compiled
        is to be saved, and may be for a machine that this one is not."""
        cache = open_cache(config.cache_dir, config.cache_bytes) if config.cache else None
        if cache is not None and cache.files is not None:
            bring_host(cache.files)
        resolved = resolve(target)
        if not foreign:
            resolved.require_runnable()
        resolved = resolved.with_vector_bits(config.vector_bits)
        if threads is not None:
            config = replace(config, threads=threads)
        return Setup(resolved, config, config.threads or available_cpus(), cache)

    @property
    def isa(self) -> Isa:
        """What a machine needs to run what is compiled."""
        return Isa(self.target.isa, self.target.arch, self.target.requires)

    @property
    def foreign(self) -> str:
        """Why this machine cannot run what is compiled; empty where it can."""
        missing = ", ".join(self.target.missing)
        return f"this is compiled for {self.target.isa}, and this machine lacks {missing}" if missing else ""
