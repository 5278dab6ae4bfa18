"""One ONNX operator through loopnest and through ONNX's reference implementation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh

import loopnest
from loopnest.ir import dtypes
from tests.graphs import make_model, reference, tensor


def model_of(
    op: str,
    inputs: Sequence[np.ndarray | None],
    attrs: Mapping[str, Any] | None = None,
    *,
    outputs: int = 1,
    constants: Sequence[int] = (),
    opset: int = 25,
) -> onnx.ModelProto:
    """A model of one node; the inputs numbered in ``constants`` are initializers, None is an absent one."""
    names = [f"x{i}" if array is not None else "" for i, array in enumerate(inputs)]
    given = {name: array for name, array in zip(names, inputs, strict=True) if array is not None}
    known = {names[i]: given[names[i]] for i in constants}
    node = oh.make_node(op, names, [f"y{i}" for i in range(outputs)], **dict(attrs or {}))
    declared = {
        name: tensor(name, array.shape, dtypes.from_numpy(array.dtype).onnx)
        for name, array in given.items()
        if name not in known
    }
    return make_model([node], declared, [f"y{i}" for i in range(outputs)], known, opset=opset)


def compute(
    op: str, inputs: Sequence[np.ndarray | None], attrs: Mapping[str, Any] | None = None, **options: Any
) -> list[np.ndarray]:
    """What loopnest makes of one node (options as for ``model_of``)."""
    model = model_of(op, inputs, attrs, **options)
    return loopnest.compile(model, threads=1).run(None, _feeds(model, inputs))


def agree(
    op: str,
    inputs: Sequence[np.ndarray | None],
    attrs: Mapping[str, Any] | None = None,
    *,
    rtol: float = 0.0,
    atol: float = 0.0,
    **options: Any,
) -> list[np.ndarray]:
    """Compares loopnest with the reference: dtype, shape, NaN in the same places, values within the tolerance."""
    model = model_of(op, inputs, attrs, **options)
    with np.errstate(all="ignore"):
        expected = reference(model, _feeds(model, inputs))
    actual = compute(op, inputs, attrs, **options)
    for ours, theirs in zip(actual, expected, strict=True):
        theirs = np.asarray(theirs)
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        if ours.dtype.kind in "biu":
            np.testing.assert_array_equal(ours, theirs)
        else:
            np.testing.assert_allclose(ours.astype(np.float64), theirs.astype(np.float64), rtol=rtol, atol=atol)
    return actual


def _feeds(model: onnx.ModelProto, inputs: Sequence[np.ndarray | None]) -> dict[str, np.ndarray]:
    wanted = {value.name for value in model.graph.input}
    return {f"x{i}": array for i, array in enumerate(inputs) if array is not None and f"x{i}" in wanted}
