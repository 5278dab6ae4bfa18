"""What of a model's kernels is in the cache, and why the rest is not, without compiling any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..runtime.cache import KernelCache
from .build import compile_graph, fix_dims, load
from .config import Config
from .engine import make_engine
from .frontend.reading import Model
from .kernels import KernelRequest, Kernels
from .lazy import Shapes
from .packing import PackedConstants
from .setup import Setup


@dataclass(frozen=True)
class Explanation:
    """A kernel that a model needs, and why the cache does not have it (None: it has it)."""

    request: KernelRequest
    missing: str | None


def explain(model: Model, cache: KernelCache, shapes: Shapes, config: Config, target: str = "cpu") -> list[Explanation]:
    """The kernels of ``model``, in the order of their use; none where the plan depends on the inputs. Raises what ``compile`` raises."""
    engine = make_engine(Setup.of(target, config))
    engine.kernels = asked = _Asked(None, engine.target)
    engine.packs = PackedConstants()
    graph = load(model, config)
    fix_dims(graph, shapes)
    compile_graph(graph, engine)
    stored = list(cache.stored())
    return [Explanation(request, cache.explain(request.key, stored)) for request in asked.requests.values()]


@dataclass
class _Asked(Kernels):
    """Notes which kernels are asked for, and makes none: what it gives is not to be run."""

    requests: dict[str, KernelRequest] = field(default_factory=dict[str, KernelRequest])

    def expect(self, request: KernelRequest) -> None:
        pass

    def addresses_of(self, requests: Mapping[str, KernelRequest]) -> dict[str, int]:
        self.requests.update(requests)
        return dict.fromkeys(requests, 0)
