"""One model in the cache of plans: what its entries depend on, and when there can be any.

An entry depends on the content of the model and of the files that it refers to, the dims that the user fixes, the options that change a
plan, the target with its cache sizes, loopnest's own sources, and the versions of the packages that compute or compile.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..runtime.arrays import ArrayCache
from ..runtime.cache import source_fingerprint
from ..runtime.cpus import processor_name
from ..runtime.direct import Direct
from ..runtime.later import later
from ..runtime.model import Key
from ..runtime.plan_data import Interface, PlanData
from ..runtime.plans import KeptInterface, KeptPlan, PlanCache
from ..runtime.program import TensorSpec
from ..runtime.records import CacheKey, nearest
from ..runtime.versions import version_of
from .content import Content
from .notices import Notices
from .setup import Setup

if TYPE_CHECKING:
    from ..runtime.chained import Chained
    from .frontend.reading import Model

Path = tuple[Key, ...]
"""Where a plan is: the key of the model's inputs, then of the inputs of each rest (``runtime.sequel``) up to it."""
Shapes = Mapping[str, Sequence[int]]
SOURCES = ("codegen/**/*.py", "compiler/**/*.py", "ir/*.py", "runtime/*.py")
LARGE = 1 << 25
"""From so many bytes on, a model is hashed, and what was made of it stored, after the compilation; below, at once."""
PACKAGES = ("llvmlite", "numba", "numpy", "onnx", "ml_dtypes")


