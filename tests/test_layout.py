"""Which operators keep blocks of channels, and conversions between layouts: against ONNX Runtime, and by the steps that run."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import loopnest
from loopnest.ir import loops as ir

from .graphs import make_model, onnxruntime, values
from .kernels import kernels_of
from .operators import agree
from .test_placement import n, steps

EXTENTS = (1, 7, 8, 9, 15, 16, 17, 31, 33)
CONVERSION = "Identity"


@pytest.mark.parametrize(("op", "channels"), [("ReduceMean", 8), ("ReduceMean", 12), ("ReduceMax", 24), ("ReduceL2", 20)])
def test_reductions_of_images_read_blocks(op: str, channels: int) -> None:
    """Squeeze and excite: nothing is converted but the result."""
    nodes = [
        n("Conv", "x w", "a"), n(op, "a axes", "m", keepdims=1), n("Conv", "m v", "g"), n("Sigmoid", "g", "s"),
        n("Mul", "a s", "t"), n("Conv", "t u", "y"),
    ]  # fmt: skip
    constants = {
        "w": values(channels, 16, 1, 1, seed=1), "v": values(channels, channels, 1, 1, seed=2) / channels,
        "u": values(16, channels, 1, 1, seed=3), "axes": np.array([2, -1], np.int64),
    }  # fmt: skip
    for batch in (1, 2):
        found = steps(nodes, {"x": values(batch, 16, 9, 7)}, constants, opset=18)
        assert found.count(CONVERSION) == 1 and found[-1] == CONVERSION


@pytest.mark.parametrize(("axes", "keepdims"), [([1], 1), ([2], 1), ([2, 3], 0), ([0, 2, 3], 1), ([1, 2, 3], 1)])
def test_other_reductions_of_blocks(axes: list[int], keepdims: int) -> None:
    nodes = [n("Conv", "x w", "a"), n("ReduceMean", "a axes", "y", keepdims=keepdims)]
    steps(nodes, {"x": values(2, 16, 9, 17)}, {"w": values(20, 16, 1, 1), "axes": np.array(axes, np.int64)}, opset=18)


@settings(max_examples=7)
@given(st.sampled_from(EXTENTS), st.sampled_from(EXTENTS), st.sampled_from([1, 3]), st.sampled_from([1, 2]))
def test_conversions_of_any_extents(height: int, width: int, kernel: int, batch: int) -> None:
    """To blocks, with and without a halo, and back."""
    nodes = [n("Conv", "x w", "y", group=16, pads=[kernel // 2] * 4)]
    found = steps(nodes, {"x": values(batch, 16, height, width)}, {"w": values(16, 1, kernel, kernel)})
    assert len(found) <= 3


def test_an_operand_in_another_order_is_read_in_blocks() -> None:
    """A residual that is the model's input is added to blocks on the way."""
    nodes = [n("Conv", "x w", "a", pads=[1] * 4), n("Add", "a x", "b"), n("Conv", "b v", "y")]
    for width in (9, 16, 33):
        steps(nodes, {"x": values(1, 16, 7, width)}, {"w": values(16, 16, 3, 3), "v": values(8, 16, 1, 1)})


@pytest.mark.parametrize("channels", [17, 33])
def test_an_image_that_is_an_operand_too_is_read_in_blocks(channels: int) -> None:
    """Whole blocks of channels are written, so whole ones are read, though the convolution alone would read a plain image."""
    nodes = [n("Relu", "x", "a"), n("Conv", "a w b", "c", pads=[1] * 4), n("Add", "c a", "y")]
    steps(nodes, {"x": values(1, channels, 9, 9)}, {"w": values(channels, channels, 3, 3), "b": values(channels)})
    own_weights = [n("Conv", "x w", "c", pads=[1] * 4), n("Add", "c w", "y")]
    steps(own_weights, {"x": values(17, 17, 3, 3)}, {"w": values(17, 17, 3, 3, seed=1)})


@pytest.mark.parametrize("operand", [(1, 16, 1, 5, 9), (2, 16, 16, 5, 9), (16, 5, 9), (5, 9)])
def test_an_operand_of_another_rank_has_its_channels_elsewhere(operand: tuple[int, ...]) -> None:
    nodes = [n("Conv", "x w", "c", pads=[1] * 4), n("Sub", "c t", "y")]
    steps(nodes, {"x": values(1, 16, 5, 9), "t": values(*operand, seed=3)}, {"w": values(16, 16, 3, 3)})
    both = [n("Conv", "x w", "c", pads=[1] * 4), n("Conv", "t v", "d", pads=[1] * 2), n("Sub", "c d", "y")]
    steps(both, {"x": values(1, 17, 17, 9), "t": values(17, 17, 9)}, {"w": values(17, 17, 3, 3), "v": values(17, 17, 3)})


