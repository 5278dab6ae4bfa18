"""DFT and STFT against NumPy, over lengths with every kind of factor."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.helper as oh
import pytest

import loopnest
from loopnest.compiler.ops.fourier import factors
from tests.graphs import make_model, tensor, values

LENGTHS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 30, 32, 33, 37, 64, 100, 121, 128, 400, 512, 1009, 1024, 1155]


def dft(x: np.ndarray, axis: int = -2, length: int | None = None, **attrs: Any) -> np.ndarray:
    constants = {"axis": np.array(axis)}
    if length is not None:
        constants["length"] = np.array(length)
    node = oh.make_node("DFT", ["x", "length" if length is not None else "", "axis"], ["y"], **attrs)
    kind = tensor("x", x.shape, oh.np_dtype_to_tensor_dtype(x.dtype))
    return loopnest.compile(make_model([node], {"x": kind}, ["y"], constants, opset=20))(x)


def complex_of(x: np.ndarray) -> np.ndarray:
    return x[..., 0].astype(np.float64) + (1j * x[..., 1] if x.shape[-1] == 2 else 0)


def assert_close(actual: np.ndarray, expected: np.ndarray) -> None:
    scale = np.abs(expected).max() if expected.size else 1
    np.testing.assert_allclose(complex_of(actual), expected, atol=3e-6 * scale, rtol=0)


@pytest.mark.parametrize("n", LENGTHS)
def test_lengths(n: int) -> None:
    assert_close(dft(values(2, n, 2)), np.fft.fft(complex_of(values(2, n, 2))))


@pytest.mark.parametrize("n", [1, 6, 16, 37, 60])
def test_inverse_is_the_inverse(n: int) -> None:
    x = values(3, n, 2)
    np.testing.assert_allclose(dft(dft(x), inverse=1), x, atol=1e-5)


def test_one_sided_and_back() -> None:
    for n in (9, 10):
        x = values(2, n, 1)
        half = dft(x, onesided=1)
        assert_close(half, np.fft.rfft(x[..., 0]))
        np.testing.assert_allclose(dft(half, length=n, onesided=1, inverse=1), x, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2, -2, -4])
def test_axes(axis: int) -> None:
    x = values(3, 5, 8, 2)
    assert_close(dft(x, axis), np.fft.fft(complex_of(x), axis=axis + 1 if axis < 0 else axis))


@pytest.mark.parametrize("length", [5, 8, 20])
def test_padded_and_cut(length: int) -> None:
    x = values(2, 8, 1)
    assert_close(dft(x, length=length), np.fft.fft(x[..., 0], n=length))


def test_float64() -> None:
    x = values(2, 48, 2).astype(np.float64)
    np.testing.assert_allclose(complex_of(dft(x)), np.fft.fft(complex_of(x)), atol=1e-12)


def test_last_axis_is_refused() -> None:
    with pytest.raises(loopnest.LoopnestError, match="last axis"):
        dft(values(2, 8, 2), axis=2)


def test_factors_multiply_to_the_length() -> None:
    for n in LENGTHS:
        assert np.prod(factors(n), dtype=int) == n


@pytest.mark.parametrize(("window", "onesided"), [(True, 1), (False, 0)])
def test_stft(window: bool, onesided: int) -> None:
    x, taper = values(2, 100, 1), np.hanning(16).astype(np.float32)
    constants = {"step": np.array(7), "length": np.array(16)} | ({"window": taper} if window else {})
    node = oh.make_node("STFT", ["x", "step", "window" if window else "", "length"], ["y"], onesided=onesided)
    y = loopnest.compile(make_model([node], {"x": x.shape}, ["y"], constants, opset=17))(x)
    frames = np.stack([x[:, i : i + 16, 0] * (taper if window else 1) for i in range(0, 100 - 15, 7)], 1)
    assert_close(y, np.fft.rfft(frames) if onesided else np.fft.fft(frames))