class KeptModel:
    """What the cache has of one model, for one setup and the dims that the user fixed; where plans of it are put."""

    def __init__(
        self, content: Content, setup: Setup, options: str, shapes: Mapping[str, Sequence[int]], plans: PlanCache
    ) -> None:
        self.content = content
        self._nbytes = content.nbytes
        self._is_large = self._nbytes >= LARGE
        self.arrays = ArrayCache(plans.files, patient=self._is_large)
        self._plans = plans
        processor = (
            [processor_name(), setup.threads] if setup.config.tuned else []
        )  # what was tuned is for one, and as many threads
        self._target = json.dumps([asdict(setup.target), *processor])
        self._threads = setup.threads
        self._options = options
        self._shapes = json.dumps(shapes, sort_keys=True)
        self._files: Mapping[str, str] = {}
        self._is_new = False
        """Whether there was nothing of a model of this size, so that no plan can be found until one is stored."""

    @staticmethod
    def of(model: Model, setup: Setup, shapes: Shapes) -> KeptModel | None:
        """None where nothing is kept: there is no cache, stages are to be seen or verified, the model cannot be read, or it is so large
        that its constants would find no room (``ArrayCache``), and reading all of it to hash it would be in vain."""
        cache, config = setup.cache, setup.config
        if cache is None or cache.files is None or config.verifies or config.dump_directory is not None:
            return None
        extents = _extents(shapes)
        try:
            options = config.decisive
        except TypeError:
            return None
        content = None if extents is None else Content.of(model, cache.files.max_bytes // 2)
        if content is None or extents is None:
            return None
        return KeptModel(content, setup, options, extents, PlanCache(cache, cache.files))

    def interface(self) -> Interface | None:
        """What the model takes and gives, if the cache knows."""
        self._is_new = self._is_large and self.content.is_settled and not self._plans.may_have_interface(self._nbytes)
        if not self._is_new:
            self.content.start()
        self._plans.bring_driver()  # while the model is hashed
        _ = self._versions
        key = None if self._is_new else self._key()
        found = None if key is None else self._plans.interface(key, self._nbytes)
        if found is None or self.content.external(found.files) != found.files:
            return None
        self._files = found.files
        return found.interface

    def keep_interface(self, interface: Interface, external: Sequence[str]) -> None:
        """Stores it; ``external`` are the files that the model refers to, by the names that it calls them by."""
        self._soon(lambda: self._put_interface(interface, external))

    def _put_interface(self, interface: Interface, external: Sequence[str]) -> None:
        key, files = self._key(), self.content.external(external)
        if key is not None and files is not None and self.content.is_unchanged():
            self._files = files
            self._plans.put_interface(key, self._nbytes, KeptInterface(interface, files))

    def plan(
        self, path: Path, inputs: Sequence[TensorSpec], outputs: Sequence[str | None], values: Sequence[int]
    ) -> KeptPlan | None:
        """The plan on this path, if the cache has it; what it takes and gives is as in ``PlanData.check``."""
        plan_key = None if self._is_new else self.plan_key(*path)
        found = None if plan_key is None else self._plans.plan(plan_key, self.arrays)
        try:
            if found is not None:
                found.data.check(inputs, outputs, values)
        except (ValueError, IndexError):
            return None
        return found

    def keep_plan(self, path: Path, runner: Direct | Chained, notices: Notices) -> None:
        """Stores a plan that was made, with what was told of the configuration."""
        told = notices.as_data()
        sequel = None if isinstance(runner, Direct) else runner.sequel
        data = PlanData(path[-1], runner.picks, runner.native.program, sequel)
        self._soon(lambda: self._put_plan(path, data, runner.native.constants, told))

    def forget(self) -> None:
        """Lets go of the model, which has been read."""
        self._soon(self.content.forget)

    def _soon(self, work: Callable[[], None]) -> None:
        """At once, or after the compilation."""
        if self._is_large:
            later(work)
        else:
            work()

    def _put_plan(self, path: Path, data: PlanData, constants: Sequence[np.ndarray], told: Any) -> None:
        self._is_new = False
        plan_key = self.plan_key(*path)
        if plan_key is not None and self.content.is_unchanged():
            self._plans.put(plan_key, data, constants, self.arrays, told)

    def explain(self, key: Key, external: Sequence[str]) -> str | None:
        """Why the cache has no plan for inputs of this key: the first part of its key that differs from that of the nearest plan there is.
        None where it has one."""
        self._files = self.content.external(external) or {}
        plan_key, stored = self.plan_key(key), list(self._plans.stored())
        if plan_key is None:
            return "what it depends on cannot be said"
        return None if plan_key in stored else nearest(plan_key, stored) or "the cache has no plans"

    def plan_key(self, key: Key, *rests: Key) -> CacheKey | None:
        """What a plan for inputs of this key depends on, or that of the rest of one, for its inputs; None where that cannot be said."""
        model = self._key()
        if model is None or any(isinstance(part, type) for each in (key, *rests) for part in each):
            return None
        inputs, *parts = (
            json.dumps([part.hex() if isinstance(part, bytes) else part for part in each]) for each in (key, *rests)
        )
        files = json.dumps(self._files, sort_keys=True)
        threads = (("threads", str(self._threads)),) if may_be_images((key, *rests)[-1]) else ()
        return CacheKey((*model.parts, ("files", files), ("inputs", inputs), *threads, *(("rest", part) for part in parts)))

    @cached_property
    def _versions(self) -> tuple[tuple[str, str], ...]:
        """Loopnest's sources and the packages, as they are before a plan is made."""
        packages = [f"{name} {version_of(name)}" for name in PACKAGES]
        return ("loopnest", source_fingerprint(patterns=SOURCES)), ("packages", ", ".join(packages))

    def _key(self) -> CacheKey | None:
        versions = self._versions
        digest = self.content.digest  # waits for it
        if digest is None:
            return None
        return CacheKey(
            (
                *versions,
                ("model", digest),
                ("target", self._target),
                ("options", self._options),
                ("shapes", self._shapes),
            )
        )


def may_be_images(key: Key) -> bool:
    """Whether inputs of this key may be images of a batch, of which as many as there are threads are computed at once (``images.py``)."""
    return any(isinstance(part, tuple) and len(part) > 1 and part[0] > 1 for part in key)


def _extents(shapes: Any) -> Mapping[str, Sequence[int]] | None:
    """``shapes`` as plain numbers; None for what is no shapes."""
    try:
        if not all(isinstance(extent, int | np.integer) for shape in shapes.values() for extent in shape):
            return None
        return {str(name): [int(extent) for extent in shape] for name, shape in shapes.items()}
    except (TypeError, AttributeError):
        return None
