"""Attention as one kernel: what is recognized, what is refused, and that it computes what the operators it replaces do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import loopnest
from loopnest.compiler.passes import PASSES, Refusal, Rewrite, run_passes
from loopnest.compiler.passes.attention import attention
from loopnest.compiler.passes.view import View
from loopnest.compiler.schedule.attention import blocked
from tests.graphs import assert_same, load_any, make_model, onnxruntime, reference, tensor, values

node = oh.make_node
LENGTHS = [1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 100]
LOWEST = float(np.finfo(np.float32).min)
BOOL = onnx.TensorProto.BOOL


@dataclass
class Model:
    """An attention over q [B, H, M, D], k [B, H, N, D] and v [B, H, N, E], node by node."""

    shape: tuple[int, int, int, int, int, int] = (1, 2, 9, 17, 8, 8)
    group: int = 1
    dtype: type = np.float32
    dynamic: bool = False
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    feeds: dict[str, np.ndarray] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    score: str = "score"
    outputs: tuple[str, ...] = ("y",)

    def __post_init__(self) -> None:
        b, h, m, n, d, e = self.shape
        kv = h // self.group
        for seed, (name, shape) in enumerate({"q": (b, h, m, d), "k": (b, kv, n, d), "v": (b, kv, n, e)}.items()):
            self.feeds[name] = values(*shape, seed=seed).astype(self.dtype)
        k, v = self.repeated("k", d), self.repeated("v", e)
        self.add("Transpose", [k], "kt", perm=[0, 1, 3, 2])
        self.add("MatMul", ["q", "kt"], "score")
        self.v = v

    def repeated(self, name: str, width: int) -> str:
        if self.group == 1:
            return name
        b, h, _, n, _, _ = self.shape
        self.constants["two"] = np.array([2])
        wide = self.const(f"{name}_wide", np.array([b, h // self.group, self.group, n, width]))
        flat = self.const(f"{name}_flat", np.array([b, h, n, width]))
        self.add("Unsqueeze", [name, "two"], f"{name}_1")
        self.add("Expand", [f"{name}_1", wide], f"{name}_2")
        return self.add("Reshape", [f"{name}_2", flat], f"{name}_3")

    def const(self, name: str, array: np.ndarray) -> str:
        self.constants[name] = array
        return name

    def feed(self, name: str, array: np.ndarray) -> str:
        self.feeds[name] = array
        return name

    def add(self, op: str, inputs: Sequence[str], output: str, **attrs: Any) -> str:
        self.nodes.append(node(op, list(inputs), [output], **attrs))
        return output

    def step(self, op: str, *operands: str) -> Model:
        """``op`` of the score, which stands where ``operands`` has a dot, else first."""
        inputs = [self.score if name == "." else name for name in (operands if "." in operands else (".", *operands))]
        self.score = self.add(op, inputs, f"{self.score}_")
        return self

    def scaled(self) -> Model:
        return self.step("Mul", self.const("scale", np.array(self.shape[4] ** -0.5, self.dtype)))

    def finished(self, probabilities: str = "p") -> onnx.ModelProto:
        self.add("Softmax", [self.score], "p", axis=-1)
        return self.ended(probabilities)

    def ended(self, probabilities: str) -> onnx.ModelProto:
        self.add("MatMul", [probabilities, self.v], "y")
        return self.model()

    def model(self) -> onnx.ModelProto:
        inputs = {
            name: tensor(
                name,
                [f"{name}{i}" if self.dynamic and i == 2 else extent for i, extent in enumerate(array.shape)],
                oh.np_dtype_to_tensor_dtype(array.dtype),
            )
            for name, array in self.feeds.items()
        }
        return make_model(self.nodes, inputs, list(self.outputs), self.constants)

    def agrees(self, model: onnx.ModelProto, tolerance: float = 2e-5, threads: int = 1, judge: Any = onnxruntime) -> None:
        f = loopnest.compile(model, threads=threads)
        assert_same(f.run(None, self.feeds), judge(model, self.feeds), tolerance)
        assert "Attention" in str(f)


# --- numbers ---------------------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    st.sampled_from([(1, 1, 1), (2, 3, 1), (1, 4, 2), (2, 6, 3)]),
    st.sampled_from(LENGTHS),
    st.sampled_from(LENGTHS),
    st.sampled_from([(1, 1), (8, 8), (7, 20), (64, 33)]),
    st.sampled_from(["none", "causal", "add", "where", "where keys", "padding"]),
    st.sampled_from([1, 2]),
)
def test_attention(
    heads: tuple[int, int, int], queries: int, keys: int, sizes: tuple[int, int], mask: str, threads: int
) -> None:
    batch, count, group = heads
    it = Model((batch, count, queries, keys, *sizes), group).scaled()
    visible = values(batch, count, queries, keys, seed=9) > -0.5
    visible[..., 0] = True
    if mask == "causal":
        it.step("Add", it.const("mask", np.where(np.tri(queries, keys, 3), 0, -np.inf).astype(np.float32)))
    elif mask == "add":
        it.step("Add", it.feed("mask", values(count, queries, keys, seed=7)))
    elif mask == "where":
        it.const("least", np.array(LOWEST, np.float32))
        it.step("Where", it.feed("mask", visible), ".", "least")
    elif mask == "where keys":
        it.const("least", np.array(-np.inf, np.float32))
        it.step("Where", it.feed("mask", ~visible[:, :1, :1]), "least", ".")
    elif mask == "padding":
        it.step("Add", it.feed("mask", np.where(visible[:, :1, :1], 0, LOWEST).astype(np.float32)))
    it.agrees(it.finished(), threads=threads)


@pytest.mark.parametrize("axes", [(), (0,), (1,), (2,), (3,), (0, 1), (2, 3), (1, 2), (0, 1, 3), (0, 1, 2, 3)])
@pytest.mark.parametrize("queries", [1, 5, 33])
def test_masks_broadcast_along_any_axis(axes: tuple[int, ...], queries: int) -> None:
    it = Model((2, 3, queries, 21, 8, 16)).scaled()
    it.step("Add", it.feed("mask", values(*(1 if i in axes else e for i, e in enumerate((2, 3, queries, 21))), seed=4)))
    it.agrees(it.finished())


@pytest.mark.parametrize("least", [-np.inf, LOWEST])
@pytest.mark.parametrize("queries", [1, 7, 16, 33])
def test_rows_without_keys(queries: int, least: float) -> None:
    it = Model((1, 2, queries, 130, 8, 8)).scaled()
    mask = np.where(values(1, 1, queries, 130, seed=3) > 0, 0, least).astype(np.float32)
    mask[:, :, ::3] = least
    mask[:, :, 1:2, :129] = least
    it.step("Add", it.feed("mask", mask))
    it.agrees(it.finished())


@pytest.mark.parametrize("least", [-np.inf, LOWEST, -2.5e38, -1e30, np.nan])
@pytest.mark.parametrize("shown", [0, 9])
def test_keys_hidden_from_all_queries(shown: int, least: float) -> None:
    it = Model((1, 2, 9, 17, 8, 9)).scaled()
    it.step("Add", it.feed("mask", np.where(np.arange(17) < shown, values(17), least).astype(np.float32)))
    it.agrees(it.finished())


@pytest.mark.parametrize("scale", [-0.3, 1e9])
@pytest.mark.parametrize(
    "steps", ["Mul", "rMul", "Div", "Mul Div", "Mul Sub", "Mul rSub", "Add Mul", "Mul Add Add", "Mul Tanh"]
)
def test_steps_in_any_order(steps: str, scale: float) -> None:
    it = Model((1, 2, 9, 33, 8, 8))
    it.feeds["q"] /= np.float32(abs(scale) if "Div" not in steps else 1 / abs(scale))
    it.const("scale", np.array(scale, np.float32))
    for number, step in enumerate(steps.split()):
        op = step.removeprefix("r")
        operand = "scale" if op in ("Mul", "Div") else it.feed(f"m{number}", values(33 if number % 2 else 1, seed=number))
        it.step(op, *{"Tanh": ()}.get(op, (operand, ".") if step != op else (".", operand)))
    if steps == "Mul Div":
        it.feeds["q"] /= np.float32(scale)
    it.agrees(it.finished(), 1e-4)


@pytest.mark.parametrize("queries", [1, 7, 16, 33])
def test_rows_without_keys_are_cleared(queries: int) -> None:
    it = Model((1, 2, queries, 33, 8, 8)).scaled()
    mask = np.where(values(1, 1, queries, 33, seed=3) > 0, 0, -np.inf).astype(np.float32)
    mask[:, :, ::3] = -np.inf
    it.step("Add", it.feed("mask", mask))
    it.add("Softmax", [it.score], "p", axis=-1)
    it.add("IsNaN", ["p"], "nan")
    it.const("zero", np.array(0, np.float32))
    it.agrees(it.ended(it.add("Where", ["nan", "zero", "p"], "cleared")))


@pytest.mark.parametrize("queries", [1, 7, 33])
def test_rows_are_cleared_by_a_mask(queries: int) -> None:
    it = Model((2, 2, queries, 33, 8, 8)).scaled()
    it.add("Softmax", [it.score], "p", axis=-1)
    it.feed("rows", values(2, 1, queries, 1, seed=3) > 0)
    it.const("zero", np.array(0, np.float32))
    it.agrees(it.ended(it.add("Where", ["rows", "zero", "p"], "cleared")))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["q", "k", "v"])
@pytest.mark.parametrize("queries", [2, 20])
def test_what_is_not_finite_spreads_as_it_does_in_the_operators(queries: int, name: str, value: float) -> None:
    it = Model((1, 2, queries, 140, 8, 8)).scaled()
    it.feeds[name][0, 1, 1, 3] = value
    it.agrees(it.finished())


@pytest.mark.parametrize("queries", [1, 40])
def test_scores_that_differ_much(queries: int) -> None:
    it = Model((1, 2, queries, 300, 16, 8))
    it.feeds["k"] *= 40 * np.linspace(0, 1, 300, dtype=np.float32)[:, None]
    it.agrees(it.finished(), 1e-4)


@pytest.mark.parametrize("queries", [1, 20])
def test_softcap(queries: int) -> None:
    it = Model((1, 2, queries, 33, 8, 8))
    cap = it.const("cap", np.array(3.0, np.float32))
    it.step("Div", cap).step("Tanh").step("Mul", cap).step("Add", it.feed("bias", values(2, queries, 33, seed=8)))
    it.agrees(it.finished())


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float16, 4e-3)])
@pytest.mark.parametrize("queries", [1, 5, 33])
def test_other_floats(queries: int, dtype: type, tolerance: float) -> None:
    it = Model((1, 2, queries, 33, 8, 24), dtype=dtype).scaled()
    it.agrees(it.finished(), tolerance, judge=reference)


@pytest.mark.parametrize("queries", [1, 3, 5, 9, 33])
@pytest.mark.parametrize("causal", [False, True])
def test_narrower_vectors(queries: int, causal: bool) -> None:
    it = Model((1, 2, queries, 40, 20, 9)).scaled()
    it.step("Add", it.feed("mask", values(2, queries, 40, seed=5)))
    if causal:
        it.step("Add", it.const("later", np.where(np.tri(queries, 40, 5), 0, -np.inf).astype(np.float32)))
    model = it.finished()
    f = loopnest.compile(model, threads=1, target="cpu-sse2")
    assert_same(f.run(None, it.feeds), onnxruntime(model, it.feeds), 2e-5)


def test_matrices_without_heads() -> None:
    it = Model()
    it.nodes.clear()
    it.feeds = {"q": values(20, 8), "k": values(33, 8, seed=1), "v": values(33, 8, seed=2)}
    it.add("Transpose", ["k"], "kt", perm=[1, 0])
    it.add("MatMul", ["q", "kt"], "score")
    it.agrees(it.finished())


def test_a_new_length_compiles_nothing() -> None:
    it = Model((1, 2, 40, 70, 16, 16), dynamic=True).scaled()
    model = it.finished()
    f = loopnest.compile(model, threads=1)
    for queries, keys in ((40, 70), (57, 129), (300, 301), (18, 13)):
        feeds = {"q": values(1, 2, queries, 16), "k": values(1, 2, keys, 16, seed=1), "v": values(1, 2, keys, 16, seed=2)}
        assert_same(f.run(None, feeds), onnxruntime(model, feeds), 2e-5)
    first, *others = map(kernels_of, f.plans)
    assert others == [first] * 3


def kernels_of(plan: Any) -> list[str]:
    return [step.kernel for step in plan.native.program.steps]


# --- as exported -----------------------------------------------------------------------------------------------------------------


def rewritten(model: onnx.ModelProto) -> Any:
    """The attention that the rule makes of a model's last product."""
    outcome = judge(model)
    assert isinstance(outcome, Rewrite), outcome
    return outcome.nodes[-1]


