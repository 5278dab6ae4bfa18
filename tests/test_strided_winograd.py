"""Winograd's algorithm for convolutions with strides: exact forms, results against ONNX Runtime, errors against float64, the choice."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import product
from math import prod
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import loopnest
from loopnest.codegen.target import resolve
from loopnest.compiler.algorithms import MAX_GROWTH, Algorithm, algorithm_of
from loopnest.compiler.config import NodeOptions
from loopnest.compiler.schedule.phases import TransformedFilters, count_phases, frequency_groups, phase_groups, phased_form
from loopnest.compiler.tensor import Layout, Tensor
from loopnest.ir import dtypes
from loopnest.ir.graph import Node
from tests.graphs import make_model, onnxruntime, values
from tests.kernels import kernels_of

FORMS = [(m, r, s) for m in (1, 2, 3, 4) for r in (1, 2, 3, 4, 5, 7) for s in (1, 2, 3) if m + -(-r // s) <= 8]


@pytest.mark.parametrize(("outputs", "taps", "stride"), FORMS)
def test_phases_are_exact(outputs: int, taps: int, stride: int) -> None:
    """y[i] = sum_k x[s i + k] g[k] in rational arithmetic, for every pair of unit vectors, without the products that are left out."""
    phased = phased_form(outputs, taps, stride)
    form = phased.form
    length = stride * (outputs - 1) + taps
    phases = [(p, kind) for kind, r in enumerate(phased.kinds) for p in r]
    assert sorted(p for p, _ in phases) == list(range(min(stride, taps)))
    for at, tap in product(range(length), range(taps)):
        sums = [Fraction(0)] * form.size
        for p, kind in phases:
            matrix = phased.data(kind)
            data = [Fraction(stride * i + p == at) for i in range(len(matrix))]
            assert stride * (len(matrix) - 1) + p < length  # nothing behind the last window is read
            for f, row in enumerate(matrix):
                weight = form.g[f][tap // stride] if tap % stride == p else Fraction(0)
                sums[f] += weight * sum(c * d for c, d in zip(row, data, strict=True))
        results = [sum(c * m for c, m in zip(row, sums, strict=True)) for row in form.a]
        assert results == [Fraction(at == stride * i + tap) for i in range(outputs)]


@pytest.mark.parametrize(
    ("taps", "strides", "products"),
    [
        ((3, 3), (2, 2), 81),
        ((7, 7), (2, 2), 13**2),
        ((3, 3), (2, 1), 54),
        ((5, 5), (3, 3), 14**2),
        ((3, 3, 3), (2, 2, 2), 9**3),
    ],
)
def test_no_product_is_with_a_zero(taps: tuple[int, ...], strides: tuple[int, ...], products: int) -> None:
    """Frequencies sum those phases alone whose filters are not zero there, in one run along one or two axes."""
    forms = tuple(phased_form(4, r, s) for r, s in zip(taps, strides, strict=True))
    u = TransformedFilters(forms)(np.random.default_rng(0).standard_normal((1, 1, *taps)))[..., 0]
    assert u.shape == (prod(f.size for f in forms), count_phases(forms))
    summed = np.zeros(u.shape, bool)
    for group in frequency_groups(forms):
        assert len(group.runs) == 1 or len(taps) > 2
        for point, run in product(product(*group.points), group.runs):
            summed[np.ravel_multi_index(point, [f.size for f in forms]), run.start : run.stop] = True
    np.testing.assert_array_equal(summed, u != 0)
    assert summed.sum() == products == sum(group.products for group in frequency_groups(forms))
    numbers = [group.first + i for group in phase_groups(forms) for i in range(group.count)]
    assert numbers == list(range(count_phases(forms)))


# --- kernels --------------------------------------------------------------------------------------------------------------------


def strided(
    channels: Sequence[int], taps: Sequence[int], strides: Sequence[int], pads: Sequence[int], *, fused: bool, groups: int = 1
) -> onnx.ModelProto:
    """A convolution, alone or with bias, residual and activation; extents are known by name."""
    inputs, filters = channels
    constants = {"w": values(filters, inputs // groups, *taps, seed=1), "b": values(filters, seed=2)}
    named = ["n", inputs, *(f"n{i}" for i in range(len(taps)))]
    node = oh.make_node("Conv", ["x", "w", "b"], ["c" if fused else "y"], strides=strides, pads=pads, group=groups, name="conv")
    if not fused:
        return make_model([node], {"x": named}, ["y"], constants)
    nodes = [node, oh.make_node("Add", ["c", "r"], ["s"]), oh.make_node("LeakyRelu", ["s"], ["y"], alpha=0.125)]
    return make_model(nodes, {"x": named, "r": ["n", filters, *(None for _ in taps)]}, ["y"], constants)


def check(
    shape: Sequence[int],
    filters: int,
    taps: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    algorithm: str = "auto",
    *,
    fused: bool = False,
    groups: int = 1,
    **options: Any,
) -> loopnest.CompiledModel:
    """Compiles with ``algorithm`` and compares with ONNX Runtime: at most 1e-4 of the largest value apart, as for whole models."""
    model = strided((shape[1], filters), taps, strides, pads, fused=fused, groups=groups)
    rank, feeds = len(taps), {"x": values(*shape)}
    if fused:
        ends = zip(shape[2:], pads[:rank], pads[rank:], taps, strides, strict=True)
        feeds["r"] = values(shape[0], filters, *((n + p + q - k) // s + 1 for n, p, q, k, s in ends), seed=9)
    f = loopnest.compile(model, config={"conv": algorithm, **options})
    (ours,), (theirs,) = f.run(None, feeds), onnxruntime(model, feeds)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()
    return f


SIZES = st.sampled_from([1, 7, 8, 9, 15, 16, 17, 31, 33])


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.tuples(SIZES, SIZES),
    batch=st.sampled_from([1, 2]),
    channels=st.sampled_from([1, 2, 3, 5, 7, 8, 16, 17, 24]),
    filters=st.sampled_from([8, 16, 17, 33, 72]),
    taps=st.tuples(*[st.sampled_from([2, 3, 4, 5, 7])] * 2),
    strides=st.sampled_from([(2, 2), (3, 3), (2, 1), (1, 3), (3, 2)]),
    pads=st.tuples(*[st.integers(0, 3)] * 4),
    algorithm=st.sampled_from(["winograd2", "winograd3", "winograd4", "auto"]),
    fused=st.booleans(),
    threads=st.sampled_from([1, 2]),
)
def test_any_image(
    sizes: tuple[int, int],
    batch: int,
    channels: int,
    filters: int,
    taps: tuple[int, int],
    strides: tuple[int, int],
    pads: tuple[int, ...],
    algorithm: str,
    fused: bool,
    threads: int,
) -> None:
    grown = [max(n, k) for n, k in zip(sizes, taps, strict=True)]
    check((batch, channels, *grown), filters, taps, strides, pads, algorithm, fused=fused, threads=threads)


@pytest.mark.parametrize(
    ("shape", "taps", "strides", "pads"),
    [
        ((1, 16, 33), (3,), (2,), (1, 1)), ((2, 3, 40), (7,), (2,), (3, 3)), ((1, 16, 9, 15), (1, 3), (1, 2), (0, 1, 0, 1)),
        ((1, 16, 9, 15), (3, 1), (2, 2), (1, 0, 1, 0)), ((1, 8, 9, 15), (2, 5), (2, 2), (1, 2, 1, 2)),
        ((1, 3, 9, 8, 11), (3, 3, 3), (2, 2, 2), (1, 1, 1, 0, 1, 2)), ((2, 9, 9, 8, 7), (3, 3, 3), (2, 2, 2), (1, 1, 1, 1, 1, 1)),
        ((1, 16, 5, 9, 8), (3, 3, 3), (1, 2, 2), (1, 1, 1, 1, 1, 1)), ((1, 3, 4, 15, 16), (1, 7, 7), (1, 2, 2), (0, 3, 3, 0, 3, 3)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("algorithm", ["auto", "winograd2"])
def test_other_windows(
    shape: tuple[int, ...], taps: tuple[int, ...], strides: tuple[int, ...], pads: tuple[int, ...], algorithm: str
) -> None:
    check(shape, 24, taps, strides, pads, algorithm, fused=True)


@pytest.mark.parametrize(("channels", "filters", "groups"), [(264, 40, 1), (140, 24, 1), (48, 144, 3), (16, 256, 2)])
def test_many_channels(channels: int, filters: int, groups: int) -> None:
    """Sums in parts, of whole blocks and not; groups of whole blocks."""
    check((1, channels, 15, 14), filters, (3, 3), (2, 2), (1, 1, 1, 1), "winograd4", fused=True, groups=groups, threads=2)


@pytest.mark.parametrize("target", ["cpu-sse2", "cpu-avx2"])
@pytest.mark.parametrize("channels", [3, 16])
def test_other_instruction_sets(target: str, channels: int) -> None:
    model, x = strided((channels, 21), (7, 7), (2, 2), (3, 3, 3, 3), fused=False), values(1, channels, 19, 30)
    (ours,) = loopnest.compile(model, target, config={"conv": "winograd3"}).run(None, {"x": x})
    np.testing.assert_allclose(ours, onnxruntime(model, {"x": x})[0], rtol=1e-4, atol=2e-4)


# --- accuracy -------------------------------------------------------------------------------------------------------------------


def error(f: loopnest.CompiledModel, x: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """The largest and the root mean square error."""
    wrong = f(x).astype(np.float64) - expected
    return float(np.abs(wrong).max()), float(np.sqrt((wrong**2).mean()))


@pytest.mark.parametrize(("channels", "taps", "stride"), [(8, 3, 2), (256, 3, 2), (3, 7, 2), (16, 5, 3), (3, 7, 4)])
@pytest.mark.parametrize("positive", [False, True])
def test_errors_of_auto_are_at_most_ten_times_those_of_direct(channels: int, taps: int, stride: int, positive: bool) -> None:
    """Every algorithm that "auto" may choose, against float64, on data around zero and on what a Relu leaves."""
    x, w = values(1, channels, 41, 38), values(32, channels, taps, taps, seed=1)
    x = np.maximum(x, 0) if positive else x
    windows = np.lib.stride_tricks.sliding_window_view(x[0].astype(np.float64), (taps, taps), axis=(1, 2))  # type: ignore[call-overload]
    expected = np.einsum("chwij,ocij->ohw", windows[:, ::stride, ::stride], w.astype(np.float64), optimize=True)[None]
    model = make_model([oh.make_node("Conv", ["x", "w"], ["y"], strides=[stride] * 2)], {"x": x.shape}, ["y"], {"w": w})
    largest, mean = error(loopnest.compile(model, config={"conv": "direct"}), x, expected)
    for outputs in (2, 3, 4):
        if phased_form(outputs, taps, stride).growth ** 2 <= MAX_GROWTH:
            most, mean_of_winograd = error(loopnest.compile(model, config={"conv": f"winograd{outputs}"}), x, expected)
            assert most <= 10 * largest and mean_of_winograd <= 10 * mean, (outputs, most / largest, mean_of_winograd / mean)


# --- choice ---------------------------------------------------------------------------------------------------------------------


def choice(inputs: int, outputs: int, size: int, taps: int, stride: int, conv: str = "auto", **attributes: Any) -> Algorithm:
    node = Node("Conv", ("x", "w"), ("y",), {"strides": (stride,) * 2, "pads": (taps // 2,) * 4, **attributes})
    shapes = {"x": (1, inputs, size * stride, size * stride), "w": (outputs, inputs, taps, taps), "y": (1, outputs, size, size)}
    tensors = {name: Tensor(name, dtypes.float32, shape, Layout(8 if name == "y" else 0)) for name, shape in shapes.items()}
    return algorithm_of(node, tensors, {"w"}, NodeOptions(conv=conv), resolve("cpu-avx2"))  # type: ignore[arg-type]


def test_what_auto_chooses() -> None:
    """Larger tiles on larger images; direct where filters are more than the image, or channels and taps are few."""
    titles = [choice(*layer).title for layer in ((128, 128, 28, 3, 2), (256, 256, 14, 3, 2), (3, 64, 112, 7, 2))]
    assert titles == [f"Winograd F({m}, {r})/2 x F({m}, {r})/2" for m, r in ((4, 3), (2, 3), (3, 7))]
    assert not choice(512, 512, 7, 3, 2).transforms
    assert "of the time" in choice(3, 32, 112, 3, 2).reason
    assert "one tap of each phase" in choice(64, 64, 28, 3, 3).reason
    assert "fewer than 8 channels" in choice(1, 64, 28, 3, 2).reason
    assert "dilated" in choice(64, 64, 28, 3, 2, dilations=(2, 2)).reason
    assert "option `conv` is direct" in choice(64, 64, 28, 3, 2, "direct").reason


def test_the_kernel_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    node = oh.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], pads=[3, 3, 3, 3])
    model = make_model([node], {"x": [1, 3, 112, 112]}, ["y"], {"w": values(64, 3, 7, 7)})
    assert any("Winograd F(3, 7)/2 x F(3, 7)/2" in kernel.text for kernel in kernels_of(model, monkeypatch))