@pytest.mark.parametrize("batch", [1, 2])
def test_what_follows_a_join_in_place_is_apart(batch: int) -> None:
    """GhostNet: both halves are written where they are joined, in blocks, and the residual is added to them there."""
    nodes = [
        n("Conv", "x w", "a"), n("Conv", "a d", "b", group=8, pads=[1] * 4), n("Concat", "a b", "c", axis=1), n("Conv", "x v", "r"),
        n("Add", "c r", "s"), n("Conv", "s u", "y"),
    ]  # fmt: skip
    constants = {"w": values(8, 16, 1, 1), "d": values(8, 1, 3, 3), "v": values(16, 16, 1, 1), "u": values(8, 16, 1, 1)}
    found = steps(nodes, {"x": values(batch, 16, 9, 9)}, constants)
    if batch == 1:
        assert found == ["Conv", "Conv", "Conv+Add", "Conv", "Identity"]


@pytest.mark.parametrize(
    ("channels", "filters", "blocks"), [(1024, 512, True), (1024, 96, False), (1017, 512, False), (24, 512, False)]
)
@pytest.mark.parametrize("batch", [1, 2])
def test_wide_images_are_read_in_blocks_where_much_is_read(channels: int, filters: int, blocks: bool, batch: int) -> None:
    """Of many channels that come one by one, blocks are made first, unless few filters read them, or some channels would be left over."""
    constants = {"w": values(filters, channels, 1, 1) / channels}
    found = steps([n("Conv", "x w", "y")], {"x": values(batch, channels, 8, 16)}, constants)
    assert found.count(CONVERSION) == 1 + blocks


@pytest.mark.parametrize("channels", [(9, 15), (12, 12), (33, 58), (17, 31, 8), (10, 8, 14), (8, 9, 15)])
@pytest.mark.parametrize("batch", [1, 2])
def test_parts_of_blocks_are_joined_in_blocks(channels: tuple[int, ...], batch: int) -> None:
    """GhostNet: channels that are not whole blocks are joined for convolutions, one of them read with a halo before and all after."""
    every = sum(channels)
    nodes = [
        *(n("Conv", f"x w{i}", f"a{i}") for i in range(len(channels))),
        n("Conv", "a0 d", "b", group=channels[0], pads=[1] * 4),
        n("Concat", " ".join(f"a{i}" for i in range(len(channels))), "c", axis=1), n("Relu", "c", "r"),
        n("Conv", "r e", "s", group=every, pads=[2] * 4), n("Conv", "r u", "t"), n("Conv", "b v", "p"), n("Conv", "s u", "q"),
        n("Add", "p q", "z"), n("Add", "z t", "y"),
    ]  # fmt: skip
    constants = {f"w{i}": values(c, 5, 1, 1, seed=i) for i, c in enumerate(channels)}
    constants |= {
        "d": values(channels[0], 1, 3, 3), "e": values(every, 1, 5, 5), "u": values(8, every, 1, 1) / every,
        "v": values(8, channels[0], 1, 1),
    }  # fmt: skip
    found = steps(nodes, {"x": values(batch, 5, 7, 9)}, constants)
    assert found.count(CONVERSION) == 1 and found[-1] == CONVERSION


def test_parts_of_blocks_that_a_reshape_reads_are_joined_plain() -> None:
    """ShuffleNet: what exchanges channels reads them one by one, so they are written that way, where they are joined."""
    nodes = [
        n("Conv", "x w", "a"), n("Conv", "x v", "b"), n("Concat", "a b", "c", axis=1), n("Reshape", "c shape", "r"),
        n("Transpose", "r", "y", perm=[0, 2, 1, 3, 4]),
    ]  # fmt: skip
    constants = {
        "w": values(12, 8, 1, 1, seed=1),
        "v": values(12, 8, 1, 1, seed=2),
        "shape": np.array([1, 2, 12, 5, 9], np.int64),
    }
    assert "Concat" not in steps(nodes, {"x": values(1, 8, 5, 9)}, constants)