def judge(model: onnx.ModelProto) -> Rewrite | Refusal | None:
    graph = load_any(model)
    view = View(graph, graph)
    outcome = None
    for item in graph.nodes:
        if item.op in attention.ops:
            outcome = attention.match(view, item) or outcome
        view.keep(item)
    return outcome


def test_a_constant_causal_mask_is_no_operand() -> None:
    it = Model((1, 2, 9, 12, 8, 8))
    it.step("Add", it.const("mask", np.where(np.tri(9, 12, 3), 0, -np.inf).astype(np.float32)))
    found = rewritten(it.finished())
    assert found.attrs == {"steps": (), "causal": 3}
    assert len(found.inputs) == 3


def test_a_mask_that_hides_a_whole_row_is_an_operand() -> None:
    it = Model((1, 2, 9, 12, 8, 8))
    it.step("Add", it.const("mask", np.where(np.tri(9, 12, -1), 0, -np.inf).astype(np.float32)))
    assert rewritten(it.finished()).attrs == {"steps": ("Add:0",)}


def test_a_mask_of_zeros_is_left_out() -> None:
    it = Model((1, 2, 9, 12, 8, 8))
    it.step("Add", it.const("mask", np.zeros((9, 12), np.float32)))
    assert rewritten(it.finished()).attrs == {"steps": ()}


