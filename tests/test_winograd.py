"""Winograd's algorithm: exact transforms, results against ONNX Runtime, errors against float64, and where it is chosen or refused."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
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
from loopnest.compiler.schedule.cook_toom import Matrix, cook_toom, multiply
from loopnest.compiler.schedule.phases import TransformedFilters, phased_form
from loopnest.compiler.tensor import Layout, Tensor
from loopnest.ir import dtypes
from loopnest.ir.graph import Node
from tests.graphs import make_model, onnxruntime, values
from tests.kernels import kernels_of

FORMS = [(m, r) for m in range(1, 9) for r in range(1, 9) if m + r <= 9]


def product(matrix: Matrix, x: Sequence[Fraction]) -> list[Fraction]:
    return [sum((a * b for a, b in zip(row, x, strict=True)), start=Fraction(0)) for row in matrix]


@pytest.mark.parametrize(("outputs", "taps"), FORMS)
def test_the_algorithm_is_exact(outputs: int, taps: int) -> None:
    """y[i] = sum_k d[i + k] g[k] in rational arithmetic, for every pair of unit vectors: bilinear forms that agree there are the same."""
    form = cook_toom(outputs, taps)
    assert form.size == outputs + taps - 1 == len(form.b) == len(form.g)
    for at in range(form.size):
        data = [Fraction(i == at) for i in range(form.size)]
        for tap in range(taps):
            filters = [Fraction(k == tap) for k in range(taps)]
            products = [p * q for p, q in zip(product(form.g, filters), product(form.b, data), strict=True)]
            assert product(form.a, products) == [Fraction(at == i + tap) for i in range(outputs)]


@pytest.mark.parametrize(("outputs", "taps"), FORMS)
def test_transforms_need_nothing_rounded(outputs: int, taps: int) -> None:
    """B^T and A^T are applied in float32, so their entries must be float32 numbers; G is applied in float64 and rounded once."""
    form = cook_toom(outputs, taps)
    assert all(Fraction(float(np.float32(c))) == c for row in (*form.a, *form.b) for c in row)


@pytest.mark.parametrize("points", [(1, 2), (0, 1, 1), (0, 1, -1, 2)])
def test_points_must_be_as_many_as_needed_and_different(points: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="3 different points"):
        cook_toom(2, 3, tuple(map(Fraction, points)))
    with pytest.raises(ValueError, match="no set of 9 points"):
        cook_toom(6, 5)
    with pytest.raises(ValueError, match="no results"):
        cook_toom(0, 3)


def test_any_points_will_do() -> None:
    form = cook_toom(2, 3, (Fraction(3), Fraction(-1, 7), Fraction(5, 2)))
    data, filters = [Fraction(i, 3) for i in (1, -4, 7, 2)], [Fraction(i) for i in (5, -3, 2)]
    products = [p * q for p, q in zip(product(form.g, filters), product(form.b, data), strict=True)]
    assert product(form.a, products) == [sum(data[i + k] * filters[k] for k in range(3)) for i in range(2)]


class Counted:
    """A number that counts the operations done with it; a multiplication is part of the addition that follows it."""

    operations = 0

    def __init__(self, value: Fraction) -> None:
        self.value = value

    def __add__(self, other: Counted) -> Counted:
        Counted.operations += 1
        return Counted(self.value + other.value)

    def __sub__(self, other: Counted) -> Counted:
        Counted.operations += 1
        return Counted(self.value - other.value)

    def __mul__(self, factor: Fraction) -> Counted:
        return Counted(self.value * factor)


@pytest.mark.parametrize(("outputs", "taps"), FORMS)
def test_shared_sums_change_no_value(outputs: int, taps: int) -> None:
    form = cook_toom(outputs, taps)
    x = [Fraction(7 * i * i - 5 * i + 3, 2 + i) for i in range(form.size)]
    for matrix in (form.a, form.b):
        shared = multiply(matrix, [Counted(v) for v in x], lambda value: value)
        assert [v.value for v in shared] == product(matrix, x)


@pytest.mark.parametrize(("outputs", "into", "out"), [(2, 4, 4), (4, 12, 10), (6, 24, 20)])
def test_even_and_odd_sums_are_shared(outputs: int, into: int, out: int) -> None:
    """As many additions (or multiply-adds) as in the forms written by hand; unshared, F(4, 3) has 20 and 16."""
    form = cook_toom(outputs, 3)
    counts: list[int] = []
    for matrix in (form.b, form.a):
        Counted.operations = 0
        multiply(matrix, [Counted(Fraction(1))] * form.size, lambda value: value)
        counts.append(Counted.operations)
    assert counts == [into, out]


# --- kernels --------------------------------------------------------------------------------------------------------------------


def conv_model(
    shape: Sequence[Any],
    filters: int,
    kernel: Sequence[int],
    pads: Sequence[int],
    *,
    fused: bool,
    seed: int = 0,
    groups: int = 1,
) -> onnx.ModelProto:
    """A convolution, alone or with bias, residual and activation; ``shape`` may name extents."""
    constants = {"w": values(filters, shape[1] // groups, *kernel, seed=seed + 1)}
    attributes: dict[str, Any] = {"pads": list(pads), "name": "conv", "group": groups}
    if not fused:
        return make_model([oh.make_node("Conv", ["x", "w"], ["y"], **attributes)], {"x": list(shape)}, ["y"], constants)
    constants["b"] = values(filters, seed=seed + 2)
    nodes = [
        oh.make_node("Conv", ["x", "w", "b"], ["c"], **attributes),
        oh.make_node("Add", ["c", "r"], ["s"]),
        oh.make_node("LeakyRelu", ["s"], ["y"], alpha=0.125),
    ]
    residual = [shape[0], filters, *(None for _ in kernel)]
    return make_model(nodes, {"x": list(shape), "r": residual}, ["y"], constants)


def feeds_of(
    shape: Sequence[int], filters: int, kernel: Sequence[int], pads: Sequence[int], *, fused: bool
) -> dict[str, np.ndarray]:
    rank = len(kernel)
    out = [n + p + q - k + 1 for n, p, q, k in zip(shape[2:], pads[:rank], pads[rank:], kernel, strict=True)]
    return {"x": values(*shape)} | ({"r": values(shape[0], filters, *out, seed=9)} if fused else {})


def check(
    shape: Sequence[int],
    filters: int,
    kernel: Sequence[int],
    pads: Sequence[int],
    algorithm: str,
    *,
    fused: bool = False,
    groups: int = 1,
    late: bool = False,
    **options: Any,
) -> loopnest.CompiledModel:
    """Compiles with ``algorithm`` and compares with ONNX Runtime: at most 1e-4 of the largest value apart, as for whole models.

    ``late``: the kernel transforms the filters."""
    named = [shape[0], shape[1], *(f"n{i}" for i in range(len(kernel)))]
    model = conv_model(named, filters, kernel, pads, fused=fused, groups=groups)
    feeds = feeds_of(shape, filters, kernel, pads, fused=fused)
    f = loopnest.compile(model, config={"conv": algorithm, "filters": "kernel" if late else "plan", **options})
    (ours,), (theirs,) = f.run(None, feeds), onnxruntime(model, feeds)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()
    return f


SIZES = st.sampled_from([1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33])


@settings(max_examples=24, deadline=None)
@given(
    height=SIZES,
    width=SIZES,
    batch=st.sampled_from([1, 2, 3]),
    channels=st.sampled_from([8, 16, 17, 24]),
    filters=st.sampled_from([8, 16, 17, 33, 72]),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    algorithm=st.sampled_from(["winograd2", "winograd4", "winograd6"]),
    fused=st.booleans(),
    threads=st.sampled_from([1, 2]),
    late=st.booleans(),
)
def test_any_image(
    height: int,
    width: int,
    batch: int,
    channels: int,
    filters: int,
    pads: tuple[int, ...],
    algorithm: str,
    fused: bool,
    threads: int,
    late: bool,
) -> None:
    grown = [max(p, 1) if n < 3 else p for p, n in zip(pads, (height, width) * 2, strict=True)]
    check((batch, channels, height, width), filters, (3, 3), grown, algorithm, fused=fused, threads=threads, late=late)


@pytest.mark.parametrize("channels", [3, 5, 9, 16])
@pytest.mark.parametrize("filters", [3, 5, 9])
def test_channels_that_fill_no_block(channels: int, filters: int) -> None:
    check((2, channels, 9, 10), filters, (3, 3), (1, 1, 1, 1), "winograd4", fused=True)


@pytest.mark.parametrize(
    ("sizes", "kernel", "pads"),
    [
        ((33,), (3,), (1, 1)), ((7,), (5,), (0, 2)), ((40,), (7,), (3, 3)), ((9, 15), (1, 3), (0, 1, 0, 1)),
        ((17, 8), (3, 1), (2, 0, 1, 0)), ((15, 16), (5, 5), (2, 2, 2, 2)), ((9, 17), (1, 7), (0, 3, 0, 3)), ((12, 9), (3, 5), (1, 2, 1, 2)),
        ((5, 7, 6), (3, 3, 3), (1, 1, 1, 0, 1, 2)), ((4, 9, 8), (1, 3, 3), (0, 1, 1, 0, 1, 1)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("algorithm", ["auto", "winograd2", "winograd4"])
def test_other_windows(sizes: tuple[int, ...], kernel: tuple[int, ...], pads: tuple[int, ...], algorithm: str) -> None:
    check((1, 16, *sizes), 24, kernel, pads, algorithm, fused=True)


@pytest.mark.parametrize(("channels", "filters"), [(16, 256), (520, 16), (264, 520)])
@pytest.mark.parametrize("size", [7, 14])
def test_many_channels(channels: int, filters: int, size: int) -> None:
    """Output channels in groups and chunks, with rests; sums in parts."""
    check((1, channels, size, size), filters, (3, 3), (1, 1, 1, 1), "winograd4", fused=True, threads=2)


@pytest.mark.parametrize(
    ("groups", "inputs", "outputs", "size", "algorithm", "threads"),
    [
        (2, 8, 8, 1, "winograd2", 1), (49, 16, 16, 7, "winograd4", 2), (3, 24, 8, 9, "winograd4", 1), (5, 8, 72, 16, "winograd4", 2),
        (6, 128, 128, 12, "winograd2", 2), (2, 16, 512, 7, "winograd2", 2), (2, 136, 16, 17, "winograd4", 1),
        (64, 8, 8, 8, "winograd6", 2), (2, 40, 264, 33, "winograd4", 2),
    ],
)  # fmt: skip
def test_groups(groups: int, inputs: int, outputs: int, size: int, algorithm: str, threads: int) -> None:
    """Whole blocks of channels in each group; more groups than tasks are wanted, and fewer."""
    shape, filters, fused = (1 + size % 2, groups * inputs, size, size + groups % 2), groups * outputs, size < 30
    check(shape, filters, (3, 3), (1, 1, 1, 1), algorithm, fused=fused, groups=groups, threads=threads)


@pytest.mark.parametrize(
    ("channels", "filters", "groups", "sizes", "kernel", "algorithm", "threads"),
    [
        (16, 24, 1, (33,), (3,), "winograd4", 1), (9, 40, 1, (9, 15), (1, 3), "winograd4", 2), (17, 33, 1, (16, 7), (7, 1), "winograd2", 1),
        (16, 40, 1, (5, 7, 6), (3, 3, 3), "winograd2", 1), (264, 520, 1, (7, 8), (3, 3), "winograd4", 2),
        (144, 72, 3, (16, 17), (3, 3), "winograd4", 2), (48, 80, 1, (31, 33), (5, 5), "winograd2", 1),
    ],
)  # fmt: skip
def test_filters_that_the_kernel_transforms(
    channels: int, filters: int, groups: int, sizes: tuple[int, ...], kernel: tuple[int, ...], algorithm: str, threads: int
) -> None:
    """Sums in parts, chunks with rests, and blocks of tiles."""
    pads, shape = tuple(r // 2 for r in kernel) * 2, (1, channels, *sizes)
    late = check(shape, filters, kernel, pads, algorithm, fused=True, groups=groups, threads=threads, late=True)
    early = check(shape, filters, kernel, pads, algorithm, fused=True, groups=groups, threads=threads)
    assert constant_bytes(late) < constant_bytes(early)


@pytest.mark.parametrize("tile", [{"m": 1}, {"m": 5, "n": 8}, {"m": 4, "n": 24}, {"n": 128}])
def test_any_register_tile(tile: dict[str, int]) -> None:
    check((1, 16, 13, 18), 72, (3, 3), (1, 1, 1, 1), "winograd4", fused=True, tile=tile)


@pytest.mark.parametrize("target", ["cpu-sse2", "cpu-avx2"])
def test_other_instruction_sets(target: str) -> None:
    model = conv_model([1, 16, 9, 15], 21, (3, 3), (1, 1, 1, 1), fused=True)
    feeds = feeds_of([1, 16, 9, 15], 21, (3, 3), (1, 1, 1, 1), fused=True)
    (ours,) = loopnest.compile(model, target, config={"conv": "winograd4"}).run(None, feeds)
    np.testing.assert_allclose(ours, onnxruntime(model, feeds)[0], rtol=1e-4, atol=1e-4)


def constant_bytes(f: loopnest.CompiledModel) -> int:
    (plan,) = f.plans
    return sum(plan.native.program.constants)  # type: ignore[attr-defined]


def test_constants_grow_little_beyond_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Filters for the fewest tiles are transformed in the kernel first; none where an option says otherwise."""
    channels = (16, 160, 144, 128)  # of images of 24x24, 12x12, 6x6
    constants = {f"w{i}": values(channels[i + 1], channels[i], 3, 3, seed=i) / channels[i] for i in range(3)}
    nodes = [oh.make_node("MaxPool", ["x"], ["p0"], kernel_shape=[2, 2], strides=[2, 2])]
    for i in range(3):
        nodes.append(oh.make_node("Conv", [f"p{i}", f"w{i}"], [f"y{i}"], name=f"conv{i}", pads=[1, 1, 1, 1]))
        nodes.append(oh.make_node("MaxPool", [f"y{i}"], [f"p{i + 1}"], kernel_shape=[2, 2], strides=[2, 2]))
    model = make_model(nodes, {"x": [1, 16, 48, 48]}, ["p3"], constants)
    feeds = {"x": values(1, 16, 48, 48)}

    def compiled(spare: int, **options: Any) -> int:
        monkeypatch.setattr("loopnest.compiler.late_filters.SPARE", spare)
        f = loopnest.compile(model, threads=1, config={"conv": "winograd4", "cache": False, **options})
        np.testing.assert_allclose(f.run(None, feeds)[0], onnxruntime(model, feeds)[0], rtol=1e-3, atol=1e-4)
        return constant_bytes(f)

    whole, growth = compiled(64 << 20), [3 * constants[name].nbytes for name in constants]
    assert whole - compiled(3 << 19) == growth[2]
    assert (
        whole - compiled(0, node={"conv2": {"filters": "plan"}}) == growth[1]
    )  # those of conv0 are for several blocks of tiles


