"""What of a model's plan and kernels is in the cache, and why the rest is not, without compiling any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..runtime import later
from ..runtime.cache import KernelCache
from .build import compile_graph, fix_dims, load
from .config import Config
from .engine import make_engine
from .frontend.reading import Model
from .frontend.tensors import noting_files
from .kept import KeptModel
from .kernels import KernelRequest, Kernels
from .lazy import Shapes
from .packing import PackedConstants
from .setup import Setup


@dataclass(frozen=True)
class Explanation:
    """A kernel that a model needs, and why the cache does not have it (None: it has it)."""

    request: KernelRequest
    missing: str | None


@dataclass(frozen=True)
class Explanations:
    """The kernels of a model in the order of their use, none where the plan depends on the inputs, and why the cache does not have the
    plan (None: it has it)."""

    kernels: tuple[Explanation, ...]
    plan: str | None


def explain(model: Model, cache: KernelCache, shapes: Shapes, config: Config, target: str = "cpu") -> Explanations:
    """What of ``model`` is in ``cache``. Raises what ``compile`` raises."""
    later.wait()
    setup = replace(Setup.of(target, config), cache=cache)
    engine = make_engine(setup)
    engine.kernels = asked = _Asked(None, engine.target)
    engine.packs = PackedConstants()
    files: list[str] = []
    with noting_files(files.append):
        graph = load(model, config)
    fix_dims(graph, shapes)
    compiled = compile_graph(graph, engine)
    stored = list(cache.stored())
    kernels = tuple(Explanation(request, cache.explain(request.key, stored)) for request in asked.requests.values())
    kept = KeptModel.of(model, setup, shapes)
    if kept is None:
        return Explanations(kernels, "none is kept where stages are verified or dumped")
    reasons = [kept.explain(key, files) for key, _ in compiled.plans_by_key()]
    return Explanations(kernels, next(iter(reasons), "it depends on the inputs"))


@dataclass
class _Asked(Kernels):
    """Notes which kernels are asked for, and makes none: what it gives is not to be run."""

    requests: dict[str, KernelRequest] = field(default_factory=dict[str, KernelRequest])

    def expect(self, request: KernelRequest) -> None:
        pass

    def addresses_of(self, requests: Mapping[str, KernelRequest]) -> dict[str, int]:
        self.requests.update(requests)
        return dict.fromkeys(requests, 0)
