"""Artifacts of format 1: one instruction set, one checksum for all weights, programs in the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..ir.errors import MALFORMED, ArtifactError


def upgraded(what: str, old: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest as later formats have it. Raises ``ArtifactError`` for one that is malformed."""
    try:
        return {
            **{key: old[key] for key in ("format", "loopnest", "name", "inputs", "outputs", "value_inputs")},
            "sections": [{"name": name, **old[name]} for name in ("code", "weights")],
            "blobs": [{"offset": offset, "nbytes": nbytes, "sha256": None} for offset, nbytes in old["blobs"]],
            "isas": [{**old["isa"], "code": "code", "kernels": old["kernels"], "plans": old["plans"]}],
        }
    except MALFORMED as error:
        raise ArtifactError(f"{what} is damaged: {type(error).__name__}: {error}") from None