def test_a_chain_keeps_its_layout_and_its_halos() -> None:
    """Producers write the halo of whole tiles, wherever it ends; a pool, a 1x1 and a strided convolution read beside it."""
    constants = {f"w{i}": values(16, 16, 3, 3, seed=i) / 12 for i in range(4)} | {"p": values(16, 16, 1, 1, seed=9) / 4}
    nodes = [
        oh.make_node("Conv", ["x", "w0"], ["a"], pads=[1, 1, 1, 1]),
        oh.make_node("Relu", ["a"], ["b"]),
        oh.make_node("Conv", ["b", "w1"], ["c"], pads=[1, 1, 1, 1]),
        oh.make_node("Add", ["c", "b"], ["d"]),
        oh.make_node("Conv", ["d", "w2"], ["e"], pads=[1, 1, 1, 1], strides=[2, 2]),
        oh.make_node("Conv", ["d", "p"], ["f"]),
        oh.make_node("MaxPool", ["d"], ["g"], kernel_shape=[3, 3]),
        oh.make_node("Conv", ["f", "w3"], ["h"]),
    ]
    model = make_model(nodes, {"x": ["n", 16, "h", "w"]}, ["e", "f", "g", "h"], constants)
    for height, width in ((9, 13), (14, 7), (17, 18)):
        feeds = {"x": values(2, 16, height, width)}
        f = loopnest.compile(model, config={"conv": "winograd4"})
        for ours, theirs in zip(f.run(None, feeds), onnxruntime(model, feeds), strict=True):
            assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()
        assert str(f).count("Identity") <= 6, f