def spelled_mask(it: Model, operands: tuple[np.ndarray, np.ndarray]) -> str:
    """Where(And(a, expanded b), 0, lowest), as exporters make masks of [M, N] of what there is for each key."""
    m, n = it.shape[2:4]
    zero, low = it.const("zero", np.array(0, np.float32)), it.const("low", np.array(LOWEST))
    it.add("Expand", [it.feed("seen", operands[1]), it.const("extents", np.array([1, 1, m, n]))], "wide")
    it.add("And", [it.const("rows", operands[0]), "wide"], "both")
    return it.add("Where", ["both", zero, it.add("Cast", [low], "low32", to=1)], "mask")


@pytest.mark.parametrize(("queries", "keys"), [(1, 9), (2, 1), (7, 31), (9, 8), (16, 17), (33, 33)])
def test_what_masks_all_queries_alike_is_read_once_for_each_key(queries: int, keys: int) -> None:
    it = Model((2, 2, queries, keys, 8, 8))
    seen = np.arange(2 * keys).reshape(2, 1, 1, keys) % 3 != 1
    it.step("Add", spelled_mask(it, (np.ones((1, 1, queries, 1), bool), seen)))
    model = it.finished()
    assert (rewritten(model).inputs[-1] == "mask") == (queries == 1)
    it.agrees(model)


