"""Random operators: the generator against its published vector, distributions, what a seed fixes; Dropout against ONNX's reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import pytest

import loopnest
from loopnest.compiler.ops.random import philox
from loopnest.ir import dtypes, loop_interpreter
from loopnest.ir import loops as ir
from tests.graphs import make_model
from tests.nests import buffer
from tests.operators import agree, compute

MASK = 0xFFFF_FFFF


def _philox_in_python(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 as figure 2 of the paper has it."""
    x, k = list(counter), list(key)
    for _ in range(10):
        left, right = x[0] * 0xD2511F53, x[2] * 0xCD9E8D57
        x = [(right >> 32) ^ x[1] ^ k[0], right & MASK, (left >> 32) ^ x[3] ^ k[1], left & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return x


def _philox_in_loop_ir(seed: int, counter: int) -> list[int]:
    y = buffer("y", "output", 4, dtype=dtypes.uint32)
    words = philox(ir.Const(seed), ir.Const(counter))
    nest = ir.LoopNest("philox", (y,), tuple(ir.Store(y, (ir.Const(i),), word) for i, word in enumerate(words)))
    out = np.zeros(4, np.uint32)
    assert loop_interpreter.run(nest, [out]) == 0
    return out.tolist()


def test_philox_gives_the_published_vector() -> None:
    """The first of Random123's known answers (kat_vectors)."""
    assert _philox_in_loop_ir(0, 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


@pytest.mark.parametrize(("seed", "counter"), [(1, 2), (0x1234_5678_9ABC, 7), (3, 0x1_0000_0005)])
def test_philox_uses_all_bits(seed: int, counter: int) -> None:
    expected = _philox_in_python([counter & MASK, counter >> 32, 0, 0], [seed & MASK, seed >> 32])
    assert _philox_in_loop_ir(seed, counter) == expected


DTYPES = [(onnx.TensorProto.FLOAT, np.float32), (onnx.TensorProto.DOUBLE, np.float64), (onnx.TensorProto.FLOAT16, np.float16)]


@pytest.mark.parametrize(("number", "dtype"), DTYPES)
def test_uniform_numbers(number: int, dtype: Any) -> None:
    (y,) = compute("RandomUniform", [], {"shape": [200, 300], "low": -1.0, "high": 3.0, "seed": 5.0, "dtype": number}, opset=22)
    assert y.dtype == dtype and y.shape == (200, 300)
    wide = y.astype(np.float64)
    assert wide.min() >= -1 and wide.max() <= 3
    assert abs(wide.mean() - 1) < 0.02 and abs(wide.std() - 4 / 12**0.5) < 0.02
    assert np.histogram(wide, 8, (-1, 3))[0].min() > 60_000 / 8 * 0.95


@pytest.mark.parametrize(("number", "dtype"), DTYPES)
def test_normal_numbers(number: int, dtype: Any) -> None:
    (y,) = compute("RandomNormal", [], {"shape": [60_000], "mean": 2.0, "scale": 3.0, "seed": 5.0, "dtype": number}, opset=22)
    assert y.dtype == dtype
    z = (y.astype(np.float64) - 2) / 3
    assert abs(z.mean()) < 0.02 and abs(z.std() - 1) < 0.02 and abs((z**4).mean() - 3) < 0.15 and np.abs(z).max() < 6


def test_like_takes_shape_and_dtype_of_its_input() -> None:
    for op in ("RandomUniformLike", "RandomNormalLike"):
        (y,) = compute(op, [np.zeros((3, 7), np.float64)], opset=22)
        assert y.shape == (3, 7) and y.dtype == np.float64 and len(np.unique(y)) == 21


def test_a_seed_fixes_the_numbers() -> None:
    attrs = {"shape": [50]}
    draws = [
        compute("RandomUniform", [], {**attrs, **seed}, opset=22)[0]
        for seed in ({"seed": 1.0}, {"seed": 1.0}, {"seed": 2.0}, {}, {})
    ]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert all((draws[i] != draws[j]).any() for i, j in ((0, 2), (0, 3), (3, 4)))


P = np.full((3, 8), 0.5, np.float32)
DRAWS: dict[str, tuple[list[np.ndarray], dict[str, Any]]] = {
    "RandomUniform": ([], {"shape": [40]}),
    "RandomNormal": ([], {"shape": [40]}),
    "RandomUniformLike": ([P], {}),
    "RandomNormalLike": ([P], {}),
    "Bernoulli": ([np.full((9, 11), 0.5, np.float32)], {}),
    "Multinomial": ([np.zeros((2, 50), np.float32)], {"sample_size": 20}),
    "Dropout": ([np.ones((9, 11), np.float32), np.array(0.5, np.float32), np.array(True)], {}),
}


@pytest.mark.parametrize("op", DRAWS)
@pytest.mark.parametrize("level", [0, 3])
def test_without_a_seed_every_call_and_every_node_draws_anew(op: str, level: int) -> None:
    arrays, attrs = DRAWS[op]
    names = [f"x{i}" for i in range(len(arrays))]
    nodes = [oh.make_node(op, names, [output], **attrs) for output in ("y", "z")]
    inputs = {name: (array.shape, oh.np_dtype_to_tensor_dtype(array.dtype)) for name, array in zip(names, arrays, strict=True)}
    declared = {name: oh.make_tensor_value_info(name, kind, shape) for name, (shape, kind) in inputs.items()}
    f = loopnest.compile(make_model(nodes, declared, ["y", "z"], opset=22), config={"opt_level": level})
    draws = [value for _ in range(3) for value in f.run(None, dict(zip(names, arrays, strict=True)))]
    assert all((a != b).any() for i, a in enumerate(draws) for b in draws[:i]), "six draws, all different"
    assert f.profile(*arrays, repeat=1).steps
    bound = f.bind(*arrays)
    bound.run()
    first = [np.array(output) for output in bound.outputs]
    bound.run()
    assert all((a != b).any() for a, b in zip(first, bound.outputs, strict=True))


def test_constant_inputs_do_not_freeze_what_is_random() -> None:
    """Bernoulli and a training Dropout of constants are no constants."""
    for op in ("Bernoulli", "Dropout"):
        arrays, attrs = DRAWS[op]
        constants = {f"x{i}": array for i, array in enumerate(arrays)}
        f = loopnest.compile(make_model([oh.make_node(op, list(constants), ["y"], **attrs)], {}, ["y"], constants, opset=22))
        assert (f() != f()).any()


def test_a_body_draws_anew_in_each_iteration() -> None:
    body = oh.make_graph(
        [oh.make_node("Identity", ["go"], ["on"]), oh.make_node("RandomUniform", [], ["r"], shape=[5])],
        "body",
        [
            oh.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
            oh.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
        ],
        [
            oh.make_tensor_value_info("on", onnx.TensorProto.BOOL, []),
            oh.make_tensor_value_info("r", onnx.TensorProto.FLOAT, [5]),
        ],
    )
    node = oh.make_node("Loop", ["n", ""], ["y"], body=body)
    y = loopnest.compile(make_model([node], {}, ["y"], {"n": np.array(4, np.int64)}, opset=22))()
    assert isinstance(y, np.ndarray) and len(np.unique(y)) == 20


def test_the_number_of_workers_changes_nothing() -> None:
    model = make_model([oh.make_node("RandomNormal", [], ["y"], shape=[9, 5000], seed=3.0)], {}, ["y"], opset=22)
    one, two = (loopnest.compile(model, threads=n).run(None, {})[0] for n in (1, 2))
    np.testing.assert_array_equal(one, two)


def test_bernoulli_follows_its_probabilities() -> None:
    p = np.repeat(np.array([0.0, 0.25, 0.5, 1.0], np.float32), 20_000).reshape(4, -1)
    (y,) = compute("Bernoulli", [p], {"seed": 1.0, "dtype": onnx.TensorProto.INT32}, opset=22)
    assert y.dtype == np.int32
    np.testing.assert_allclose(y.mean(axis=1), [0, 0.25, 0.5, 1], atol=0.015)


def test_multinomial_draws_by_softmax() -> None:
    logits = np.log(np.array([[0.1, 0.2, 0.7], [0.5, 0.25, 0.25]], np.float32)) + 40
    (y,) = compute("Multinomial", [logits], {"sample_size": 20_000, "seed": 1.0, "dtype": onnx.TensorProto.INT64}, opset=22)
    assert y.dtype == np.int64 and y.shape == (2, 20_000)
    shares = [np.bincount(row, minlength=3) / 20_000 for row in y]
    np.testing.assert_allclose(shares, [[0.1, 0.2, 0.7], [0.5, 0.25, 0.25]], atol=0.015)


@pytest.mark.parametrize("ratio", [0.5, 0.75, 0.0])
@pytest.mark.parametrize("shape", [(3, 4, 5), (700,)])
def test_dropout_in_training(ratio: float, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    inputs = [x, np.array(ratio, np.float32), np.array(True)]
    agree("Dropout", inputs, {"seed": 7}, outputs=2, opset=22, rtol=1e-6)


def test_dropout_whose_mode_is_an_input() -> None:
    x = np.random.default_rng(0).standard_normal((5, 9)).astype(np.float32)
    y, mask = compute("Dropout", [x, np.array(0.5, np.float32), np.array(False)], outputs=2, opset=22)
    np.testing.assert_array_equal(y, x)
    assert mask.all() and mask.dtype == np.bool_
