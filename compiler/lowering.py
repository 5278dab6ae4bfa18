"""From a fused group to a loop nest: operator definitions joined, prologue and epilogue inlined, loops laid over the output.

group Add+Relu  ->  for i in vector(n): y[i] = relu(a[i] + b[i])
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod

import numpy as np

from ..codegen.target import Target
from ..ir import dtypes
from ..ir import loops as ir
from ..ir.errors import VerificationError
from ..ir.graph import Node, TensorType
from .choices import Choices
from .config import NodeOptions
from .group import Group
from .ops.builder import Builder
from .ops.context import Op, Operand, Part, Reduce, Result
from .ops.registry import OpDef, lookup
from .packing import Derive, Packer
from .schedule.contraction import lower_contraction
from .schedule.halo import zero_halo
from .schedule.merging import merge_loops
from .schedule.pointwise import lower_pointwise
from .schedule.reduction import lower_reduction
from .schedule.regions import lower_regions
from .schedule.sliding import lower_sliding
from .schedule.strided import strided_loops
from .schedule.winograd import lower_winograd
from .tensor import Extents, Layout, Tensor


@dataclass(frozen=True)
class Packing:
    """A constant that a nest reads from a packed copy, called ``title``: see ``Packer.add``."""

    title: str
    name: str
    index: tuple[ir.Expr, ...]
    order: tuple[ir.Var, ...]
    derive: Derive | None


@dataclass(frozen=True)
class Extension:
    """A constant that a nest reads from a copy with ``zeros`` more elements along ``axis``, called ``title``."""

    name: str
    axis: int
    zeros: int

    @property
    def title(self) -> str:
        return f"{self.name} in whole blocks"

    def of(self, array: np.ndarray) -> np.ndarray:
        return np.pad(array, [(0, self.zeros if axis == self.axis else 0) for axis in range(array.ndim)])


@dataclass(frozen=True)
class Lowered:
    """A group's nest and what its buffer arguments are: value names, or sizes in bytes of scratch memory."""

    nest: ir.LoopNest
    arguments: tuple[str | int, ...]
    packings: tuple[Packing, ...] = ()
    extensions: tuple[Extension, ...] = ()
    choices: Choices = field(default_factory=Choices)
    """What its schedules chose."""