def test_a_new_image_size_compiles_nothing() -> None:
    """As long as the extents that differ in one differ in the other (equal ones are one parameter)."""
    model = conv_model(["n", 80, "h", "w"], 80, (3, 3), (1, 1, 1, 1), fused=False)
    f = loopnest.compile(model, threads=2, config={"conv": "winograd4"})
    kernels: list[set[str]] = []
    for shape in ((5, 80, 61, 75), (7, 80, 58, 89), (6, 80, 97, 111)):
        f(values(*shape))
        steps = f.plans[-1].native.program.steps  # type: ignore[attr-defined]
        kernels.append({step.kernel for step in steps if step.op == "Conv"})
    assert kernels[0] == kernels[1] == kernels[2]


# --- accuracy -------------------------------------------------------------------------------------------------------------------


def error(f: loopnest.CompiledModel, x: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """The largest and the root mean square error."""
    wrong = f(x).astype(np.float64) - expected
    return float(np.abs(wrong).max()), float(np.sqrt((wrong**2).mean()))


@pytest.mark.parametrize("channels", [8, 64, 256, 512])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("kernel", [(3, 3), (1, 3), (7, 1)])
def test_errors_of_auto_are_at_most_ten_times_those_of_direct(channels: int, positive: bool, kernel: tuple[int, int]) -> None:
    """Every algorithm that "auto" may choose, against float64, on data around zero and on what a Relu leaves."""
    x, w = values(1, channels, 19, 18), values(32, channels, *kernel, seed=1)
    x = np.maximum(x, 0) if positive else x
    windows = np.lib.stride_tricks.sliding_window_view(x[0].astype(np.float64), kernel, axis=(1, 2))  # type: ignore[call-overload]
    expected = np.einsum("chwij,ocij->ohw", windows, w.astype(np.float64), optimize=True)[None]
    model = make_model([oh.make_node("Conv", ["x", "w"], ["y"])], {"x": x.shape}, ["y"], {"w": w})
    largest, mean = error(loopnest.compile(model, config={"conv": "direct"}), x, expected)
    for outputs in (2, 4, 6):
        form = [phased_form(outputs if r > 1 else 1, r) for r in kernel if outputs + r <= 9]
        if len(form) == 2 and form[0].growth * form[1].growth <= MAX_GROWTH:
            f = loopnest.compile(model, config={"conv": f"winograd{outputs}"})
            most, mean_of_winograd = error(f, x, expected)
            assert most <= 10 * largest and mean_of_winograd <= 10 * mean, (outputs, most / largest, mean_of_winograd / mean)


# --- choice ---------------------------------------------------------------------------------------------------------------------


def choice(
    x: tuple[int, ...],
    w: tuple[int, ...],
    conv: str = "auto",
    *,
    constant: bool = True,
    block: int = 8,
    dtype: dtypes.DType = dtypes.float32,
    **attributes: Any,
) -> Algorithm:
    node = Node("Conv", ("x", "w"), ("y",), attributes)
    shape = (x[0], w[0], *(n - k + 1 for n, k in zip(x[2:], w[2:], strict=True)))
    tensors = {"x": Tensor("x", dtype, x), "w": Tensor("w", dtype, w), "y": Tensor("y", dtype, shape, Layout(block))}
    options = NodeOptions(conv=conv)  # type: ignore[arg-type]
    return algorithm_of(node, tensors, {"w"} if constant else (), options, resolve("cpu-avx2"))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"conv": "direct"}, "option `conv` is direct"), ({"block": 0}, "not in blocks"), ({"constant": False}, "not constant"),
        ({"dtype": dtypes.float64}, "float64"), ({"group": 16}, "no whole blocks"),
        ({"strides": (3, 3)}, "one tap of each phase"),
        ({"dilations": (2, 2)}, "dilated"),
    ],
)  # fmt: skip
def test_refusals_say_why(given: dict[str, Any], says: str) -> None:
    algorithm = choice((1, 64, 58, 58), (64, 64, 3, 3), **given)
    assert not algorithm.transforms and says in algorithm.reason
    assert choice((1, 64, 58, 58), (64, 64, 3, 3)).transforms