def test_what_masks_queries_each_in_its_own_way_stays_as_it_is() -> None:
    it = Model((1, 2, 9, 17, 8, 8))
    rows = np.arange(9).reshape(1, 1, 9, 1) % 2 == 0
    it.step("Add", spelled_mask(it, (rows, np.arange(17).reshape(1, 1, 1, 17) != 3)))
    model = it.finished()
    assert rewritten(model).inputs[-1] == "mask"
    it.agrees(model)


def test_repeated_heads_are_read_where_they_are() -> None:
    it = Model((1, 6, 9, 12, 8, 8), group=3)
    found = judge(it.finished())
    assert isinstance(found, Rewrite)
    transpose, fused = found.nodes
    assert transpose.op == "Transpose"
    assert transpose.inputs == ("k",)
    assert fused.inputs[2] == "v"


def test_factors_of_queries_and_keys_scale_the_scores() -> None:
    it = Model((1, 2, 9, 12, 8, 8))
    it.nodes.clear()
    it.const("root", np.array([0.5], np.float32))
    it.const("three", np.array([2, 12, 8]))
    it.const("four", np.array([1, 2, 8, 12]))
    it.add("Mul", ["q", "root"], "scaled")
    it.add("Reshape", ["k", "three"], "flat")
    it.add("Transpose", ["flat"], "turned", perm=[0, 2, 1])
    it.add("Reshape", ["turned", "four"], "kt0")
    it.add("Mul", ["kt0", "root"], "kt")
    it.add("MatMul", ["scaled", "kt"], "score")
    model = it.finished()
    found = rewritten(model)
    assert found.inputs[0] == "q"
    assert found.attrs["steps"] == ("Mul:0",)
    it.agrees(model)


def test_transposes_are_part_of_the_kernel() -> None:
    it = Model()
    it.nodes.clear()
    it.feeds = {"q": values(2, 33, 3, 16), "k": values(2, 40, 3, 16, seed=1), "v": values(2, 40, 3, 16, seed=2)}
    it.add("Transpose", ["q"], "qt", perm=[0, 2, 1, 3])
    it.add("Transpose", ["k"], "kt", perm=[0, 2, 3, 1])
    it.v = it.add("Transpose", ["v"], "vt", perm=[0, 2, 1, 3])
    it.add("MatMul", ["qt", "kt"], "score")
    it.add("Softmax", ["score"], "p")
    it.add("MatMul", ["p", "vt"], "o")
    it.add("Transpose", ["o"], "y", perm=[0, 2, 1, 3])
    model = it.model()
    f = loopnest.compile(model, threads=1)
    assert_same(f.run(None, it.feeds), onnxruntime(model, it.feeds), 2e-5)
    assert len(kernels_of(f.plans[0])) == 1


