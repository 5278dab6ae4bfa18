"""MatMul, Gemm, Conv and ConvTranspose against ONNX Runtime, over extents that straddle vectors, tiles and channel blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.helper as oh
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import loopnest
from loopnest.codegen.kernel import emit_kernel
from loopnest.codegen.target import resolve
from tests.graphs import make_model, onnxruntime, values
from tests.kernels import kernels_of

EXTENTS = st.sampled_from([1, 7, 8, 9, 15, 16, 17, 31, 33])


def agrees(model: Any, feeds: dict[str, np.ndarray], config: Any = None, target: str = "cpu") -> loopnest.CompiledModel:
    """Compiles and compares with ONNX Runtime: at most 1e-5 of the largest value apart."""
    expected = onnxruntime(model, feeds)
    f = loopnest.compile(model, target, config=config)
    for name, ours, theirs in zip((o.name for o in f.outputs), f.run(None, feeds), expected, strict=True):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype, name
        assert np.abs(ours - theirs).max(initial=0) <= 1e-5 * max(1e-30, np.abs(theirs).max(initial=0)), name
    return f


@settings(max_examples=12, deadline=None)
@given(m=EXTENTS, k=EXTENTS, n=EXTENTS, constant=st.booleans())
def test_matmul(m: int, k: int, n: int, constant: bool) -> None:
    a, b = values(m, k), values(k, n, seed=1)
    node = oh.make_node("MatMul", ["a", "b"], ["y"])
    if constant:
        agrees(make_model([node], {"a": ["M", k]}, ["y"], {"b": b}), {"a": a})
    else:
        agrees(make_model([node], {"a": ["M", "K"], "b": ["K", "N"]}, ["y"]), {"a": a, "b": b})


@settings(max_examples=8, deadline=None)
@given(
    m=st.sampled_from([1, 2, 6, 7, 16, 33, 49]),
    k=st.sampled_from([257, 320, 512, 521, 1000]),
    n=st.sampled_from([1, 7, 24, 33, 100, 300]),
    constant=st.booleans(),
    turned=st.booleans(),
    last=st.sampled_from(["Identity", "Relu", "Sqrt", "Add"]),
)
def test_long_sums_are_sums_of_parts(m: int, k: int, n: int, constant: bool, turned: bool, last: str) -> None:
    """Parts of the sum over all rows of a task, whatever rows and columns are left over; bias and activation at the end, once, with the
    last part where they are few operations that read nothing else."""
    a, b, c = (np.abs(values(*shape, seed=i)) for i, shape in enumerate([(m, k), (n, k) if turned else (k, n), (n,)]))
    operands = ["s", "r"] if last == "Add" else ["s"]
    nodes = [oh.make_node("Gemm", ["a", "b", "c"], ["s"], transB=int(turned)), oh.make_node(last, operands, ["y"])]
    inputs: dict[str, Any] = {"a": ["M", k]} if constant else {"a": ["M", "K"], "b": list(b.shape)}
    feeds = {"a": a} if constant else {"a": a, "b": b}
    if last == "Add":
        inputs["r"], feeds["r"] = ["M", n], values(m, n, seed=3)
    model = make_model(nodes, inputs, ["y"], {"b": b, "c": c} if constant else {"c": c})
    agrees(model, feeds)


@pytest.mark.parametrize(("channels", "filters", "size", "kernel", "stride"), [
    (64, 24, 7, 3, 1), (64, 520, 7, 1, 1), (256, 40, 14, 1, 2), (320, 16, 30, 1, 1), (40, 72, 15, 3, 2), (512, 8, 5, 3, 1),
])  # fmt: skip
def test_chunks_of_images_and_parts_of_channels(channels: int, filters: int, size: int, kernel: int, stride: int) -> None:
    nodes = [
        oh.make_node("Conv", ["x", "u"], ["t"]),
        oh.make_node("Conv", ["t", "w", "b"], ["c"], pads=[kernel // 2] * 4, strides=[stride, stride]),
        oh.make_node("Relu", ["c"], ["y"]),
    ]
    constants = {
        "u": values(channels, 3, 1, 1),
        "w": values(filters, channels, kernel, kernel, seed=1),
        "b": values(filters, seed=2),
    }
    for batch in (1, 2):
        agrees(make_model(nodes, {"x": ["N", 3, "H", "W"]}, ["y"], constants), {"x": values(batch, 3, size, size)})


@pytest.mark.parametrize("equation", ["ij,j->i", "bij,j->bi", "bij,bj->bi", "i,ji->j", "ij,jk->ik"])
@pytest.mark.parametrize("extents", [(1, 7, 9), (3, 16, 17), (2, 33, 300)])
def test_a_matrix_times_a_vector(equation: str, extents: tuple[int, int, int]) -> None:
    """Each element of the matrix is used once, so it is read where it is, along what is summed."""
    sizes = {**dict(zip("bij", extents, strict=True)), "k": 1}
    shapes = [[sizes[label] for label in term] for term in equation.partition("->")[0].split(",")]
    feeds = {name: values(*shape, seed=i) for i, (name, shape) in enumerate(zip("ab", shapes, strict=True))}
    node = oh.make_node("Einsum", ["a", "b"], ["y"], equation=equation)
    agrees(make_model([node], {name: list(array.shape) for name, array in feeds.items()}, ["y"]), feeds)


@pytest.mark.parametrize(
    ("left", "right"),
    [((2, 1, 9, 5), (3, 5, 17)), ((5,), (5, 9)), ((4, 5), (5,)), ((7,), (7,)), ((3, 4, 5), (5, 6)), ((1, 8, 3), (4, 3, 8))],
)
def test_matmul_broadcasts(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    model = make_model([oh.make_node("MatMul", ["a", "b"], ["y"])], {"a": left, "b": right}, ["y"])
    agrees(model, {"a": values(*left), "b": values(*right, seed=1)})


def test_transposed_operands_are_not_copied() -> None:
    nodes = [
        oh.make_node("Transpose", ["k"], ["kt"], perm=[0, 2, 3, 1]),
        oh.make_node("Transpose", ["q"], ["qt"], perm=[0, 2, 1, 3]),
        oh.make_node("MatMul", ["qt", "kt"], ["y"]),
    ]
    model = make_model(nodes, {"q": [2, 9, 3, 16], "k": [2, 11, 3, 16]}, ["y"])
    f = agrees(model, {"q": values(2, 9, 3, 16), "k": values(2, 11, 3, 16, seed=1)})
    assert "Transpose+Transpose+MatMul" in str(f)


@pytest.mark.parametrize("across", [0, 1])
@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("bias", [(), (17,), (9, 1), (9, 17), None])
def test_gemm(across: int, turned: int, bias: tuple[int, ...] | None) -> None:
    a, b = values(*((13, 9) if across else (9, 13))), values(*((17, 13) if turned else (13, 17)), seed=1)
    names = ["a", "b", *(["c"] if bias is not None else [])]
    node = oh.make_node("Gemm", names, ["y"], transA=across, transB=turned, alpha=0.5, beta=2.0)
    constants = {"b": b} if bias is None else {"b": b, "c": values(*bias, seed=2)}
    agrees(make_model([node], {"a": a.shape}, ["y"], constants), {"a": a})


@settings(max_examples=12, deadline=None)
@given(
    channels=st.sampled_from([1, 3, 8, 12, 16, 17]),
    filters=st.sampled_from([1, 5, 8, 12, 16, 24, 33]),
    size=st.sampled_from([5, 7, 8, 9, 15, 17]),
    kernel=st.sampled_from([1, 2, 3, 5]),
    stride=st.sampled_from([1, 2, 3]),
    dilation=st.sampled_from([1, 2]),
    mode=st.sampled_from(["none", "pads", "uneven", "SAME_UPPER", "SAME_LOWER"]),
)
def test_conv(channels: int, filters: int, size: int, kernel: int, stride: int, dilation: int, mode: str) -> None:
    attributes: dict[str, Any] = {"strides": [stride, stride], "dilations": [dilation, dilation]}
    if mode.startswith("SAME"):
        attributes |= {"auto_pad": mode, "dilations": [1, 1]}
    elif mode != "none":
        attributes["pads"] = [kernel // 2, kernel // 2, kernel // 2 + (mode == "uneven"), kernel // 2]
    if (kernel - 1) * dilation + 1 > size:
        attributes["dilations"] = [1, 1]
    nodes = [oh.make_node("Conv", ["x", "w", "b"], ["c"], **attributes), oh.make_node("Relu", ["c"], ["y"])]
    constants = {"w": values(filters, channels, kernel, kernel, seed=1), "b": values(filters, seed=2)}
    agrees(make_model(nodes, {"x": ["N", channels, "H", "W"]}, ["y"], constants), {"x": values(2, channels, size, size)})


@pytest.mark.parametrize(("channels", "filters", "groups"), [
    (16, 16, 16), (17, 17, 17), (32, 16, 2), (12, 24, 12), (6, 9, 3), (64, 64, 8), (48, 96, 2), (72, 72, 3), (40, 80, 5), (30, 45, 3),
])  # fmt: skip
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_grouped_conv(channels: int, filters: int, groups: int, rank: int) -> None:
    node = oh.make_node("Conv", ["x", "w"], ["y"], group=groups, pads=[1] * 2 * rank)
    w = values(filters, channels // groups, *(3,) * rank, seed=1)
    agrees(make_model([node], {"x": [1, channels, *(6,) * rank]}, ["y"], {"w": w}), {"x": values(1, channels, *(6,) * rank)})


def test_a_chain_of_convolutions_stays_blocked() -> None:
    """Residual, depthwise and channels that fill no whole block: converted at the edges only."""
    nodes = [
        oh.make_node("Conv", ["x", "w", "b"], ["a"], pads=[1, 1, 1, 1]),
        oh.make_node("Relu", ["a"], ["r"]),
        oh.make_node("Conv", ["r", "d"], ["c"], pads=[1, 1, 1, 1], group=20),
        oh.make_node("Sigmoid", ["c"], ["s"]),
        oh.make_node("Add", ["s", "r"], ["t"]),
        oh.make_node("Conv", ["t", "v"], ["y"]),
    ]
    constants = {
        "w": values(20, 3, 3, 3, seed=1),
        "b": values(20, seed=2),
        "d": values(20, 1, 3, 3, seed=3),
        "v": values(9, 20, 1, 1, seed=4),
    }
    f = agrees(make_model(nodes, {"x": ["N", 3, 11, 13]}, ["y"], constants), {"x": values(2, 3, 11, 13)})
    assert str(f).count("Identity") <= 2, f
    agrees(make_model(nodes, {"x": ["N", 3, 11, 13]}, ["y"], constants), {"x": values(2, 3, 11, 13)}, {"layout": "plain"})


@pytest.mark.parametrize(
    ("op", "given", "attributes", "blocked"),
    [
        ("Split", [16, 32], {}, True),
        ("Split", [8, 40], {}, None),
        ("Split", [20, 28], {}, False),
        ("Split", None, {"num_outputs": 2}, None),
        ("Split", None, {"num_outputs": 3}, True),
        ("Concat", 16, {}, True),
        ("Concat", 12, {}, True),
    ],
)
def test_channels_move_in_blocks(op: str, given: Any, attributes: dict[str, int], blocked: bool | None) -> None:
    """Split with and without sizes: in blocks where all parts have whole ones (``None``: by the target's); Concat in any case."""
    constants = {"w": values(48, 3, 1, 1, seed=1), "v": values(9, 48 if op == "Split" else 48 + given, 1, 1, seed=2)}
    if op == "Split":
        parts = [f"s{i}" for i in range(attributes.get("num_outputs", 2))]
        constants.update({"sizes": np.array(given, np.int64)} if given else {})
        moves = [oh.make_node("Split", ["c", "sizes"] if given else ["c"], parts, axis=1, **attributes)]
        moves.append(oh.make_node("Concat", parts[::-1], ["m"], axis=1))
    else:
        constants["more"] = values(2, given, 5, 6, seed=3)
        moves = [oh.make_node("Concat", ["c", "more"], ["m"], axis=1)]
    nodes = [oh.make_node("Conv", ["x", "w"], ["c"]), *moves, oh.make_node("Conv", ["m", "v"], ["y"])]
    f = agrees(
        make_model(nodes, {"x": [2, 3, 5, 6]}, ["y"], constants, opset=18), {"x": values(2, 3, 5, 6)}, target="cpu-generic"
    )
    f = agrees(make_model(nodes, {"x": [2, 3, 5, 6]}, ["y"], constants, opset=18), {"x": values(2, 3, 5, 6)})
    layouts = {line.split()[3] for line in str(f).splitlines() if f" {op} " in line}
    assert blocked is None or {layout.startswith("NCHW") for layout in layouts} == {blocked}, f


@pytest.mark.parametrize("wanted", [0, 1, 4])
def test_parts_of_a_split_that_nobody_reads_count_too(wanted: int) -> None:
    """Sizes 10, 10, 10, 10, 8: the last has a whole block of 8, and starts in the middle of one."""
    split = oh.make_node("Split", ["c"], ["s" if i == wanted else f"p{i}" for i in range(5)], axis=1, num_outputs=5)
    nodes = [oh.make_node("Conv", ["x", "w"], ["c"]), split, oh.make_node("Relu", ["s"], ["y"])]
    model = make_model(nodes, {"x": [1, 3, 5, 6]}, ["y"], {"w": values(48, 3, 1, 1, seed=1)}, opset=18)
    agrees(model, {"x": values(1, 3, 5, 6)})


@pytest.mark.parametrize("tile", [{"m": 1}, {"m": 3, "n": 8}, {"m": 4, "n": 24}, {"m": 14, "n": 32}])
def test_any_register_tile_is_right(tile: dict[str, int]) -> None:
    model = make_model([oh.make_node("MatMul", ["a", "b"], ["y"])], {"a": [29, 19]}, ["y"], {"b": values(19, 50, seed=1)})
    agrees(model, {"a": values(29, 19)}, {"tile": tile})
    conv = make_model(
        [oh.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
        {"x": [1, 16, 9, 15]},
        ["y"],
        {"w": values(40, 16, 3, 3, seed=1)},
    )
    agrees(conv, {"x": values(1, 16, 9, 15)}, {"tile": tile})


@pytest.mark.parametrize("channels", [9, 12, 16, 18, 20, 100])
@pytest.mark.parametrize(("rank", "dilation"), [(1, 1), (1, 3), (2, 1)])
def test_two_taps_around_parts_of_blocks(channels: int, rank: int, dilation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels lie in blocks, not all of which are whole; two taps are not the innermost loop then."""
    taps, sizes = (2,) * rank, (17, 9)[:rank]
    nodes = [
        oh.make_node("Conv", ["x", "u"], ["t"]),
        oh.make_node("Conv", ["t", "w", "b"], ["y"], pads=[1] * 2 * rank, dilations=[dilation] * rank),
    ]
    constants = {
        "u": values(channels, 3, *(1,) * rank),
        "w": values(24, channels, *taps, seed=1),
        "b": values(24, seed=2),
    }
    model = make_model(nodes, {"x": [1, 3, *sizes]}, ["y"], constants)
    agrees(model, {"x": values(1, 3, *sizes)}, {"conv": "direct"})
    agrees(model, {"x": values(1, 3, *sizes)})
    direct = kernels_of(model, monkeypatch, {"conv": "direct"})
    assert any("ci_i" in source.text for source in direct) == (channels % 2 == 0)


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("columns", [40, 63, 1000])
def test_equal_columns_give_equal_sums(rows: int, columns: int) -> None:
    weights = np.repeat(1e4 * values(1500, 1, seed=1), columns, axis=1)
    model = make_model([oh.make_node("MatMul", ["a", "w"], ["y"])], {"a": [rows, 1500]}, ["y"], {"w": weights})
    y = loopnest.compile(model)(values(rows, 1500))
    np.testing.assert_array_equal(y, np.broadcast_to(y[:, :1], y.shape))


@pytest.mark.parametrize("target", ["cpu-sse2", "cpu-avx2"])
def test_other_instruction_sets(target: str) -> None:
    conv = make_model(
        [oh.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), oh.make_node("Tanh", ["c"], ["y"])],
        {"x": [1, 9, 9, 15]}, ["y"], {"w": values(21, 9, 3, 3, seed=1)},
    )  # fmt: skip
    agrees(conv, {"x": values(1, 9, 9, 15)}, target=target, config={"conv": "direct"})


@pytest.mark.parametrize("attributes", [
    {}, {"strides": [2, 2]}, {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}, {"dilations": [2, 2]},
    {"strides": [3, 2], "output_shape": [16, 11]}, {"strides": [2, 2], "auto_pad": "SAME_UPPER"}, {"group": 2},
])  # fmt: skip
def test_conv_transpose(attributes: dict[str, Any]) -> None:
    groups = attributes.get("group", 1)
    node = oh.make_node("ConvTranspose", ["x", "w", "b"], ["y"], **attributes)
    constants = {"w": values(10, 6 // groups, 3, 3, seed=1), "b": values(6, seed=2)}
    agrees(make_model([node], {"x": [2, 10, 5, 6]}, ["y"], constants), {"x": values(2, 10, 5, 6)})


@pytest.mark.parametrize(("x", "w", "says"), [
    ((1, 3, 8, 8), (4, 2, 3, 3), "input channels"), ((1, 3, 2, 2), (4, 3, 5, 5), "does not fit"), ((3, 8), (4, 3, 3, 3), "rank"),
])  # fmt: skip
def test_shapes_that_do_not_fit_are_named(x: tuple[int, ...], w: tuple[int, ...], says: str) -> None:
    model = make_model(
        [oh.make_node("Conv", ["x", "w"], ["y"], name="the_conv")], {"x": [None] * len(x)}, ["y"], {"w": values(*w)}
    )
    with pytest.raises(loopnest.ModelError, match=says) as error:
        loopnest.compile(model)(values(*x))
    assert "the_conv" in str(error.value)


def test_loops_around_a_register_tile_stay_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """What neighbouring windows share is read again: unrolled, LLVM would keep it, and sums would leave their registers."""
    node = oh.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2])
    model = make_model([node], {"x": [1, 3, 25, 25]}, ["y"], {"w": values(16, 3, 3, 3)})
    source = next(s for s in kernels_of(model, monkeypatch) if "acc" in s.text)
    assembly = emit_kernel(source, resolve("cpu-avx2")).assembly()
    assert assembly.count("vfmadd") == 12


@pytest.mark.parametrize(("depth", "times"), [(7, 1), (8, 8), (9, 3), (16, 4), (31, 1), (33, 3), (34, 2), (36, 4), (37, 1)])
def test_a_long_sum_takes_several_products_an_iteration(depth: int, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as leave no rest; rows are then a constant distance apart, so that one register addresses all of them."""
    weights = {"w": values(depth, 16, seed=1)}
    model = make_model([oh.make_node("MatMul", ["a", "w"], ["y"])], {"a": ["M", depth]}, ["y"], weights)
    for rows in (6, depth):  # as many rows as products: another extent all the same
        agrees(model, {"a": values(rows, depth)})
    fixed = make_model([oh.make_node("MatMul", ["a", "w"], ["y"])], {"a": [6, depth]}, ["y"], weights)
    source = next(s for s in kernels_of(fixed, monkeypatch) if "acc" in s.text)
    assert f"[n0, {depth}]" in source.text
    assembly = emit_kernel(source, resolve("cpu-avx2")).assembly()
    assert assembly.count("vfmadd") == 12 * times


@pytest.mark.parametrize(("taps", "stride", "times"), [(8, 8, 8), (8, 4, 4), (8, 2, 2), (8, 1, 1)])
def test_taps_are_unrolled_until_windows_share_them(
    taps: int, stride: int, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many taps become one iteration as no two columns read the same pixel for: LLVM would keep it, and sums leave their registers."""
    node = oh.make_node("Conv", ["x", "w"], ["y"], strides=[stride, stride])
    model = make_model([node], {"x": [1, 3, 5 * stride + taps, 5 * stride + taps]}, ["y"], {"w": values(16, 3, taps, taps)})
    source = next(s for s in kernels_of(model, monkeypatch) if "acc" in s.text)
    assembly = emit_kernel(source, resolve("cpu-avx2")).assembly()
    assert assembly.count("vfmadd") == 12 * times
    agrees(model, {"x": values(1, 3, 5 * stride + taps, 5 * stride + taps)})
