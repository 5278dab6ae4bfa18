"""Input arrays for a model: from files, numbers, or seeded random values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np

from ...ir import dtypes


def make_feeds(
    inputs: Iterable[Any], given: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], seed: int = 0
) -> dict[str, np.ndarray]:
    """One array for each of ``inputs`` (records with name, dtype, shape).

    ``given`` maps names to ``.npy`` files or to scalars; the others are random: floats in [0, 1), integers and bools 0 or 1. A dim
    without a number comes from ``shapes``, else from an equally named dim of an input that has one, else it is 1.
    """
    records = {spec.name: spec for spec in inputs}
    feeds = given_inputs(records.values(), given, shapes)
    symbols = _symbols(records, {**{name: array.shape for name, array in feeds.items()}, **shapes})
    random = np.random.default_rng(seed)
    for name, spec in records.items():
        if name not in feeds:
            shape = shapes.get(name) or tuple(
                symbols.get(dim, 1) if not isinstance(dim, int) else dim for dim in spec.shape or ()
            )
            feeds[name] = _random(random, str(spec.dtype), shape)
    return {name: feeds[name] for name in records}


def given_inputs(inputs: Iterable[Any], given: Mapping[str, str], others: Iterable[str] = ()) -> dict[str, np.ndarray]:
    """The arrays that ``given`` names, from files or numbers; it and ``others`` name only inputs that there are."""
    records = {spec.name: spec for spec in inputs}
    for name in (*given, *others):
        if name and name not in records:
            raise click.BadParameter(f"the model has no input {name!r}; it has {', '.join(map(repr, records)) or 'none'}")
    return {name: _given(text, records[name]) for name, text in given.items()}


def _given(text: str, spec: Any) -> np.ndarray:
    if text.endswith(".npy") or Path(text).exists():
        try:
            return np.load(text, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise click.BadParameter(f"cannot read {text} for input {spec.name!r}: {error}") from error
    try:
        return np.asarray(float(text)).astype(dtypes.by_name(str(spec.dtype)).numpy)
    except ValueError:
        raise click.BadParameter(f"{text!r} for input {spec.name!r} is neither a .npy file nor a number") from None


def _symbols(records: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Extents of named dims, as the shapes that are known fix them."""
    pairs = (pair for name in shapes for pair in zip(records[name].shape or (), shapes[name], strict=False))
    return {str(dim): extent for dim, extent in pairs}


def _random(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    dtype = dtypes.by_name(name)
    if dtype.is_float:
        return random.random(shape, np.float32).astype(dtype.numpy)
    if dtype.kind == "complex":
        return (random.random(shape) + 1j * random.random(shape)).astype(dtype.numpy)
    if dtype.kind == "string":
        return np.full(shape, "text", object)
    return random.integers(0, 2, shape).astype(dtype.numpy)
