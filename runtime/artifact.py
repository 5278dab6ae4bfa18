"""Artifacts: a compiled model as one file or folder, which another process runs without Numba, onnx or the compiler.

For each instruction set there are kernels, as the object files that LLVM wrote, and plans (``Program.to_dict``); packed weights are shared
by all of them and mapped. ``container`` says how they lie in files, ``contents`` writes them, ``loaded`` makes a callable of what was read.

What is read is checked before it is used: the manifest always, code and programs before anything is linked, and the weights before that
too, unless the caller says otherwise. See ``docs/artifact.md``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from ..ir.errors import MALFORMED, ArtifactError, IncompatibleArtifactError
from ..ir.frozen import Frozen
from .checksums import Checks, Piece
from .container import Container, malformed
from .isa import Isa

if TYPE_CHECKING:
    from .model import CompiledModel

Item = TypeVar("Item")


def load(
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    verify: bool = True,
    allow_compile: bool = False,
    model: Any = None,
    config: Any = None,
) -> CompiledModel:
    """The callable that was saved in the file or folder ``path``, for the best instruction set in it that this machine has.

    ``threads`` None means the CPUs that this process may use. ``verify=False`` leaves out the check of the weights, which reads all of
    them; that of the manifest, the programs and the machine code is always made. An artifact is a program: load only what you would run.

    Other shapes than those in it raise ``InputError`` with a list. With ``allow_compile`` the compiler is imported when one comes up, and
    makes the plan from the model: the one in the artifact (``precompile(..., with_model=True)``), or ``model`` (path, bytes or
    ``ModelProto``), with the options ``config``, as in ``compile``; ``save`` keeps such plans.

    Raises ``ArtifactError`` for a file that is missing, damaged or of a newer format, ``IncompatibleArtifactError`` naming the features
    that this machine lacks.
    """
    artifact = Artifact.read(path)
    if allow_compile and model is None and artifact.model is None:
        raise ArtifactError(
            f"{artifact.what} has no model to compile other shapes from: give model=, or make it with precompile(..., with_model=True)"
        )
    part = artifact.best_part()
    artifact.check_code(part)
    artifact.bring_driver(part)
    weights = artifact.weight_checks(part) if verify else None  # in other threads, while this one imports and reads plans

    from .loaded import Loaded

    loaded = Loaded(artifact, part, threads)
    prepared = loaded.parsed()
    if weights is not None:
        weights.finish()
    return loaded.callable(prepared, allow_compile=allow_compile, model=model, config=config)


def save(model: CompiledModel, path: str | os.PathLike[str], *, source: Any = None, unpacked: bool = False) -> None:
    """Writes ``model`` with the plans that it has: ``CompiledModel.save``."""
    from .contents import contents_of
    from .loaded import contents_of_artifact, embedded

    contents = contents_of(model)
    if model.origin is not None:
        contents = contents_of_artifact(model.origin).merged(contents)
    if source is not None:
        contents = contents.replace(model=embedded(source))
    contents.write(path, unpacked=unpacked)


class ArtifactPart(Frozen):
    """What an artifact has for one instruction set: its entry in the manifest."""

    isa: Isa
    entry: Mapping[str, Any]

    @property
    def plans(self) -> Sequence[Mapping[str, Any]]:
        return self.entry["plans"]


class Artifact(Frozen):
    """An artifact that was read, its manifest checked. The rest is mapped; whoever uses it finishes ``checks`` first."""

    container: Container

    @staticmethod
    def read(path: str | os.PathLike[str]) -> Artifact:
        """Raises ``ArtifactError``."""
        return Artifact(Container.read(path))

    @property
    def what(self) -> str:
        """It, in messages."""
        return self.container.what

    @property
    def manifest(self) -> Mapping[str, Any]:
        return self.container.manifest

    @cached_property
    def parts(self) -> tuple[ArtifactPart, ...]:
        """One for each instruction set, the best one first."""
        try:
            entries = [(entry, entry["features"]) for entry in self.manifest["isas"]]
            return tuple(
                ArtifactPart(Isa(str(entry["name"]), str(entry["arch"]), tuple(map(str, features))), entry)
                for entry, features in entries
            )
        except MALFORMED as error:
            raise malformed(self.what, error) from None

    @property
    def model(self) -> memoryview | None:
        """The ONNX file that it was compiled from, not checked; None where it is not in it."""
        return self.container.views.get("model.onnx")

    def best_part(self) -> ArtifactPart:
        """The part for the best instruction set that this machine has; ``IncompatibleArtifactError`` naming what others want."""
        lacking = {part.isa.name: part.isa.missing() for part in self.parts}
        for part in self.parts:
            if not lacking[part.isa.name]:
                return part
        listing = "; for ".join(f"{name}, and this machine lacks {', '.join(missing)}" for name, missing in lacking.items())
        raise IncompatibleArtifactError(
            f"{self.what} is compiled for {listing or 'nothing'}; compile it for an instruction set that all machines have, or for several"
        )

    def check_code(self, part: ArtifactPart) -> None:
        """Compares programs and machine code with their SHA-256. What is linked later is what was compared now. ``ArtifactError``."""

        def pieces() -> Iterator[Piece]:
            names = part.entry["code"], part.entry.get("programs", "")
            for name in {*names} & self.container.views.keys():
                self.container.detach(name)
            return self._sections(*names)

        Checks(self.what, self._guarded(pieces)).finish()

    def bring_driver(self, part: ArtifactPart) -> None:
        """Spares this process compiling its driver, where the artifact has it; after ``check_code``."""
        from . import driver

        item = part.entry.get("driver")
        if item is not None:
            (code,) = self._guarded(lambda: [self.container.piece(part.entry["code"], item["offset"], item["nbytes"])])
            driver.bring(str(item["key"]), bytes(code))

    def weight_checks(self, part: ArtifactPart) -> Checks:
        """Begins to compare the weights that ``part`` uses with their checksums: XXH64, or SHA-256 in artifacts without."""
        return Checks(self.what, self._guarded(lambda: self._weights([part], fast=True)))

    def verify(self) -> None:
        """Compares everything with its SHA-256. Raises ``ArtifactError``."""

        def pieces() -> Iterator[Piece]:
            for part in self.parts:
                yield from self._sections(part.entry["code"], part.entry.get("programs", ""))
            yield from self._weights(self.parts)
            yield from self._sections("model.onnx")

        Checks(self.what, self._guarded(pieces)).finish()

    def _guarded(self, items: Callable[[], Iterable[Item]]) -> list[Item]:
        try:
            return list(items())
        except MALFORMED as error:
            raise malformed(self.what, error) from None

    def _weights(self, parts: Sequence[ArtifactPart], *, fast: bool = False) -> Iterator[Piece]:
        yield from self._sections("weights")
        for number in sorted({number for part in parts for plan in part.plans for number in plan["constants"]}):
            entry, what, data = self.manifest["blobs"][number], f"blob {number} of its weights", self.blob(number)
            if fast and "xxh64" in entry:
                yield Piece(what, data, str(entry["xxh64"]), fast=True)
            elif entry["sha256"] is not None:
                yield Piece(what, data, str(entry["sha256"]))

    def _sections(self, *names: str) -> Iterator[Piece]:
        for name in names:
            section = self.container.sections.get(name)
            if section is not None and section.sha256 is not None:
                yield Piece(f"its section {name}", self.container.views[name], section.sha256)

    def blob(self, number: int) -> memoryview:
        """A packed weight; one of ``MALFORMED`` where there is none."""
        place = self.manifest["blobs"][number]
        return self.container.piece("weights", place["offset"], place["nbytes"])

    def as_text(self) -> str:
        """What is in it: interface, instruction sets, sizes, plans."""
        from .artifact_text import as_text

        return as_text(self)
