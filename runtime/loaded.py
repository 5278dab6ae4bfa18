"""The callable of an artifact: plans made runnable when they are first needed, their kernels linked then."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.errors import MALFORMED, InputError, VerificationError
from .artifact import Artifact, ArtifactPart
from .buffers import Workspaces
from .container import malformed
from .cpus import available_cpus
from .direct import Direct
from .linker import Linked, LinkError, link
from .model import CompiledModel, Key, Planner
from .plan_data import Interface, PlanData, plan_key
from .program import TensorSpec

if TYPE_CHECKING:
    from .contents import Contents, Part

_DEFECTS = (*MALFORMED, VerificationError, LinkError)


class Loaded:
    """A part of an artifact. Nothing of it is linked or run before its checks are finished: ``callable`` is called after that."""

    def __init__(self, artifact: Artifact, part: ArtifactPart, threads: int | None) -> None:
        self.artifact, self.part = artifact, part
        self._threads = threads or available_cpus()
        self._workspaces = Workspaces()
        self._linked: list[Linked] = []
        self._addresses: dict[str, int] = {}
        try:
            self.interface = Interface.from_dict(artifact.manifest)
            self._plans = {plan_key(plan): plan for plan in part.plans}
        except _DEFECTS as error:
            raise malformed(artifact.what, error) from None

    def parsed(self) -> PlanData | None:
        """The only plan, which every call will need; None where there are several."""
        if len(self._plans) != 1:
            return None
        return self._guarded(lambda: self.data(next(iter(self._plans))))

    def callable(self, prepared: PlanData | None, *, allow_compile: bool, model: Any, config: Any) -> CompiledModel:
        """The model, with the plan that was parsed."""
        interface, isa = self.interface, self.part.isa
        planner: Planner = partial(_refuse, self.artifact.what, interface.inputs, tuple(self._plans))
        if allow_compile:
            source = self.artifact.model if model is None else model
            planner = _compiling(source, isa.name, config, self._threads, interface)
        compiled = CompiledModel(
            interface.inputs, interface.outputs, planner, interface.value_inputs, name=interface.name, isa=isa
        )
        compiled.origin = self.artifact
        for key in self._plans:
            compiled.offer(key, partial(self._runner, key))
        if prepared is not None:
            compiled.adopt(prepared.key, self._guarded(lambda: self._bound(prepared)))
        return compiled

    def data(self, key: Key) -> PlanData:
        """A plan, checked against the interface; one of ``_DEFECTS`` for one that does not fit."""
        plan = self._plans[key]
        program = plan["program"]
        if "offset" in program:
            program = json.loads(bytes(self.artifact.container.piece(self.part.entry["programs"], **program)))
        data = PlanData.from_dict({**plan, "program": program})
        data.check(self.interface.inputs, [spec.dtype for spec in self.interface.outputs], self.interface.value_inputs)
        if data.sequel is not None:
            raise ValueError("a plan goes on behind its program")
        return data

    def constants(self, key: Key) -> list[np.ndarray]:
        """The weights of a plan, mapped."""
        return [np.frombuffer(self.artifact.blob(number), np.uint8) for number in self._plans[key]["constants"]]

    def object(self, kernel: str) -> tuple[bytes, str]:
        """Object code and symbol of a kernel."""
        item = self.part.entry["kernels"][kernel]
        return bytes(self.artifact.container.piece(self.part.entry["code"], item["offset"], item["nbytes"])), item["symbol"]

    def contents(self) -> Part:
        """Its part of the artifact in memory."""
        from .contents import Part, StoredPlan

        def read() -> Part:
            plans = {key: StoredPlan(self.data(key), tuple(self.constants(key))) for key in self._plans}
            return Part(self.part.isa, plans, {kernel: self.object(kernel) for kernel in self.part.entry["kernels"]})

        return self._guarded(read)

    @property
    def objects(self) -> Mapping[str, tuple[bytes, str]]:
        """Of the kernels that were linked."""
        return {key: item for linked in self._linked for key, item in linked.objects.items()}

    def _runner(self, key: Key) -> Direct:
        return self._guarded(lambda: self._bound(self.data(key)))

    def _bound(self, data: PlanData) -> Direct:
        missing = [kernel for kernel in data.program.kernels if kernel not in self._addresses]
        if missing:
            linked = link({kernel: self.object(kernel) for kernel in missing})
            self._linked.append(linked)
            self._addresses.update(linked.addresses)
        constants = self.constants(data.key)
        return data.runnable(self._addresses, constants, self._threads, workspaces=self._workspaces, keep=self)

    def _guarded(self, step: Any) -> Any:
        try:
            return step()
        except _DEFECTS as error:
            raise malformed(self.artifact.what, error) from None


def contents_of_artifact(artifact: Artifact) -> Contents:
    """All of an artifact in memory, checked."""
    from .contents import Contents

    artifact.verify()
    parts = [Loaded(artifact, part, 1) for part in artifact.parts]
    return Contents(parts[0].interface, tuple(part.contents() for part in parts), artifact.model)


def shapes_text(inputs: Sequence[TensorSpec], key: Key) -> str:
    """What a plan is for."""
    shapes = ", ".join(f"{spec.name}={list(shape)}" for spec, shape in zip(inputs, key, strict=False))  # type: ignore[arg-type]
    values = ", ".join(part.hex() for part in key if isinstance(part, bytes))
    return f"{shapes} with values {values}" if values else shapes or "no inputs"


def _refuse(what: str, inputs: Sequence[TensorSpec], keys: Sequence[Key], values: tuple[Any, ...]) -> Any:
    """A planner that says which plans there are."""
    given = ", ".join(f"{spec.name}={list(np.shape(value))}" for spec, value in zip(inputs, values, strict=True))
    listing = "; ".join(shapes_text(inputs, key) for key in keys)
    raise InputError(
        f"{what} has no plan for {given}, or for the values that decide shapes; it has {listing}. Add one with `loopnest artifact "
        f"add-shape`, or load it with allow_compile=True"
    )


def embedded(model: Any) -> bytes:
    """A model (path, bytes or ``ModelProto``) as one ONNX file. Raises what reading it raises."""
    return _compiler().serialized(model)


def _compiling(model: Any, isa: str, config: Any, threads: int, interface: Interface) -> Planner:
    """A planner that compiles."""
    made: list[Planner] = []

    def plan(values: tuple[Any, ...]) -> Any:
        if not made:
            made.append(_compiler().planner_for(model, isa, config, threads, interface))
        return made[0](values)

    return plan


def _compiler() -> Any:
    """Imported when somebody asks for what only it can do: all else here stands on the runtime alone."""
    return import_module("..compiler.precompile", __package__)
