"""Loads and stores of the emitter: vectors where an offset moves by one element per lane, shuffles or single elements where it does not."""

from __future__ import annotations

from collections.abc import Iterable

from ..ir import loops as ir
from . import arith
from . import llvm as ll
from .arith import I32, I64, splat
from .emit_state import Linear, State, is_one, is_zero, number
from .vecmath.value import suffix

_SHUFFLED_STEPS = (2, 3, 4)
"""Strides at which whole vectors are loaded and shuffled; at others each lane is loaded."""


class Memory(State):
    """Accesses of arguments, scratch and register buffers."""

    def address(self, buffer: ir.Buffer, offset: ll.Value) -> ll.Value:
        return self.builder.gep(self.buffers[buffer.root], [offset], source_etype=arith.memory_type(buffer.dtype))

    def register(self, buffer: ir.Buffer, index: tuple[ir.Expr, ...]) -> tuple[ll.Cell, bool]:
        """The cell of a register buffer's element, or of a whole vector of its last axis, and whether it is a vector."""
        numbers = [i.value for i in index[:-1] if isinstance(i, ir.Const)]
        last = index[-1]
        varying = self.varying(last)
        start = offset_of(last)
        if len(numbers) != len(index) - 1 or start is None:
            raise ValueError(f"register buffer {buffer.name!r} is indexed by something that is not constant after unrolling")
        key = (buffer, (*(int(n) for n in numbers), start))  # type: ignore[arg-type]
        cell = self.registers.get(key)
        if cell is None:
            element = arith.value_type(buffer.dtype)
            count = self.lanes.count if varying and self.lanes is not None else 1
            cell = self.stack(ll.VectorType(element, count) if count > 1 else element, buffer.name)
            self.registers[key] = cell
        return cell, varying

    def load(self, buffer: ir.Buffer, index: tuple[ir.Expr, ...]) -> ll.Value:
        b = self.builder
        if buffer.scope == "register":
            return b.load(self.register(buffer, index)[0])
        form = self.linear_form(buffer.offset(index)) if self.lanes is not None else None
        element = arith.memory_type(buffer.dtype)
        if form is None or is_zero(form.step):
            offset = form.base if form is not None else self.value(buffer.offset(index))
            raw = b.load(self.address(buffer, offset), typ=element)
        elif is_one(form.step):
            raw = self.vector_load(buffer, form.base)
        elif (
            number(form.step) in _SHUFFLED_STEPS and self.lanes is not None and self.lanes.count > 1 and self.lanes.mask is None
        ):
            raw = self.strided_load(buffer, form.base, number(form.step) or 0)
        elif form.step is None and (repeated := self.repeated_form(buffer.offset(index))) is not None:
            raw = self.repeated_load(buffer, *repeated)
        else:
            raw = self.gather(buffer, index, form)
        return arith.from_memory(b, raw, buffer.dtype)

    def vector_load(self, buffer: ir.Buffer, offset: ll.Value) -> ll.Value:
        assert self.lanes is not None
        b, element = self.builder, arith.memory_type(buffer.dtype)
        type_ = ll.VectorType(element, self.lanes.count)
        pointer = self.address(buffer, offset)
        alignment = buffer.dtype.itemsize
        if self.lanes.mask is None:
            return b.load(pointer, typ=type_, align=alignment)
        function = self.intrinsic(
            f"llvm.masked.load.{suffix(type_)}.p0", type_, [pointer.type, I32, self.lanes.mask.type, type_]
        )
        return b.call(function, [pointer, I32(alignment), self.lanes.mask, ll.Constant(type_, None)])

    def strided_load(self, buffer: ir.Buffer, offset: ll.Value, step: int) -> ll.Value:
        """Every ``step``-th element: whole vectors from the first element to the last, shuffled together."""
        assert self.lanes is not None
        b, count = self.builder, self.lanes.count
        span = (count - 1) * step + 1
        result = ll.Constant(ll.VectorType(arith.memory_type(buffer.dtype), count), ll.Undefined)
        for part in range(step):
            start = min(part * count, span - count)
            loaded = self.vector_load(buffer, b.add(offset, I64(start)))
            places = [count + i * step - start if i * step // count == part else i for i in range(count)]
            result = b.shuffle_vector(result, loaded, ll.Constant(ll.VectorType(I32, count), [I32(p) for p in places]))
        return result

    def repeated_form(self, e: ir.Expr) -> tuple[ll.Value, int] | None:
        """An index of the form start + lane // times, as the index of the first lane and ``times``."""
        assert self.lanes is not None
        match e:
            case ir.Binary("floordiv", ir.Var() as var, ir.Const(int() as times)) if var is self.lanes.var:
                whole = self.lanes.mask is None and 1 < times < self.lanes.count and self.lanes.count % times == 0
                return (self.builder.udiv(self.lanes.base, I64(times)), times) if whole else None
            case ir.Binary("add", x, y):
                for moving, still in ((x, y), (y, x)):
                    found = self.repeated_form(moving) if not self.varying(still) else None
                    if found is not None:
                        return self.builder.add(found[0], self.value(still)), found[1]
            case _:
                pass
        return None

    def repeated_load(self, buffer: ir.Buffer, start: ll.Value, times: int) -> ll.Value:
        """Each element ``times`` times: a part of a vector, its elements repeated. A vector loop starts at multiples of its lanes."""
        assert self.lanes is not None
        b, count = self.builder, self.lanes.count
        type_ = ll.VectorType(arith.memory_type(buffer.dtype), count // times)
        loaded = b.load(self.address(buffer, start), typ=type_, align=buffer.dtype.itemsize)
        places = ll.Constant(ll.VectorType(I32, count), [I32(i // times) for i in range(count)])
        return b.shuffle_vector(loaded, ll.Constant(type_, ll.Undefined), places)

    def gather(self, buffer: ir.Buffer, index: tuple[ir.Expr, ...], form: Linear) -> ll.Value:
        """One scalar load per active lane."""
        assert self.lanes is not None
        b, count, element = self.builder, self.lanes.count, arith.memory_type(buffer.dtype)
        offsets = self.offsets(buffer, index, form)
        result: ll.Value = ll.Constant(ll.VectorType(element, count), None)
        for lane in range(count):
            pointer = self.address(buffer, offsets[lane])
            if self.lanes.mask is None:
                result = b.insert_element(result, b.load(pointer, typ=element), I32(lane))
                continue
            before = b.block
            with b.if_then(b.extract_element(self.lanes.mask, I32(lane))):
                loaded = b.insert_element(result, b.load(pointer, typ=element), I32(lane))
                inside = b.block
            merged = b.phi(result.type)
            merged.add_incoming(result, before)
            merged.add_incoming(loaded, inside)
            result = merged
        return result

    def offsets(self, buffer: ir.Buffer, index: tuple[ir.Expr, ...], form: Linear) -> list[ll.Value]:
        """The offset of each lane."""
        assert self.lanes is not None
        b, count = self.builder, self.lanes.count
        if form.step is not None:
            return [b.add(form.base, b.mul(form.step, I64(lane))) for lane in range(count)]
        vector = splat(b, self.value(buffer.offset(index)), count)
        return [b.extract_element(vector, I32(lane)) for lane in range(count)]

    def store(self, buffer: ir.Buffer, index: tuple[ir.Expr, ...], value: ir.Expr) -> None:
        b = self.builder
        new = self.value(value)
        if buffer.scope == "register":
            cell, varying = self.register(buffer, index)
            b.store(splat(b, new, self.lanes.count) if varying and self.lanes is not None else new, cell)
            return
        raw = arith.to_memory(b, new, buffer.dtype)
        form = self.linear_form(buffer.offset(index)) if self.lanes is not None else None
        if form is None or (is_zero(form.step) and not isinstance(raw.type, ll.VectorType)):
            offset = form.base if form is not None else self.value(buffer.offset(index))
            b.store(raw, self.address(buffer, offset))
            return
        assert self.lanes is not None
        raw = splat(b, raw, self.lanes.count)
        if is_one(form.step):
            self.vector_store(buffer, form.base, raw)
        else:
            self.scatter(buffer, index, form, raw)

    def vector_store(self, buffer: ir.Buffer, offset: ll.Value, raw: ll.Value) -> None:
        assert self.lanes is not None
        b, pointer, alignment = self.builder, self.address(buffer, offset), buffer.dtype.itemsize
        if self.lanes.mask is None:
            b.store(raw, pointer, align=alignment)
            return
        types = [raw.type, pointer.type, I32, self.lanes.mask.type]
        function = self.intrinsic(f"llvm.masked.store.{suffix(raw.type)}.p0", ll.VoidType(), types)
        b.call(function, [raw, pointer, I32(alignment), self.lanes.mask])

    def prefetch(self, buffer: ir.Buffer, index: tuple[ir.Expr, ...], level: int) -> None:
        """A read of a line, in a vector loop that of the first lane, to be kept in cache ``level`` and those behind it."""
        form = self.linear_form(buffer.offset(index))
        if form.step is None:
            return
        pointer = self.address(buffer, form.base)
        if not self.builder.is_first(f"prefetch {level} {pointer.text}"):
            return
        function = self.intrinsic("llvm.prefetch.p0", ll.VoidType(), [pointer.type, I32, I32, I32])
        self.builder.call(function, [pointer, I32(0), I32(4 - level), I32(1)])

    def scatter(self, buffer: ir.Buffer, index: tuple[ir.Expr, ...], form: Linear, raw: ll.Value) -> None:
        assert self.lanes is not None
        b = self.builder
        offsets = self.offsets(buffer, index, form)
        for lane in range(self.lanes.count):
            pointer = self.address(buffer, offsets[lane])
            element = b.extract_element(raw, I32(lane))
            if self.lanes.mask is None:
                b.store(element, pointer)
                continue
            with b.if_then(b.extract_element(self.lanes.mask, I32(lane))):
                b.store(element, pointer)

    def intrinsic(self, name: str, result: ll.Type, arguments: Iterable[ll.Type]) -> ll.Function:
        module = self.builder.module
        found = module.globals.get(name)
        return found if found is not None else ll.Function(module, ll.FunctionType(result, list(arguments)), name)


def offset_of(e: ir.Expr) -> int | None:
    """The constant part of ``lane + constant`` or of a constant."""
    match e:
        case ir.Const(value):
            return int(value)  # type: ignore[arg-type]
        case ir.Var():
            return 0
        case ir.Binary("add", ir.Var(), ir.Const(value)):
            return int(value)  # type: ignore[arg-type]
        case _:
            return None