def test_refusals_by_shape() -> None:
    assert "one tap" in choice((1, 64, 56, 56), (64, 64, 1, 1)).reason
    assert "fewer than 8 channels" in choice((1, 3, 226, 226), (64, 3, 3, 3)).reason
    assert "no points" in choice((1, 64, 58, 58), (64, 64, 5, 5), "winograd6").reason
    assert "precision" in choice((1, 64, 58, 58), (64, 64, 9, 9)).reason
    assert "of the time" in choice((1, 512, 3, 3), (512, 512, 3, 3)).reason


def test_what_auto_chooses() -> None:
    """F(4, 3) on large images, F(2, 3) or direct where the filters are more than the image; never F(6, 3) in two dimensions."""

    def outputs(size: int, channels: int) -> int:
        transforms = choice((1, channels, size + 2, size + 2), (channels, channels, 3, 3)).transforms
        return transforms[0].outputs if transforms else 1

    assert [outputs(size, channels) for size, channels in ((224, 64), (56, 64), (28, 128), (28, 512))] == [4] * 4
    assert outputs(14, 256) > 1
    assert outputs(7, 512) <= 2
    assert outputs(1, 512) == 1
    assert choice((1, 768, 14, 14), (768, 128, 3, 3), group=6).transforms
    assert choice((1, 320, 16, 16), (320, 16, 3, 3), group=20).transforms  # rows of 14 results are no whole register tiles
    assert not choice((1, 64, 14, 14), (64, 1, 3, 3), group=64).transforms
    assert [t.outputs for t in choice((1, 64, 1, 258), (64, 64, 1, 3)).transforms] == [1, 6]


