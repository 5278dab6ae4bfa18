"""LLVM's assembly language, written line by line: types and values that know their text, functions of blocks, a builder.

The names are those of ``llvmlite.ir``, of which this is the part that kernels need. There an instruction is an object that is printed
when the module is; here it is its text from the start, and a value is a type and a name, which takes a fraction of the time.
Equal types are one object.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar, TypeVar

UNROLLED = "llvm.loop.unroll.count"
"""What a loop is called that is unrolled after all else."""

# --- types ------------------------------------------------------------------------------------------------------------------------


class Type:
    """``text`` is how LLVM writes it. Calling a type makes a constant of it."""

    __slots__ = ("text",)
    text: str
    _known: ClassVar[dict[str, Type]] = {}

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__

    def __call__(self, value: object) -> Constant:
        return Constant(self, value)


class IntType(Type):
    """An integer of ``width`` bits."""

    __slots__ = ("width",)
    width: int

    def __new__(cls, width: int) -> IntType:
        return _type(cls, f"i{width}", width=width)


class FloatType(Type):
    __slots__ = ()

    def __new__(cls) -> FloatType:
        return _type(cls, "float")


class DoubleType(Type):
    __slots__ = ()

    def __new__(cls) -> DoubleType:
        return _type(cls, "double")


class HalfType(Type):
    __slots__ = ()

    def __new__(cls) -> HalfType:
        return _type(cls, "half")


class PointerType(Type):
    __slots__ = ()

    def __new__(cls) -> PointerType:
        return _type(cls, "ptr")


class VoidType(Type):
    __slots__ = ()

    def __new__(cls) -> VoidType:
        return _type(cls, "void")


class VectorType(Type):
    """``count`` lanes of ``element``."""

    __slots__ = ("count", "element")
    element: Type
    count: int

    def __new__(cls, element: Type, count: int) -> VectorType:
        return _type(cls, f"<{count} x {element.text}>", element=element, count=count)


class FunctionType(Type):
    __slots__ = ("args", "return_type")
    return_type: Type
    args: tuple[Type, ...]

    def __new__(cls, return_type: Type, args: Sequence[Type]) -> FunctionType:
        text = f"{return_type} ({', '.join(a.text for a in args)})"
        return _type(cls, text, return_type=return_type, args=tuple(args))


T = TypeVar("T", bound=Type)


def _type(cls: type[T], text: str, **attributes: object) -> T:
    found = Type._known.get(text)  # pyright: ignore[reportPrivateUsage]
    if found is None:
        made = object.__new__(cls)
        made.text = text
        for name, value in attributes.items():
            setattr(made, name, value)
        found = Type._known.setdefault(text, made)  # pyright: ignore[reportPrivateUsage]
    assert isinstance(found, cls)
    return found


# --- values -----------------------------------------------------------------------------------------------------------------------


class Value:
    """``text`` is how an instruction of the same function refers to it."""

    __slots__ = ("text", "type")

    def __init__(self, type_: Type, text: str) -> None:
        self.type = type_
        self.text = text

    def __str__(self) -> str:
        return f"{self.type.text} {self.text}"

    def at_end(self, block: Block) -> str:
        """How what follows ``block`` refers to it."""
        return self.text


class Undefined:
    """The value of a constant that may be anything."""


class Constant(Value):
    """A number; None for zero; ``Undefined``; of a vector, a sequence of numbers or constants, one for each lane."""

    __slots__ = ("constant",)

    def __init__(self, type_: Type, value: object) -> None:
        self.type = type_
        self.constant = value
        self.text = _constant(type_, value)


def _constant(type_: Type, value: object) -> str:
    if value is Undefined:
        return "undef"
    if isinstance(type_, VectorType):
        if value is None:
            return "zeroinitializer"
        assert isinstance(value, Sequence)
        lanes = (v if isinstance(v, Constant) else Constant(type_.element, v) for v in value)
        return f"<{', '.join(f'{type_.element.text} {v.text}' for v in lanes)}>"
    if isinstance(type_, IntType):
        return str(int(0 if value is None else value))  # type: ignore[call-overload]
    number = float(0.0 if value is None else value)  # type: ignore[arg-type]
    if isinstance(type_, FloatType):
        (number,) = struct.unpack("<f", struct.pack("<f", number))
    (bits,) = struct.unpack("<Q", struct.pack("<d", number))
    return f"0x{bits:016x}"


class Cell(Value):
    """The address of a variable of type ``holds`` on the stack."""

    __slots__ = ("holds",)

    def __init__(self, holds: Type, text: str) -> None:
        super().__init__(PointerType(), text)
        self.holds = holds


class Phi(Value):
    """A value that depends on the block from which control came."""

    __slots__ = ("_incoming",)

    def __init__(self, type_: Type, text: str) -> None:
        super().__init__(type_, text)
        self._incoming: list[str] = []

    def add_incoming(self, value: Value, block: Block) -> None:
        self._incoming.append(f"[ {value.at_end(block)}, %{block.name} ]")

    def line(self) -> str:
        return f"{self.text} = phi {self.type.text} {', '.join(self._incoming)}"


# --- modules ----------------------------------------------------------------------------------------------------------------------


class Module:
    """Functions by name; its string is its text. ``fused``: it is for a target with fused multiply-add."""

    def __init__(self, name: str = "", *, fused: bool = False) -> None:
        self.name = name
        self.fused = fused
        self.globals: dict[str, Function] = {}

    def __str__(self) -> str:
        text = "\n".join([f"; {self.name}", *map(str, self.globals.values()), _METADATA])
        return text + "".join(_times(times) for times in (2, 3, 4, 8) if _at_last(times) in text)


_METADATA = """
!0 = distinct !{!0, !1}
!1 = !{!"llvm.loop.unroll.disable"}
!2 = !{!"branch_weights", i32 1, i32 99}
"""
"""What branches say: that a loop is not to be unrolled (whose node names itself first: LLVM Language Reference, 'llvm.loop'), and that what
follows is unlikely."""
_ROLLED, _UNLIKELY = ", !llvm.loop !0", ", !prof !2"


def _at_last(times: int) -> str:
    """What the branch of a loop says of which ``times`` iterations become one."""
    return f", !llvm.loop !{2 * times}"


def _times(times: int) -> str:
    return f'!{2 * times} = distinct !{{!{2 * times}, !{2 * times + 1}}}\n!{2 * times + 1} = !{{!"{UNROLLED}", i32 {times}}}\n'


class Argument(Value):
    """A parameter of a function; ``name`` may be set before it is used."""

    __slots__ = ("attributes",)

    def __init__(self, type_: Type, text: str) -> None:
        super().__init__(type_, text)
        self.attributes: list[str] = []

    def add_attribute(self, attribute: str) -> None:
        self.attributes.append(attribute)

    def line(self) -> str:
        return " ".join([self.type.text, *self.attributes, self.text])


class Function(Value):
    """A function of a module: declared, and defined once it has a block."""

    __slots__ = ("_names", "args", "attributes", "blocks", "first", "kind", "linkage", "module", "name")

    def __init__(self, module: Module, kind: FunctionType, name: str) -> None:
        super().__init__(PointerType(), f"@{symbol(name)}")
        self.module = module
        self.kind = kind
        self.name = name
        self.linkage = ""
        self.attributes: set[str] = set()
        self.blocks: list[Block] = []
        self.first: list[str] = []
        """Lines before those of the first block."""
        self._names = 0
        self.args = [Argument(type_, self.unique("arg")) for type_ in kind.args]
        module.globals[name] = self

    def unique(self, name: str = "") -> str:
        """A name for a value that no other value or block of the function has."""
        self._names += 1
        return f"%{symbol(f'{name}.{self._names}')}" if name else f"%v{self._names}"

    def append_basic_block(self, name: str = "block") -> Block:
        block = Block(self, self.unique(name)[1:])
        self.blocks.append(block)
        return block

    @property
    def instructions(self) -> int:
        return sum(len(block.lines) for block in self.blocks)

    def __str__(self) -> str:
        attributes = " ".join(sorted(self.attributes))
        head = f"{self.kind.return_type.text} {self.text}"
        if not self.blocks:
            return f"declare {head}({', '.join(a.type.text for a in self.args)}) {attributes}"
        lines = [f"define {self.linkage} {head}({', '.join(a.line() for a in self.args)}) {attributes} {{"]
        for block in self.blocks:
            lines.append(f"{block.name}:")
            if block is self.blocks[0]:
                lines += self.first
            lines += [line if isinstance(line, str) else line.line() for line in block.lines]
        return "\n".join([*lines, "}"])


class Block:
    """Instructions of which the last, once it is ``terminated``, leads to other blocks."""

    __slots__ = ("above", "function", "known", "lines", "name", "terminated")

    def __init__(self, function: Function, name: str) -> None:
        self.function = function
        self.name = name
        self.lines: list[str | Phi] = []
        self.terminated = False
        self.known: dict[str, Value] = {}
        """What a builder that numbers values has computed here, by the instruction."""
        self.above: Block | None = None
        """A block through which every way here leads, as far as such a builder knows."""


_PLAIN = re.compile(r"[-a-zA-Z$._][-a-zA-Z$._0-9]*")


def symbol(name: str) -> str:
    """A name as LLVM writes it: in quotes where it has unusual characters."""
    if _PLAIN.fullmatch(name):
        return name
    return (
        '"'
        + "".join(c if 32 <= ord(c) < 127 and c not in '"\\' else "".join(f"\\{b:02x}" for b in c.encode()) for c in name)
        + '"'
    )


# --- instructions -----------------------------------------------------------------------------------------------------------------

_SIGNED = {"==": "eq", "!=": "ne", "<": "slt", "<=": "sle", ">": "sgt", ">=": "sge"}
_UNSIGNED = {"==": "eq", "!=": "ne", "<": "ult", "<=": "ule", ">": "ugt", ">=": "uge"}
_FLOAT = {"==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
_TRUTH = IntType(1)


def _operation(op: str):  # the type is that of the function inside, with its default
    """An instruction on two operands of one type, whose type the result has."""

    def instruction(self: IRBuilder, lhs: Value, rhs: Value, flags: Sequence[str] = ()) -> Value:
        words = f"{op} {' '.join(flags)}" if flags else op
        return self.insert(lhs.type, f"{words} {lhs.type.text} {lhs.text}, {rhs.text}")

    return instruction


def _cast(op: str):
    """An instruction that converts to another type."""

    def instruction(self: IRBuilder, value: Value, type_: Type) -> Value:
        return value if value.type is type_ else self.insert(type_, f"{op} {value.type.text} {value.text} to {type_.text}")

    return instruction


class IRBuilder:
    """Appends instructions to ``block``."""

    def __init__(self, block: Block) -> None:
        self.block = block

    @property
    def function(self) -> Function:
        return self.block.function

    @property
    def module(self) -> Module:
        return self.block.function.module

    def insert(self, type_: Type, text: str, name: str = "") -> Value:
        """An instruction without its result's name; the result is a value of ``type_``."""
        value = Value(type_, self.block.function.unique(name))
        self.block.lines.append(f"{value.text} = {text}")
        return value

    add, sub, mul = _operation("add"), _operation("sub"), _operation("mul")
    udiv, sdiv, urem, srem = _operation("udiv"), _operation("sdiv"), _operation("urem"), _operation("srem")
    and_, or_, xor = _operation("and"), _operation("or"), _operation("xor")
    shl, lshr, ashr = _operation("shl"), _operation("lshr"), _operation("ashr")
    fadd, fsub, fmul, fdiv = _operation("fadd"), _operation("fsub"), _operation("fmul"), _operation("fdiv")
    trunc, zext, sext, bitcast = _cast("trunc"), _cast("zext"), _cast("sext"), _cast("bitcast")
    fptrunc, fpext = _cast("fptrunc"), _cast("fpext")
    fptosi, fptoui, sitofp, uitofp = _cast("fptosi"), _cast("fptoui"), _cast("sitofp"), _cast("uitofp")

    def fneg(self, value: Value) -> Value:
        return self.insert(value.type, f"fneg {value}")

    def not_(self, value: Value) -> Value:
        ones = Constant(value.type, [-1] * value.type.count if isinstance(value.type, VectorType) else -1)
        return self.xor(value, ones)

    def icmp_signed(self, op: str, lhs: Value, rhs: Value) -> Value:
        return self._compare(f"icmp {_SIGNED[op]}", lhs, rhs)

    def icmp_unsigned(self, op: str, lhs: Value, rhs: Value) -> Value:
        return self._compare(f"icmp {_UNSIGNED[op]}", lhs, rhs)

    def fcmp_ordered(self, op: str, lhs: Value, rhs: Value) -> Value:
        return self._compare(f"fcmp {'ord' if op == 'ord' else 'o' + _FLOAT[op]}", lhs, rhs)

    def fcmp_unordered(self, op: str, lhs: Value, rhs: Value) -> Value:
        return self._compare(f"fcmp {'uno' if op == 'uno' else 'u' + _FLOAT[op]}", lhs, rhs)

    def _compare(self, op: str, lhs: Value, rhs: Value) -> Value:
        type_ = VectorType(_TRUTH, lhs.type.count) if isinstance(lhs.type, VectorType) else _TRUTH
        return self.insert(type_, f"{op} {lhs.type.text} {lhs.text}, {rhs.text}")

    def select(self, condition: Value, lhs: Value, rhs: Value) -> Value:
        return self.insert(lhs.type, f"select {condition}, {lhs}, {rhs}")

    def extract_element(self, vector: Value, index: Value) -> Value:
        assert isinstance(vector.type, VectorType)
        return self.insert(vector.type.element, f"extractelement {vector}, {index}")

    def insert_element(self, vector: Value, value: Value, index: Value) -> Value:
        return self.insert(vector.type, f"insertelement {vector}, {value}, {index}")

    def shuffle_vector(self, first: Value, second: Value, places: Value) -> Value:
        assert isinstance(first.type, VectorType) and isinstance(places.type, VectorType)
        type_ = VectorType(first.type.element, places.type.count)
        return self.insert(type_, f"shufflevector {first}, {second}, {places}")

    def alloca(self, type_: Type, name: str = "cell") -> Cell:
        """A variable, made once per call of the function wherever the builder is."""
        cell = Cell(type_, self.function.unique(name))
        self.function.first.append(f"{cell.text} = alloca {type_.text}")
        return cell

    def load(self, address: Value, name: str = "", align: int | None = None, typ: Type | None = None) -> Value:
        if typ is None:
            assert isinstance(address, Cell)
            typ = address.holds
        return self.insert(typ, f"load {typ.text}, ptr {address.text}{f', align {align}' if align else ''}", name)

    def load_first(self, pointer: Value, place: int, type_: Type, name: str) -> Value:
        """Element ``place`` of the array at ``pointer``, an argument; loaded when the function begins, wherever the builder is."""
        address, value = self.function.unique(), Value(type_, self.function.unique(name))
        self.function.first += [
            f"{address} = getelementptr {type_.text}, ptr {pointer.text}, i64 {place}",
            f"{value.text} = load {type_.text}, ptr {address}",
        ]
        return value

    def store(self, value: Value, address: Value, align: int | None = None) -> None:
        self.block.lines.append(f"store {value}, ptr {address.text}{f', align {align}' if align else ''}")

    def gep(self, pointer: Value, indices: Sequence[Value], *, source_etype: Type) -> Value:
        places = ", ".join(map(str, indices))
        return self.insert(pointer.type, f"getelementptr {source_etype.text}, ptr {pointer.text}, {places}")

    def call(self, function: Function, arguments: Sequence[Value]) -> Value:
        type_ = function.kind.return_type
        text = f"call {type_.text} {function.text}({', '.join(map(str, arguments))})"
        if isinstance(type_, VoidType):
            self.block.lines.append(text)
            return Value(type_, "")
        return self.insert(type_, text)

    def phi(self, type_: Type, name: str = "phi") -> Phi:
        phi = Phi(type_, self.function.unique(name))
        self.block.lines.append(phi)
        return phi

    # --- control flow

    def append_basic_block(self, name: str = "block") -> Block:
        return self.function.append_basic_block(name)

    def position_at_end(self, block: Block) -> None:
        self.block = block

    def ret(self, value: Value) -> None:
        self._end(f"ret {value}")

    def ret_void(self) -> None:
        self._end("ret void")

    def branch(self, target: Block) -> None:
        self._end(f"br label %{target.name}")

    def cbranch(
        self, condition: Value, then: Block, orelse: Block, *, rolled: bool = False, times: int = 1, unlikely: bool = False
    ) -> None:
        """``rolled``: the loop that this branch closes is not to be unrolled, but for 2 to 8 ``times`` after all else (``objects``);
        ``unlikely``: ``condition`` seldom holds."""
        loop = _at_last(times) if times > 1 else _ROLLED if rolled else ""
        metadata = loop + (_UNLIKELY if unlikely else "")
        self._end(f"br {condition}, label %{then.name}, label %{orelse.name}{metadata}")

    def _end(self, text: str) -> None:
        assert not self.block.terminated
        self.block.lines.append(text)
        self.block.terminated = True

    @contextmanager
    def if_then(self, condition: Value, *, unlikely: bool = False) -> Generator[Block]:
        """What is emitted inside runs where ``condition`` holds. Gives the block after it."""
        then, after = self.append_basic_block("then"), self.append_basic_block("after")
        self.cbranch(condition, then, after, unlikely=unlikely)
        with self._branch(then, after):
            yield after
        self.position_at_end(after)

    @contextmanager
    def if_else(self, condition: Value) -> Generator[tuple[AbstractContextManager[None], AbstractContextManager[None]]]:
        """Two contexts: for where ``condition`` holds, and for where it does not."""
        then, orelse, after = (self.append_basic_block(name) for name in ("then", "else", "after"))
        self.cbranch(condition, then, orelse)
        yield self._branch(then, after), self._branch(orelse, after)
        self.position_at_end(after)

    @contextmanager
    def _branch(self, block: Block, after: Block) -> Generator[None]:
        self.position_at_end(block)
        yield
        if not self.block.terminated:
            self.branch(after)