@pytest.mark.parametrize(("height", "width"), [(1, 7), (7, 8), (9, 15), (16, 17), (31, 33)])
@pytest.mark.parametrize("batch", [1, 2])
def test_the_pixels_of_a_plain_image_are_one_row(height: int, width: int, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read by a filter of one tap, which leaves no pixels over at the end of each row."""
    feeds, constants = (
        {"x": values(batch, 20, height, width), "r": values(batch, 33, height, width)},
        {"w": values(33, 20, 1, 1)},
    )
    nodes = [n("Conv", "x w", "c"), n("Relu", "c", "d"), n("Add", "d r", "y")]
    steps(nodes, feeds, constants)
    model = make_model(nodes, {name: list(array.shape) for name, array in feeds.items()}, ["y"], constants)
    (nest,) = (kernel.nest for kernel in kernels_of(model, monkeypatch) if kernel.nest.name.startswith("Conv"))
    (made,) = (buffer for buffer in nest.buffers if buffer.scope == "output")
    assert ir.hint(made.shape[2]) == 1 and ir.hint(made.shape[3]) == height * width


def convolutions(channels: int, batch: int, size: int) -> onnx.ModelProto:
    """Convolutions of every kind and what stands between them, on values of ``channels``, 24 and 32 channels."""
    nodes = [
        n("Conv", "x a", "first", name="first", pads=[1] * 4), n("Relu", "first", "r"),
        n("Conv", "r b", "deep", group=channels, pads=[1] * 4, strides=[2, 1]), n("Conv", "deep c", "e"),
        n("Conv", "deep d", "f", name="narrow", pads=[1] * 4), n("Concat", "e f", "g", name="join", axis=1),
        n("Conv", "g h", "i", name="three", pads=[1] * 4), n("GlobalAveragePool", "i", "mean"), n("Conv", "mean j", "s"),
        n("Sigmoid", "s", "t"), n("Mul", "i t", "u"), n("MaxPool", "u", "p", kernel_shape=[3, 3], pads=[1] * 4),
        n("Conv", "p k", "q", name="groups", group=2, pads=[1] * 4), n("Add", "q i", "sum"), n("Softmax", "sum", "y", name="soft"),
    ]  # fmt: skip
    constants = {
        "a": values(channels, 5, 3, 3), "b": values(channels, 1, 3, 3), "c": values(32, channels, 1, 1), "d": values(24, channels, 3, 3),
        "h": values(32, 56, 3, 3), "j": values(32, 32, 1, 1), "k": values(32, 16, 3, 3),
    }  # fmt: skip
    constants = {name: array / np.float32(array[0].size ** 0.5) for name, array in constants.items()}
    return make_model(nodes, {"x": [batch, 5, size, size]}, ["y"], constants)


LAYOUTS = ({}, *({"layout": name} for name in ("NCHW8c", "NCHW16c", "NCHW32c", "plain")))


@pytest.mark.parametrize(
    ("channels", "batch", "size", "conv"), [(32, 1, 9, "direct"), (16, 2, 17, "winograd4"), (33, 1, 8, "auto")]
)
def test_blocks_of_any_size_compute_the_same(channels: int, batch: int, size: int, conv: str) -> None:
    """For all, and for one convolution among others, before and behind which values are converted."""
    model, x = convolutions(channels, batch, size), values(batch, 5, size, size)
    (expected,) = onnxruntime(model, {"x": x})
    some = {"node": {name: {"layout": "NCHW16c"} for name in ("three", "groups")}, "op": {"Add": {"layout": "NCHW32c"}}}
    for config in ({"layout": "NCHW16c"}, {"layout": "NCHW32c"}, some):
        for threads in (1, 2):
            f = loopnest.compile(model, threads=threads, config={"conv": conv, **config})
            np.testing.assert_allclose(f(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("config", "blocks"), list(zip(LAYOUTS, ({8}, {8}, {8, 16}, {8, 32}, {0}), strict=True)))
def test_values_are_in_the_blocks_that_are_asked_for_where_they_have_whole_ones(config: Any, blocks: set[int]) -> None:
    f = loopnest.compile(convolutions(32, 1, 9), config={**config, "vector_bits": 256})
    made = {step.layout.split("+")[0] for step in f.plans[0].native.program.steps if step.op.startswith("Conv")}  # type: ignore[attr-defined]
    assert made == {f"NCHW{block}c" if block else "plain" for block in blocks}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"node": {"narrow": {"layout": "NCHW16c"}}},
            """node."narrow".layout = 'NCHW16c': 24 channels are no such blocks; legal: """,
        ),
        (
            {"op": {"Conv": {"layout": "NCHW32c"}}},
            "op.Conv.layout = 'NCHW32c': 24 channels are no such blocks; legal: 'auto', 'plain', ",
        ),
        (
            {"node": {"soft": {"layout": "NCHW8c"}}},
            "what it makes is not in blocks of channels; legal: 'auto', 'plain' (node 'soft')",
        ),
        (
            {"node": {"first": {"layout": "NCHW64c"}}},
            "a block is one, two or four vectors of the target; legal: 'auto', 'plain', 'NCHW8c'",
        ),
        (
            {"layout": "NCHW4c"},
            "layout = 'NCHW4c': a block is one, two or four vectors of the target; legal: 'auto', 'plain', 'NCHW8c'",
        ),
    ],
)
def test_a_layout_that_cannot_be_is_refused_with_what_is_legal(config: Any, message: str) -> None:
    with pytest.raises(loopnest.ConfigError) as caught:
        loopnest.compile(convolutions(32, 1, 9), config={**config, "vector_bits": 256})
    assert message in str(caught.value)


def test_an_image_that_is_a_constant_keeps_its_rows() -> None:
    """Products over all pixels as one row would pack it by an index that it does not have."""
    x, w = (
        np.random.default_rng(i).standard_normal(shape).astype(np.float32)
        for i, shape in enumerate([(1, 6, 4, 5), (9, 6, 1, 1)])
    )
    agree("Conv", [x, w], constants=[0], rtol=1e-5, atol=1e-5)