def test_an_option_forbids_or_asks_for_it_by_node() -> None:
    model = conv_model([1, 16, 20, 20], 16, (3, 3), (1, 1, 1, 1), fused=False)
    x = values(1, 16, 20, 20)

    def kernels(config: dict[str, Any]) -> set[str]:
        f = loopnest.compile(model, config=config)
        f(x)
        return set(f.plans[-1].native.program.kernels)  # type: ignore[attr-defined]

    direct, winograd = kernels({"conv": "direct"}), kernels({"conv": "winograd2"})
    assert direct != winograd
    assert kernels({"conv": "winograd2", "op": {"Conv": {"conv": "direct"}}}) == direct
    assert kernels({"conv": "direct", "node": {"conv": {"conv": "winograd2"}}}) == winograd
    assert kernels({"opt_level": 2, "conv": "winograd2"}) != winograd


def test_the_kernel_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [k.text for k in kernels_of(conv_model([1, 64, 56, 56], 64, (3, 3), (1, 1, 1, 1), fused=False), monkeypatch)]
    assert any("Winograd F(4, 3) x F(4, 3)" in text for text in texts)


@pytest.mark.parametrize("shape", [(17, 5, 3, 3), (1500, 3, 1, 3), (2, 1100, 3), (9, 8, 3, 3, 3)])
def test_filters_are_transformed_in_float64(shape: tuple[int, ...]) -> None:
    """U[f, ci, co] = G w G^T, rounded once."""
    form = tuple(phased_form(2 if r > 1 else 1, r) for r in shape[2:])
    w = values(*shape)
    expected = w.astype(np.float64)
    for axis, transform in enumerate(form):
        expected = np.moveaxis(np.tensordot(np.array(transform.form.g, np.float64), expected, (1, 2 + axis)), 0, 2 + axis)
    expected = expected.reshape(*shape[:2], -1).transpose(2, 1, 0)
    made = TransformedFilters(form)(w)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, expected, rtol=1e-7)
