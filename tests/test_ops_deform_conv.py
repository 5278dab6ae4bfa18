"""DeformConv, against ONNX's reference, and in any number of dimensions against a Conv whose window does not move."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import loopnest
from tests.graphs import values
from tests.operators import agree, compute


def operands(
    x: tuple[int, ...], w: tuple[int, ...], out: tuple[int, ...], groups: int = 1, *, masked: bool = True
) -> list[np.ndarray | None]:
    taps, rank = int(np.prod(w[2:])), len(w) - 2
    random = np.random.default_rng(0)
    offset = random.uniform(-2.5, 2.5, (x[0], groups * taps * rank, *out)).astype(np.float32)
    mask = random.uniform(0, 1, (x[0], groups * taps, *out)).astype(np.float32)
    return [values(*x), values(*w), offset, values(w[0]), mask if masked else None]


@pytest.mark.parametrize("width", [1, 7, 9, 17])
@pytest.mark.parametrize("masked", [False, True])
def test_widths(width: int, masked: bool) -> None:
    agree("DeformConv", operands((2, 3, 5, width + 2), (4, 3, 2, 3), (4, width), masked=masked), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("attrs", "out"),
    [
        ({"strides": [2, 1], "pads": [1, 0, 1, 2]}, (4, 7)),
        ({"dilations": [2, 3]}, (3, 1)),
        ({"group": 2, "offset_group": 4, "pads": [1, 1, 1, 1]}, (7, 7)),
    ],
)
def test_windows_and_groups(attrs: dict[str, Any], out: tuple[int, int]) -> None:
    inputs = operands((1, 4, 7, 7), (6, 4 // attrs.get("group", 1), 3, 3), out, attrs.get("offset_group", 1))
    agree("DeformConv", inputs, attrs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spatial", [(9,), (5, 6), (4, 5, 6)])
def test_without_offsets_it_is_a_convolution(spatial: tuple[int, ...]) -> None:
    rank = len(spatial)
    x, w, offset, bias, _ = operands((1, 3, *spatial), (5, 3, *(3,) * rank), spatial, masked=False)
    attrs = {"pads": [1] * (2 * rank)}
    (ours,) = compute("DeformConv", [x, w, np.zeros_like(offset), bias], attrs)
    (conv,) = compute("Conv", [x, w, bias], attrs)
    np.testing.assert_allclose(ours, conv, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("offset", [np.inf, -np.inf, np.nan, 1e30, -1e30])
def test_places_far_away_read_nothing(offset: float) -> None:
    inputs = operands((1, 2, 5, 5), (2, 2, 3, 3), (3, 3), masked=False)
    (ours,) = compute("DeformConv", [*inputs[:2], np.full((1, 18, 3, 3), offset, np.float32), inputs[3]])
    assert ours.shape == (1, 2, 3, 3)
    if abs(offset) == 1e30:
        np.testing.assert_array_equal(ours, np.broadcast_to(np.asarray(inputs[3])[None, :, None, None], ours.shape))


def test_shapes_that_do_not_fit_are_refused() -> None:
    x, w, offset, bias, mask = operands((1, 4, 5, 5), (2, 4, 3, 3), (3, 3))
    with pytest.raises(loopnest.ModelError, match=r"offset has shape \(1, 17, 3, 3\), expected \(1, 18, 3, 3\)"):
        compute("DeformConv", [x, w, np.asarray(offset)[:, 1:], bias, mask])
    with pytest.raises(loopnest.ModelError, match=r"mask has shape \(1, 9, 3, 2\)"):
        compute("DeformConv", [x, w, offset, bias, np.asarray(mask)[..., 1:]])
    with pytest.raises(loopnest.ModelError, match="3 offset groups"):
        compute("DeformConv", [x, w, offset, bias, mask], {"offset_group": 3})
