"""Tensors as they lie in memory: a logical shape and a layout."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ..ir import loops as ir
from ..ir.dtypes import DType


@dataclass(frozen=True)
class Layout:
    """``block`` 0: row-major. Otherwise NCHWc: axis 1 is cut into blocks of that many channels, which become the innermost axis;
    channels that the last block has too many hold unspecified values."""

    block: int = 0

    def __str__(self) -> str:
        return f"NCHW{self.block}c" if self.block else "plain"


PLAIN = Layout()


@dataclass(frozen=True)
class Tensor:
    """A value with all extents known."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    layout: Layout = PLAIN

    @property
    def physical(self) -> tuple[int, ...]:
        """The extents in memory, outermost first."""
        block = self.layout.block
        if not block:
            return self.shape
        n, c, *rest = self.shape
        return (n, -(-c // block), *rest, block)

    @property
    def margins(self) -> tuple[tuple[int, int], ...]:
        """Zeros in memory before and after each logical axis."""
        return ((0, 0),) * len(self.shape)

    @property
    def nbytes(self) -> int:
        return prod(self.physical) * self.dtype.itemsize

    def locate(self, index: tuple[ir.Expr, ...]) -> tuple[ir.Expr, ...]:
        """The place in memory of a logical index."""
        block = self.layout.block
        if not block:
            return index
        n, c, *rest = index
        return (n, c // block, *rest, c % block)

    def strides(self) -> tuple[int, ...]:
        """Row-major strides of the physical extents, in elements."""
        steps: list[int] = []
        step = 1
        for extent in reversed(self.physical):
            steps.append(step)
            step *= extent
        return tuple(reversed(steps))


class Extents:
    """Index expressions for the extents of one kernel: 1 is a constant, any other number a parameter shared by its equals."""

    def __init__(self) -> None:
        self._params: dict[int, ir.Param] = {}

    def __call__(self, extent: int) -> ir.Expr:
        if extent in (0, 1):
            return ir.Const(extent)
        param = self._params.get(extent)
        if param is None:
            param = self._params[extent] = ir.Param(f"n{len(self._params)}", extent)
        return param

    def shape(self, tensor: Tensor) -> tuple[ir.Expr, ...]:
        """The physical extents; the channel block is part of the code, so a constant."""
        extents = tuple(self(e) for e in tensor.physical)
        return (*extents[:-1], ir.Const(tensor.layout.block)) if tensor.layout.block else extents
