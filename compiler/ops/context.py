"""What an operator's definition reads and writes: elements of inputs and outputs by logical index, whatever their layout in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ...codegen.target import Target
from ...ir import dtypes
from ...ir import loops as ir
from ...ir.dtypes import DType
from ...ir.graph import TensorType
from ..choices import Choices
from .builder import Builder
from .infer import InferContext

Reader = Callable[[tuple[ir.Expr, ...]], ir.Expr]
Writer = Callable[[tuple[ir.Expr, ...], ir.Expr], None]


def compute_dtype(dtype: DType) -> DType:
    """What a value of ``dtype`` is computed in: the floats narrower than 32 bits are computed in float32."""
    return dtypes.float32 if dtype.is_float and dtype.bits < 32 else dtype


@dataclass(frozen=True)
class Operand:
    """An input tensor. ``shape`` are index expressions (constants, or parameters of the plan), ``sizes`` their values now.

    Calling it with an index gives the element there, as a value of ``dtype``: float16 and narrower floats arrive as float32.
    ``block``: that many channels (axis 1) are neighbours in memory, in layout NCHWc; 0 in plain layout.
    """

    name: str
    element: DType
    shape: tuple[ir.Expr, ...]
    sizes: tuple[int, ...]
    read: Reader
    buffer: ir.Buffer | None = None
    block: int = 0
    margins: tuple[tuple[int, int], ...] = ()
    """Zeros in memory before and after each axis."""

    @property
    def dtype(self) -> DType:
        return compute_dtype(self.element)

    @property
    def rank(self) -> int:
        return len(self.shape)

    def __call__(self, *index: ir.Operand) -> ir.Expr:
        assert len(index) == self.rank, f"{self.name} has rank {self.rank}, indexed with {len(index)}"
        return ir.cast(self.read(tuple(ir.index(i) for i in index)), self.dtype)

    def padded(self, index: Sequence[ir.Operand], before: Sequence[int], after: Sequence[int]) -> ir.Expr:
        """The element at an index that may lie up to ``before``/``after`` elements outside of each axis: zero there."""
        place = tuple(ir.index(i) for i in index)
        inside: ir.Expr = ir.TRUE
        for i, extent, (low, high), p, q in zip(place, self.shape, self.margins, before, after, strict=True):
            if p > low:
                inside = ir.all_of(inside, i >= 0)
            if q > high:
                inside = ir.all_of(inside, i < extent)
        return ir.guarded(inside, self(*place), 0)

    def raw(self, *index: ir.Operand) -> ir.Expr:
        """The element as stored: a float16 stays one. For operators that only move data."""
        return self.read(tuple(ir.index(i) for i in index))

    def reshape(self, *extents: ir.Operand) -> Operand:
        """The same memory seen with another shape; only for inputs of operators without ``prologue``, in plain layout."""
        assert self.buffer is not None, f"{self.name} is computed on the way in and cannot be reshaped"
        shape = tuple(ir.index(e) for e in extents)
        buffer = self.buffer.view(shape)
        return replace(self, shape=shape, sizes=tuple(map(ir.hint, shape)), buffer=buffer, read=lambda i: ir.Load(buffer, i))


@dataclass(frozen=True)
class Result:
    """An output tensor; ``store`` writes an element, converted from the compute dtype, through whatever was fused after the operator."""

    name: str
    element: DType
    shape: tuple[ir.Expr, ...]
    sizes: tuple[int, ...]
    write: Writer
    buffer: ir.Buffer | None = None
    builder: Builder | None = None
    block: int = 0

    @property
    def dtype(self) -> DType:
        return compute_dtype(self.element)

    @property
    def rank(self) -> int:
        return len(self.shape)

    def store(self, index: Sequence[ir.Operand], value: ir.Operand) -> None:
        assert len(index) == self.rank, f"{self.name} has rank {self.rank}, stored with {len(index)}"
        self.write(tuple(ir.index(i) for i in index), ir.wrap(value, self.dtype))

    def load(self, *index: ir.Operand) -> ir.Expr:
        """An element already stored; only for outputs of operators without ``epilogue``."""
        assert self.buffer is not None, f"{self.name} has something fused after it and cannot be read"
        return ir.cast(ir.Load(self.buffer, tuple(ir.index(i) for i in index)), self.dtype)

    def reshape(self, *extents: ir.Operand) -> Result:
        """The same memory seen with another shape; only for outputs of operators without ``epilogue``."""
        assert self.buffer is not None and self.builder is not None, f"{self.name} has something fused after it"
        shape, b = tuple(ir.index(e) for e in extents), self.builder
        buffer = self.buffer.view(shape)
        return replace(
            self,
            shape=shape,
            sizes=tuple(map(ir.hint, shape)),
            buffer=buffer,
            write=lambda i, value: b.store(buffer, i, ir.cast(value, buffer.dtype)),
        )


@dataclass(frozen=True)
class Reduce:
    """The element of a reduction: ``finish(op over axes of term(*axes))``, accumulated in the term's dtype.

    ``op``: "add", "mul", "min", "max", "and", "or". ``axes``: names and extents, outermost first.
    ``first`` is what it starts from instead of the neutral element. ``run``: along axis 1 of the result, so many neighbours at a time read
    the same elements of the first factor (a group of channels); 0 where all do.
    """

    op: str
    axes: tuple[tuple[str, ir.Operand], ...]
    term: Callable[..., ir.Expr]
    finish: Callable[[ir.Expr], ir.Expr] = lambda total: total
    first: ir.Expr | None = None
    run: int = 0


@dataclass(frozen=True)
class Part:
    """Output elements on a grid of their own, each a reduction: the one at ``place`` in ``shape`` is ``define(*place)``, and goes to
    ``index(place)`` of the output. The parts of an operator make each element once; axis 1 of grid and output is the same."""

    shape: tuple[int, ...]
    index: Callable[[Sequence[ir.Expr]], tuple[ir.Expr, ...]]
    define: Callable[..., Reduce]


@dataclass(frozen=True)
class Op(InferContext):
    """A node being lowered: its attributes, its inputs as operands, its outputs as results."""

    operands: tuple[Operand | None, ...] = ()
    results: tuple[Result | None, ...] = ()
    output_types: tuple[TensorType, ...] = ()
    output_extents: tuple[tuple[ir.Expr, ...], ...] = ()
    tables: Callable[[str, np.ndarray], ir.Buffer] | None = None
    packs: Callable[[str, Sequence[ir.Expr], Sequence[ir.Var]], ir.Buffer] | None = None
    target: Target | None = None
    choices: Choices = field(default_factory=Choices)
    """What the schedule of the kernel may choose."""

    def input(self, i: int) -> Operand:
        """Input ``i``; it must be there (see ``has``)."""
        operand = self.operands[i] if i < len(self.operands) else None
        if operand is None:
            raise self.fail(f"input {i} is required")
        return operand

    def output(self, i: int = 0) -> Result:
        """Output ``i`` (kind ``nest``); it must be wanted (see ``wants``)."""
        result = self.results[i]
        assert result is not None
        return result

    def wants(self, i: int) -> bool:
        """Whether output ``i`` is used."""
        return i < len(self.node.outputs) and bool(self.node.outputs[i])

    def table(self, name: str, array: np.ndarray) -> ir.Buffer:
        """Numbers worked out while planning (interpolation weights, say), as one more argument of the kernel. Names differ in a node."""
        assert self.tables is not None
        return self.tables(name, array)

    def packed(self, i: int, index: Sequence[ir.Operand], order: Sequence[ir.Var]) -> ir.Expr:
        """An element of input ``i``, a constant, from a copy laid out in the order of the loops over ``order`` (outermost first), on which
        alone ``index`` depends: the loops read it front to back."""
        operand = self.input(i)
        assert self.packs is not None
        packed = self.packs(operand.name, tuple(ir.index(e) for e in index), order)
        return ir.cast(ir.Load(packed, tuple(order)), operand.dtype)

    def out_dtype(self, i: int = 0) -> DType:
        """The dtype in which output ``i`` is computed (its own, or float32 for narrower floats)."""
        return compute_dtype(self.output_types[i].dtype)

    def out_shape(self, i: int = 0) -> tuple[ir.Expr, ...]:
        """The extents of output ``i`` as index expressions."""
        return self.output_extents[i]

    def out_sizes(self, i: int = 0) -> tuple[int, ...]:
        """The extents of output ``i`` as numbers."""
        shape = self.output_types[i].static_shape
        assert shape is not None
        return shape
