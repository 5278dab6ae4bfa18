"""Functions of one or a few instructions: absolute value, rounding, roots, comparisons, minimum and maximum. All exact."""

from __future__ import annotations

from .call import binary_inline, unary_inline
from .value import V, absolute, copysign, max_keep_nan, min_keep_nan, select


@unary_inline
def abs_(x: V) -> V:
    """|x|, exact."""
    return absolute(x)


@unary_inline
def neg(x: V) -> V:
    """-x, exact; flips the sign of zero and NaN too."""
    return -x


@unary_inline
def sign(x: V) -> V:
    """-1, 0 or 1; zero of either sign gives +0, NaN gives NaN, as NumPy."""
    unit = select(x > 0.0, x.of(1.0), select(x < 0.0, x.of(-1.0), x.of(0.0)))
    return select(x.is_nan(), x, unit)


@unary_inline
def floor(x: V) -> V:
    """Largest integer <= x, exact (``llvm.floor``; x86 without SSE4.1 calls libm)."""
    return x.intrinsic("floor")


@unary_inline
def ceil(x: V) -> V:
    """Smallest integer >= x, exact (``llvm.ceil``; x86 without SSE4.1 calls libm)."""
    return x.intrinsic("ceil")


@unary_inline
def trunc(x: V) -> V:
    """Nearest integer towards zero, exact (``llvm.trunc``; x86 without SSE4.1 calls libm)."""
    return x.intrinsic("trunc")


@unary_inline
def round_(x: V) -> V:
    """Nearest integer, halves to even, exact (``llvm.rint``; x86 without SSE4.1 calls libm)."""
    return x.intrinsic("rint")


@unary_inline
def sqrt(x: V) -> V:
    """Square root, correctly rounded; NaN below zero."""
    return x.intrinsic("sqrt")


@unary_inline
def rsqrt(x: V) -> V:
    """1 / sqrt(x) by exact square root and division, <= 1.5 ulp."""
    return 1.0 / x.intrinsic("sqrt")


@unary_inline
def reciprocal(x: V) -> V:
    """1 / x, correctly rounded."""
    return 1.0 / x


@unary_inline
def relu(x: V) -> V:
    """max(x, 0) in one instruction; NaN stays NaN, -0 stays -0."""
    return max_keep_nan(x, 0.0)


@unary_inline
def isnan(x: V) -> V:
    """A mask of ``i1``: x is NaN."""
    return x.is_nan()


@unary_inline
def isinf(x: V) -> V:
    """A mask of ``i1``: x is +inf or -inf."""
    return absolute(x).eq(float("inf"))


@binary_inline
def copysign_(x: V, y: V) -> V:
    """|x| with the sign of y, exact."""
    return copysign(x, y)


@binary_inline
def fmax(x: V, y: V) -> V:
    """Maximum; NaN where either is NaN, as NumPy's ``maximum``."""
    return select(x.is_nan(), x, max_keep_nan(y, x))


@binary_inline
def fmin(x: V, y: V) -> V:
    """Minimum; NaN where either is NaN, as NumPy's ``minimum``."""
    return select(x.is_nan(), x, min_keep_nan(y, x))


@binary_inline
def max_fast(x: V, y: V) -> V:
    """``y > x ? y : x``, one instruction on x86: NaN in x stays; y must not be NaN (a NaN in y gives x)."""
    return max_keep_nan(x, y)


@binary_inline
def min_fast(x: V, y: V) -> V:
    """``y < x ? y : x``, one instruction on x86: NaN in x stays; y must not be NaN (a NaN in y gives x)."""
    return min_keep_nan(x, y)