@dataclass
class Lowering:
    """Lowers one group. ``tensors`` describes every value the group touches, ``constants`` holds those that are known."""

    group: Group
    tensors: MutableMapping[str, Tensor]
    constants: dict[str, np.ndarray]
    target: Target
    options: NodeOptions
    packs: Packer
    inplace: tuple[str, str] | None = None
    builder: Builder = field(default_factory=Builder)
    extents: Extents = field(default_factory=Extents)
    buffers: dict[str, ir.Buffer] = field(default_factory=dict)
    inner: dict[str, Node] = field(default_factory=dict)
    parts: dict[str, tuple[str, Part]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """Lines about the kernel that its text shows."""
    packings: list[Packing] = field(default_factory=list)
    extensions: list[Extension] = field(default_factory=list[Extension])
    haloed: set[str] = field(default_factory=set[str])
    """Outputs whose halo a schedule writes along with their elements."""
    choices: Choices = field(init=False)

    def __post_init__(self) -> None:
        self.choices = Choices(self.options)

    def lower(self) -> Lowered:
        for name in self.group.outputs:
            self.buffers[name] = self._buffer(name, "output")
        for node in self.group.nodes:
            self.inner.update((o, node) for o in node.outputs if o)
        definition = _definition(self.group.anchor)
        if definition.kind in ("pointwise", "injective"):
            self._elementwise(definition)
        elif definition.kind == "reduction":
            self._reduction(definition, self.op(self.group.anchor))
        else:
            definition.define(self.op(self.group.anchor), self.builder)
            self.builder.body = list(merge_loops(tuple(self.builder.body)))
        return self._finish()

    def _reduction(self, definition: OpDef, op: Op) -> None:
        if definition.by_parts:
            self.reduce_parts(op, definition.define(op))
            return
        define = partial(_define, definition, op)
        if not any(lower(self, op, define) for lower in (lower_regions, lower_sliding, lower_winograd, lower_contraction)):
            lower_reduction(self, op, define)

    def reduce_parts(self, op: Op, parts: Sequence[Part]) -> None:
        """Each of the parts that make the output, one after the other."""
        whole = self.tensors[op.node.outputs[0]]
        for number, part in enumerate(parts):
            name = f"{whole.name} part {number}"
            self.parts[name] = whole.name, part
            self.tensors[name] = Tensor(name, whole.dtype, part.shape, Layout(whole.layout.block))
            with self.builder.collect() as body:
                here = replace(op, node=op.node.replace(outputs=(name,)))
                if not any(lower(self, here, part.define) for lower in (lower_sliding, lower_contraction)):
                    lower_reduction(self, here, part.define)
            self.builder.body.extend(_as_task(body))

    def _finish(self) -> Lowered:
        for name in self.group.outputs:
            if self.tensors[name].layout.halo and name not in self.haloed:
                self.builder.body[:] = _as_task(self.builder.body)
                zero_halo(self, self.tensors[name], self.buffers[name])
        body = tuple(self.builder.body)
        used = _buffers_of(body)
        inputs = {n: b for n, b in self.buffers.items() if b.scope == "input" and b in used}
        outputs = {n: self.buffers[n] for n in self.group.outputs}
        scratches = [b for b in self.builder.scratches if b in used]
        sizes = [prod(map(ir.hint, b.shape)) * b.dtype.itemsize for b in scratches]
        buffers = (*inputs.values(), *outputs.values(), *scratches)
        nest = ir.LoopNest(self.group.title, buffers, body, tuple(self.builder.errors), self._shared(), tuple(self.notes))
        arguments = (*inputs, *outputs, *sizes)
        return Lowered(nest, arguments, tuple(self.packings), tuple(self.extensions), self.choices)

    def _shared(self) -> tuple[tuple[str, str], ...]:
        """The buffers, by name, that are the same memory."""
        if self.inplace is None or any(name not in self.buffers for name in self.inplace):
            return ()
        source, output = self.inplace
        return ((self.buffers[source].name, self.buffers[output].name),)

    # --- elements --------------------------------------------------------------------------------------------------------------

    def _buffer(self, name: str, scope: ir.Scope) -> ir.Buffer:
        tensor = self.tensors[name]
        shape = tuple(map(ir.Const, tensor.physical)) if name in self.constants else self.extents.shape(tensor)
        return ir.Buffer(_short(name, scope, len(self.buffers)), tensor.dtype, shape, ir.contiguous(shape), scope)

    def buffer(self, name: str) -> ir.Buffer:
        """The argument that holds an external value."""
        found = self.buffers.get(name)
        if found is None:
            found = self.buffers[name] = self._buffer(name, "input")
        return found

    def logical(self, tensor: Tensor) -> tuple[ir.Expr, ...]:
        """The extents: constants for weights, which the code is made for, parameters for data."""
        return tuple(map(ir.Const if tensor.name in self.constants else self.extents, tensor.shape))

    def packed(self, name: str, index: Sequence[ir.Expr], order: Sequence[ir.Var], derive: Derive | None = None) -> ir.Buffer:
        """The argument that holds constant ``name``, or what ``derive`` makes of it, laid out in the order of the variables ``order``, at
        which it is read at ``index``."""
        title, extents = self.packs.add(name, self.constants[name], index, order, derive)
        if title not in self.buffers:
            self.packings.append(Packing(title, name, tuple(index), tuple(order), derive))
            dtype = self.tensors[name].dtype
            self.tensors[title] = Tensor(title, dtype, extents)
            shape = tuple(map(ir.Const, extents))
            self.buffers[title] = ir.Buffer(f"w{len(self.buffers)}", dtype, shape, ir.contiguous(shape), "input")
        return self.buffers[title]

    def table(self, title: str, array: np.ndarray) -> ir.Buffer:
        """The argument that holds an array made while planning."""
        if title not in self.buffers:
            tensor = self.tensors[title] = Tensor(title, dtypes.from_numpy(array.dtype), array.shape)
            self.constants[title] = array
            shape = tuple(map(self.extents, array.shape))
            self.buffers[title] = ir.Buffer(f"t{len(self.buffers)}", tensor.dtype, shape, ir.contiguous(shape), "input")
        return self.buffers[title]

    def read(self, name: str, index: tuple[ir.Expr, ...]) -> ir.Expr:
        """The element of a value, computed where a node of the group makes it, loaded otherwise."""
        if name in self.inner and name not in self.buffers:
            return self.element(self.inner[name], index)
        scalar = self.scalar(name)
        if scalar is not None:
            return scalar
        name = self._whole_blocks(name)
        return ir.Load(self.buffer(name), self.tensors[name].locate(index))

    def _whole_blocks(self, name: str) -> str:
        """A constant with an element per channel, extended by zeros to whole blocks where the output has some channels too many."""
        out = self.tensors[self.group.outputs[0]]
        block, tensor = out.layout.block, self.tensors[name]
        if name not in self.constants or not block or not out.shape[1] % block or tensor.layout.block:
            return name
        axis = 0 if tensor.shape == out.shape[1:2] else len(tensor.shape) - len(out.shape) + 1
        if axis < 0 or tensor.shape[axis] != out.shape[1]:
            return name
        extension = Extension(name, axis, -tensor.shape[axis] % block)
        if extension not in self.extensions:
            self.extensions.append(extension)
            array = self.constants[extension.title] = extension.of(self.constants[name])
            self.tensors[extension.title] = Tensor(extension.title, tensor.dtype, array.shape)
        return extension.title

    def scalar(self, name: str) -> ir.Expr | None:
        """A constant of one element becomes part of the code."""
        array = self.constants.get(name)
        if array is None or array.size != 1 or name not in self.tensors or not self.tensors[name].dtype.is_numeric:
            return None
        dtype = self.tensors[name].dtype
        if dtype.kind == "complex" or (dtype.is_integer and dtype.bits < 8):
            return None
        value = array.reshape(-1)[0]
        if dtype.is_float:
            return ir.Const(float(value), dtypes.float64 if dtype is dtypes.float64 else dtypes.float32)
        return ir.Const(bool(value) if dtype.kind == "bool" else int(value), dtype)

    def element(self, node: Node, index: tuple[ir.Expr, ...]) -> ir.Expr:
        """The element of a pointwise or injective node's output."""
        op, definition = self.op(node), _definition(node)
        if definition.kind == "injective":
            value = definition.define(op, index)
        else:
            values = [self._aligned(operand, index) if operand is not None else None for operand in op.operands]
            value = definition.define(op, *values)
        return ir.cast(value, op.out_dtype())

    def apply(self, node: Node, value: Callable[[str], ir.Expr]) -> ir.Expr:
        """A pointwise node's result from the values of its inputs, by name."""
        op = self.op(node)
        values = [None if o is None else ir.cast(value(o.name), o.dtype) for o in op.operands]
        return ir.cast(_definition(node).define(op, *values), op.out_dtype())

    def _aligned(self, operand: Operand, index: tuple[ir.Expr, ...]) -> ir.Expr:
        """The element of a broadcast operand at an index of the result."""
        own = index[len(index) - operand.rank :]
        return operand(*(ir.ZERO if size == 1 else i for i, size in zip(own, operand.sizes, strict=True)))

    def op(self, node: Node) -> Op:
        """The node with its operands and results."""
        tensors = [self.tensors[name] if name else None for name in node.inputs]
        types = tuple(None if t is None else TensorType(t.dtype, t.shape) for t in tensors)
        values = tuple(self.constants.get(name) if name else None for name in node.inputs)
        outputs = [self.tensors.get(name) for name in node.outputs]
        output_types = tuple(TensorType(t.dtype, t.shape) if t else TensorType(dtypes.float32, ()) for t in outputs)
        results = tuple(self._result(node, i, t) if t else None for i, t in enumerate(outputs))
        return Op(
            node,
            types,
            values,
            tuple(None if t is None else self._operand(t) for t in tensors),
            results,
            output_types,
            tuple(self.logical(t) if t else () for t in outputs),
            lambda table, array: self.table(f"{node.outputs[0]} {table}", array),
            self.packed,
            self.target,
            self.choices,
        )

    def _operand(self, tensor: Tensor) -> Operand:
        name = tensor.name
        external = name not in self.inner and self.scalar(name) is None and not tensor.layout.block
        return Operand(
            name,
            tensor.dtype,
            self.logical(tensor),
            tensor.shape,
            lambda index: self.read(name, index),
            self.buffer(name) if external and self.needs_buffers else None,
            block=tensor.layout.block,
            margins=tensor.margins,
        )

    @property
    def needs_buffers(self) -> bool:
        """Explicit nests may look at an input's memory; for other kinds an input that is not read is no argument."""
        return _definition(self.group.anchor).kind == "nest"

    def _result(self, node: Node, i: int, tensor: Tensor) -> Result | None:
        if node is not self.group.anchor:
            return None
        fused = bool(self.group.epilogue) and i == 0
        known = None if fused or tensor.layout.block else self.buffers.get(tensor.name)

        def write(index: tuple[ir.Expr, ...], value: ir.Expr) -> None:
            self.write(tensor.name, index, value)

        return Result(
            tensor.name, tensor.dtype, self.logical(tensor), tensor.shape, write, known, self.builder, tensor.layout.block
        )

    def write(self, name: str, index: tuple[ir.Expr, ...], value: ir.Expr) -> None:
        """Stores an element of the anchor's output, or of a part of it, and of everything that the epilogue computes from it."""
        if name in self.parts:
            name, part = self.parts[name]
            index = part.index(index)
        made = {name: value}
        self._store(name, index, value)
        for node in self.group.epilogue if name == self.group.anchor.outputs[0] else ():
            op = self.op(node)
            values = [self._epilogue_operand(operand, index, made) for operand in op.operands]
            value = made[node.outputs[0]] = ir.cast(_definition(node).define(op, *values), op.out_dtype())
            self._store(node.outputs[0], index, value)

    def _epilogue_operand(
        self, operand: Operand | None, index: tuple[ir.Expr, ...], made: dict[str, ir.Expr]
    ) -> ir.Expr | None:
        if operand is None:
            return None
        if operand.name in made:
            return made[operand.name]
        return self._aligned(operand, index)

    def _store(self, name: str, index: tuple[ir.Expr, ...], value: ir.Expr) -> None:
        if name in self.group.outputs:
            tensor, buffer = self.tensors[name], self.buffers[name]
            self.builder.emit(ir.Store(buffer, tensor.locate(index), ir.cast(value, tensor.dtype)))

    # --- loops -----------------------------------------------------------------------------------------------------------------

    def _elementwise(self, definition: OpDef) -> None:
        """Loops over the output; on flat memory where every node is pointwise."""
        root = self.group.anchor.outputs[0]
        if all(_definition(node).kind == "pointwise" for node in self.group.nodes) and lower_pointwise(self, root):
            return
        tensor = self.tensors[root]
        for first, extents in self._parts(tensor):
            strided_loops(self.builder, extents, lambda place, first=first: self._at_place(tensor, first, place))

    def _parts(self, tensor: Tensor) -> list[tuple[ir.Expr, tuple[ir.Expr, ...]]]:
        """The loops over a tensor's memory: the number of the first block of channels, and extents. A last block that is not full is
        apart where an input has no memory for the channels that are too many."""
        extents, block = self.extents.inner(tensor), tensor.layout.block
        whole, rest = divmod(tensor.shape[1], block) if block else (0, 0)
        if not rest or all(self.tensors[n].layout.block for n in self.group.inputs if n not in self.constants):
            return [(ir.ZERO, extents)]
        last = (self.extents(whole), (extents[0], ir.ONE, *extents[2:-1], ir.Const(rest)))
        return [(ir.ZERO, (extents[0], self.extents(whole), *extents[2:])), last] if whole else [last]

    def _at_place(self, tensor: Tensor, first: ir.Expr, place: Sequence[ir.Expr]) -> None:
        """One element of the anchor's output, given where it lies in memory, from block ``first`` on."""
        index = tuple(place)
        if tensor.layout.block:
            n, c, *rest, lane = place
            index = (n, (first + c) * tensor.layout.block + lane, *rest)
        self.write(tensor.name, index, self.element(self.group.anchor, index))


def _as_task(body: list[ir.Stmt]) -> list[ir.Stmt]:
    """A body that another parallel loop can stand beside: as one task, unless it is parallel itself."""
    if any(isinstance(s, ir.For) and s.kind == "parallel" for s in body):
        return body
    return [ir.For(ir.Var("once", extent=ir.ONE), ir.ONE, tuple(body), "parallel")]


def _define(definition: OpDef, op: Op, *index: ir.Expr) -> Reduce:
    return definition.define(op, index)


def _buffers_of(body: ir.Body) -> set[ir.Buffer]:
    """Every buffer that a body loads from or stores to."""
    found: set[ir.Buffer] = set()
    for stmt in ir.statements(body):
        if isinstance(stmt, ir.Store):
            found.add(stmt.buffer.root)
        found.update(e.buffer.root for top in ir.expressions(stmt) for e in ir.walk(top) if isinstance(e, ir.Load))
    return found


def _definition(node: Node) -> OpDef:
    definition = lookup(node.domain, node.op)
    if definition is None:
        raise VerificationError(f"{node} reached lowering without a definition")
    return definition


def _short(name: str, scope: str, number: int) -> str:
    """A readable, unique buffer name; the value's own name can be long and hold any character."""
    return f"{'y' if scope == 'output' else 'x'}{number}"
