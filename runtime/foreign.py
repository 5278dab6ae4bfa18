"""Programs for other processors: they can be saved, and not run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from ..ir.errors import TargetError
from .entry import Argument, decline
from .executor import Executable
from .program import Program


class Foreign(Executable):
    """A program whose machine code this machine cannot run: ``reason`` says why when somebody tries. Nothing of it is linked."""

    def __init__(
        self, program: Program, constants: Sequence[np.ndarray], objects: Mapping[str, tuple[bytes, str]], reason: str
    ) -> None:
        self.program = program
        self._constants = list(constants)
        self._objects = {kernel: objects[kernel] for kernel in program.kernels}
        self._reason = reason

    def objects(self) -> dict[str, tuple[bytes, str]]:
        return dict(self._objects)

    def entry(self, arguments: Sequence[Argument], *, bare: bool) -> Callable[..., Any]:
        return decline

    def run(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray] | None = None) -> NoReturn:
        raise TargetError(self._reason)

    def bind(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> NoReturn:
        raise TargetError(self._reason)

    def profile(self, inputs: Sequence[np.ndarray], repeat: int = 20) -> NoReturn:
        raise TargetError(self._reason)

    def trim(self) -> int:
        return 0
