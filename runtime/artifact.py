"""Artifacts: a compiled model as one file or folder, which another process runs without Numba, onnx or the compiler.

For each instruction set there are kernels, as the object files that LLVM wrote, and plans (``Program.to_dict``); packed weights are shared
by all of them and mapped. ``container`` says how they lie in files, ``contents`` writes them, ``loaded`` makes a callable of what was read.

What is read is checked before it is used: the manifest always, code and programs before anything is linked, and the weights before that
too, unless the caller says otherwise. See ``docs/artifact.md``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..ir.errors import ArtifactError, IncompatibleArtifactError
from .container import Checks, Container, malformed
from .isa import Isa
from .records import MALFORMED

if TYPE_CHECKING:
    from .model import CompiledModel


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
    parts = artifact.parts
    checks = artifact.checks(parts[0], weights=verify) if len(parts) == 1 else None  # in other threads, while this one imports
    part = artifact.best_part()
    checks = checks or artifact.checks(part, weights=verify)

    from .loaded import Loaded

    loaded = Loaded(artifact, part, threads)
    prepared = loaded.parsed()
    checks.finish()
    return loaded.callable(prepared, allow_compile=allow_compile, model=model, config=config)


def save(model: CompiledModel, path: str | os.PathLike[str], *, source: Any = None, unpacked: bool = False) -> None:
    """Writes ``model`` with the plans that it has: ``CompiledModel.save``."""
    from .contents import contents_of
    from .loaded import contents_of_artifact, embedded

    contents = contents_of(model)
    if model.origin is not None:
        contents = contents_of_artifact(model.origin).merged(contents)
    if source is not None:
        contents = replace(contents, model=embedded(source))
    contents.write(path, unpacked=unpacked)


@dataclass(frozen=True)
class ArtifactPart:
    """What an artifact has for one instruction set: its entry in the manifest."""

    isa: Isa
    entry: Mapping[str, Any]

    @property
    def plans(self) -> Sequence[Mapping[str, Any]]:
        return self.entry["plans"]


@dataclass(frozen=True)
class Artifact:
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

    def checks(self, *parts: ArtifactPart, weights: bool = True) -> Checks:
        """Begins to compare what ``parts`` use with its checksums. What is linked later is what was compared now."""

        def pieces() -> list[tuple[str, memoryview, str]]:
            for part in parts:
                for name in {part.entry["code"], part.entry.get("programs", "")} & self.container.views.keys():
                    self.container.detach(name)
            return list(self._pieces(parts, weights))

        return Checks(self.what, self._guarded(pieces))

    def verify(self) -> None:
        """Compares everything with its checksums. Raises ``ArtifactError``."""
        pieces = self._guarded(lambda: [*self._pieces(self.parts, True), *self._sections("model.onnx")])
        Checks(self.what, pieces).finish()

    def _guarded(self, pieces: Any) -> list[tuple[str, memoryview, str]]:
        try:
            return pieces()
        except MALFORMED as error:
            raise malformed(self.what, error) from None

    def _pieces(self, parts: Sequence[ArtifactPart], weights: bool) -> Iterator[tuple[str, memoryview, str]]:
        for part in parts:
            yield from self._sections(part.entry["code"], part.entry.get("programs", ""))
        if weights:
            yield from self._sections("weights")
            used = {number for part in parts for plan in part.plans for number in plan["constants"]}
            for number in sorted(used):
                blob = self.manifest["blobs"][number]
                if blob["sha256"] is not None:
                    yield f"blob {number} of its weights", self.blob(number), str(blob["sha256"])

    def _sections(self, *names: str) -> Iterator[tuple[str, memoryview, str]]:
        for name in names:
            section = self.container.sections.get(name)
            if section is not None and section.sha256 is not None:
                yield f"its section {name}", self.container.views[name], section.sha256

    def blob(self, number: int) -> memoryview:
        """A packed weight; one of ``MALFORMED`` where there is none."""
        place = self.manifest["blobs"][number]
        return self.container.piece("weights", place["offset"], place["nbytes"])

    def as_text(self) -> str:
        """What is in it: interface, instruction sets, sizes, plans."""
        from .artifact_text import as_text

        return as_text(self)
