"""A plan as plain data: the inputs that it is for, and its program. Whoever keeps it (an artifact, the plan cache) keeps machine code and
weights beside it, and says where they are when the plan is made runnable again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..ir.errors import ArtifactError
from ..ir.frozen import Frozen
from .buffers import Workspaces
from .direct import Direct
from .executor import Executable
from .model import Key
from .program import Dim, Program, TensorSpec, tensor_spec
from .sequel import Sequel


class PlanData(Frozen):
    """``key``: shapes of all inputs, then values of those whose values decide; ``picks``: the inputs that the program reads; ``sequel``:
    what follows it, None where the outputs of the program are those of the model."""

    key: Key
    picks: tuple[int, ...]
    program: Program
    sequel: Sequel | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers, for JSON."""
        return {
            "shapes": [part for part in self.key if isinstance(part, tuple)],
            "values": [part.hex() for part in self.key if isinstance(part, bytes)],
            "picks": self.picks,
            "program": self.program.to_dict(),
            **({"sequel": self.sequel.to_dict()} if self.sequel is not None else {}),
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> PlanData:
        """What ``to_dict`` described, after JSON or not; raises one of ``errors.MALFORMED`` or ``VerificationError`` for anything else."""
        sequel = Sequel.from_dict(data["sequel"]) if "sequel" in data else None
        return PlanData(plan_key(data), tuple(data["picks"]), Program.from_dict(data["program"]), sequel)

    def check(self, inputs: Sequence[TensorSpec], outputs: Sequence[str | None], values: Sequence[int]) -> None:
        """``ValueError`` unless the program takes and gives what a model with these inputs, and outputs of these dtypes (None: any), does
        for this key; ``values`` are the numbers of the inputs whose values decide."""
        taken = [(inputs[pick].dtype, self.key[pick]) for pick in self.picks if pick >= 0]
        given = self._given(inputs)
        fits = (
            len(self.key) == len(inputs) + len(values)
            and all(0 <= value < len(inputs) for value in values)
            and taken == [(spec.dtype, spec.shape) for spec in self.program.inputs]
            and len(given) == len(outputs)
            and all(None in pair or pair[0] == pair[1] for pair in zip(given, outputs, strict=True))
        )
        if not fits:
            raise ValueError("a plan does not fit the interface of the model")

    def _given(self, inputs: Sequence[TensorSpec]) -> list[str | None]:
        """The dtypes of the outputs; None where what follows makes them."""
        made = [(spec.dtype, len(spec.extents)) for spec in self.program.outputs]
        if self.sequel is None:
            return [dtype for dtype, _ in made]
        shapes = [part for part in self.key if isinstance(part, tuple)]
        known = [(spec.dtype, len(shape)) for spec, shape in zip(inputs, shapes, strict=True)]
        return [kind and kind[0] for kind in self.sequel.kinds(known, made)]

    def runnable(
        self,
        addresses: Mapping[str, int],
        constants: Sequence[np.ndarray],
        threads: int,
        *,
        workspaces: Workspaces,
        keep: object,
    ) -> Direct:
        """The plan bound to machine code and weights, as in ``Executable``."""
        native = Executable(self.program, addresses, constants, threads, workspaces=workspaces, keep=keep)
        return Direct(native, self.picks)


def plan_key(data: Mapping[str, Any]) -> Key:
    """The key of a plan that ``PlanData.to_dict`` described."""
    shapes = [tuple(int(extent) for extent in shape) for shape in data["shapes"]]
    return (*shapes, *map(bytes.fromhex, data["values"]))


class Interface(Frozen):
    """What a model takes and gives, declared in graph order; ``value_inputs`` are the numbers of the inputs whose values decide shapes or
    control flow."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    value_inputs: tuple[int, ...] = ()

    @staticmethod
    def from_dict(data: Mapping[str, Any], spec: Callable[[Mapping[str, Any]], TensorSpec] = tensor_spec) -> Interface:
        """What ``to_dict`` described, after JSON or not, inputs and outputs read by ``spec``.

        Raises one of ``errors.MALFORMED`` for anything else.
        """
        inputs, outputs = (tuple(map(spec, data[side])) for side in ("inputs", "outputs"))
        values = tuple(data["value_inputs"])
        if not all(isinstance(number, int) and 0 <= number < len(inputs) for number in values):
            raise ValueError(f"value_inputs are {values}, of {len(inputs)} inputs")
        return Interface(str(data["name"]), inputs, outputs, values)

    def joined(self, other: Interface) -> Interface:
        """The interface of plans of either; dims that only one of them fixes are not fixed.

        ``ArtifactError`` where names, dtypes or what decides are others.
        """

        def declared(interface: Interface) -> object:
            return *(
                [(spec.name, spec.dtype) for spec in side] for side in (interface.inputs, interface.outputs)
            ), interface.value_inputs

        if declared(self) != declared(other):
            raise ArtifactError(f"the model {other.name} has other inputs or outputs than {self.name}, or others decide shapes")
        inputs, outputs = (
            tuple(_joined(a, b) for a, b in zip(mine, theirs, strict=True))
            for mine, theirs in ((self.inputs, other.inputs), (self.outputs, other.outputs))
        )
        return self.replace(inputs=inputs, outputs=outputs)


def _joined(a: TensorSpec, b: TensorSpec) -> TensorSpec:
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return a if a.shape == b.shape else a.replace(shape=None)
    return a.replace(shape=tuple(_wider(p, q) for p, q in zip(a.shape, b.shape, strict=True)))


def _wider(p: Dim, q: Dim) -> Dim:
    """The one that is no number; None where both are, and differ."""
    return p if p == q else next((dim for dim in (p, q) if not isinstance(dim, int)), None)
