"""Tensors as they lie in memory: a logical shape and a layout."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ..ir import loops as ir
from ..ir.dtypes import DType


@dataclass(frozen=True)
class Layout:
    """``block`` 0: row-major. Otherwise NCHWc: axis 1 is cut into blocks of that many channels, which become the innermost axis;
    channels that the last block has too many hold unspecified values.

    ``halo``: zeros in memory before and after each spatial axis (axes 2 and up), so that a convolution that pads reads them like data.
    """

    block: int = 0
    halo: tuple[tuple[int, int], ...] = ()

    @property
    def plain(self) -> bool:
        return not self.block and not self.halo

    def __str__(self) -> str:
        name = f"NCHW{self.block}c" if self.block else "plain"
        return f"{name}+{'x'.join(f'{p}:{q}' for p, q in self.halo)}" if self.halo else name


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
        shape = tuple(e + p + q for e, (p, q) in zip(self.shape, self.margins, strict=True))
        if not block:
            return shape
        n, c, *rest = shape
        return (n, -(-c // block), *rest, block)

    @property
    def margins(self) -> tuple[tuple[int, int], ...]:
        """Zeros in memory before and after each logical axis."""
        return ((0, 0), (0, 0), *self.layout.halo) if self.layout.halo else ((0, 0),) * len(self.shape)

    @property
    def nbytes(self) -> int:
        return prod(self.physical) * self.dtype.itemsize

    def locate(self, index: tuple[ir.Expr, ...]) -> tuple[ir.Expr, ...]:
        """The place in memory of a logical index."""
        block = self.layout.block
        if self.layout.halo:
            index = tuple(i + p for i, (p, _) in zip(index, self.margins, strict=True))
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

    @property
    def inner(self) -> tuple[int, ...]:
        """The physical extents without the halo."""
        block = self.layout.block
        if not block:
            return self.shape
        n, c, *rest = self.shape
        return (n, -(-c // block), *rest, block)

    @property
    def start(self) -> int:
        """The element offset of index 0, behind the halo."""
        steps = self.strides()
        return sum(p * step for (p, _), step in zip(self.margins, steps, strict=False))


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

    def inner(self, tensor: Tensor) -> tuple[ir.Expr, ...]:
        """The physical extents without the halo."""
        extents = tuple(self(e) for e in tensor.inner)
        return (*extents[:-1], ir.Const(tensor.layout.block)) if tensor.layout.block else extents