def test_the_operator_attention_is_the_same_kernel() -> None:
    feeds = {"q": values(1, 4, 9, 16), "k": values(1, 2, 20, 16, seed=1), "v": values(1, 2, 20, 16, seed=2)}
    model = make_model(
        [node("Attention", ["q", "k", "v"], ["y"], is_causal=1)], {n: a.shape for n, a in feeds.items()}, ["y"], opset=23
    )
    f = loopnest.compile(model, threads=1)
    assert_same(f.run(None, feeds), reference(model, feeds), 2e-5)
    assert "Attention" in str(f)


# --- refusals --------------------------------------------------------------------------------------------------------------------


def test_scores_that_are_an_output_are_computed() -> None:
    it = Model(outputs=("y", "score_")).scaled()
    model = it.finished()
    assert judge(model) == Refusal("scores or probabilities are used elsewhere")
    assert_same(loopnest.compile(model).run(None, it.feeds), onnxruntime(model, it.feeds), 2e-5)


def test_probabilities_that_are_used_elsewhere_are_computed() -> None:
    it = Model()
    it.outputs = ("y", "more")
    it.add("Softmax", [it.score], "p", axis=-1)
    it.add("Relu", ["p"], "more")
    assert judge(it.ended("p")) == Refusal("scores or probabilities are used elsewhere")


def test_unknown_shapes_wait() -> None:
    assert judge(Model(dynamic=True).finished()) == Refusal("a shape is not known yet")


def test_a_mask_that_makes_the_scores_larger_is_refused() -> None:
    it = Model((1, 2, 9, 17, 8, 8))
    it.step("Add", it.feed("mask", values(3, 1, 9, 17)))
    it.feeds["v"] = values(3, 2, 17, 8)
    assert judge(it.finished()) == Refusal("batch axes are broadcast after the scores")


def test_a_softmax_over_another_axis_is_none() -> None:
    it = Model((1, 2, 17, 17, 8, 8))
    it.add("Softmax", [it.score], "p", axis=2)
    assert judge(it.ended("p")) is None


def test_what_is_transposed_and_used_elsewhere_stays() -> None:
    it = Model((1, 2, 9, 17, 8, 8))
    it.outputs = ("y", "turned")
    it.add("Transpose", ["y"], "turned", perm=[0, 2, 1, 3])
    model = it.finished()
    it.nodes.append(it.nodes.pop(-3))
    model = it.model()
    graph = run_passes(load_any(model), PASSES, check=True)
    assert [n.op for n in graph.nodes][-2:] == ["Attention", "Transpose"]
    assert_same(loopnest.compile(model).run(None, it.feeds), onnxruntime(model, it.feeds), 2e-5)


# --- block sizes that are asked for ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("least", [1, 8, 12, 28])
def test_blocks_are_whole_or_large_enough(least: int) -> None:
    for most in {least, least + 3, 2 * least, max(least, 32), 128}:
        for total in range(1, 300):
            size = blocked(total, most, 6, min(total, least))
            assert size >= min(total, least)
            assert total % size == 0 or total % size >= least
            assert size <= most or not any(
                total % s == 0 or total % s >= least for s in range(max(most // 2 + 1, least), most + 1)
            )


@pytest.mark.parametrize(
    ("queries", "keys", "causal", "threads"), [(100, 33, False, 1), (33, 100, True, 2), (3, 100, False, 2)]
)
def test_block_sizes_change_no_result(queries: int, keys: int, causal: bool, threads: int) -> None:
    """Those that a schedule cannot have are not taken from options for all kernels."""
    it = Model((1, 2, queries, keys, 8, 20))
    if causal:
        it.step("Add", it.const("mask", np.where(np.tri(queries, keys, 3), 0, -np.inf).astype(np.float32)))
    model = it.finished()
    wanted = onnxruntime(model, it.feeds)
    for m, k in ((8, 1), (16, 12), (17, 13), (24, 31), (32, 64), (4096, 4096)):
        f = loopnest.compile(model, threads=threads, config={"tile": {"m": m, "k": k}})
        assert_same(f.run(None, it.feeds), wanted, 2e-5)


def test_illegal_block_sizes_are_refused_with_what_is_legal() -> None:
    model = Model((1, 2, 100, 100, 8, 8)).finished()
    for tile, message in (
        ({"m": 1}, "op.Attention.tile.m = 1.*legal: .* to 4096"),
        ({"k": 1}, "op.Attention.tile.k = 1.*legal: "),
    ):
        with pytest.raises(loopnest.ConfigError, match=message):
            loopnest.compile(model, config={"op": {"Attention": {"tile": tile}}})
