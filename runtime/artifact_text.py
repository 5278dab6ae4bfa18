"""Artifacts as text: what is in one, and how two differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..ir.errors import MALFORMED
from .artifact import Artifact, ArtifactPart
from .container import malformed
from .loaded import shapes_text
from .plan_data import Interface, plan_key


def as_text(artifact: Artifact) -> str:
    """Interface, instruction sets, sizes, plans. Raises ``ArtifactError`` for a manifest that is malformed."""
    try:
        return "\n".join(_lines(artifact))
    except MALFORMED as error:
        raise malformed(artifact.what, error) from None


def difference(old: Artifact, new: Artifact) -> list[str]:
    """What ``new`` has and ``old`` has not (``+``), and the other way round (``-``); empty when they compute the same in the same way.

    Kernels and weights are compared by their content.
    """
    try:
        before, after = _facts(old), _facts(new)
    except MALFORMED as error:
        raise malformed(f"{old.what} or {new.what[4:]}", error) from None
    lines = [f"- {fact}" for fact in before if fact not in after] + [f"+ {fact}" for fact in after if fact not in before]
    return sorted(lines, key=lambda line: line[2:])


def _lines(artifact: Artifact) -> Iterator[str]:
    manifest = artifact.manifest
    interface = Interface.from_dict(manifest)
    sections = artifact.container.sections
    yield f"{interface.name}, format {artifact.container.number}, written by loopnest {manifest['loopnest']}"
    yield from (f"  input {spec}" for spec in interface.inputs)
    yield from (f"  output {spec}" for spec in interface.outputs)
    yield f"  {sections['weights'].nbytes:,} bytes of weights" + (", with the ONNX model" if artifact.model is not None else "")
    for part in artifact.parts:
        yield f"  for {part.isa.name}: {part.isa.arch} with {', '.join(part.isa.features) or 'nothing else'}"
        yield f"    {len(part.entry['kernels'])} kernels, {sections[part.entry['code']].nbytes:,} bytes of code"
        yield f"    {len(part.plans)} plans:"
        yield from (f"      {shapes_text(interface.inputs, plan_key(plan))}" for plan in part.plans)


def _facts(artifact: Artifact) -> dict[str, None]:
    manifest = artifact.manifest
    interface = Interface.from_dict(manifest)
    facts = [f"loopnest {manifest['loopnest']}", f"format {artifact.container.number}"]
    facts += [f"input {spec}" for spec in interface.inputs] + [f"output {spec}" for spec in interface.outputs]
    facts += ["model: in the artifact"] if artifact.model is not None else []
    for part in artifact.parts:
        facts.append(f"isa {part.isa.name}: {part.isa.arch} with {', '.join(part.isa.features)}")
        facts += [f"{part.isa.name} shape {shapes_text(interface.inputs, plan_key(plan))}" for plan in part.plans]
        facts += [f"{part.isa.name} kernel {key[:12]} ({item['symbol']})" for key, item in part.entry["kernels"].items()]
    facts += [f"weights {digest[:12]}" for digest in _weights(artifact, artifact.parts)]
    return dict.fromkeys(facts)


def _weights(artifact: Artifact, parts: tuple[ArtifactPart, ...]) -> Iterator[str]:
    import hashlib

    for number in sorted({number for part in parts for plan in part.plans for number in plan["constants"]}):
        blob: Mapping[str, Any] = artifact.manifest["blobs"][number]
        yield blob["sha256"] or hashlib.sha256(artifact.blob(number)).hexdigest()
