"""The operator registry: what each ONNX operator computes, as one definition in loop IR, and what shape its outputs have.

A definition is one of these kinds; how loops are ordered, tiled, fused and vectorized is decided elsewhere, from the definition:

``pointwise``   one output; an element from the elements of the (broadcast) inputs at the same place: ``f(op, x, y) -> Expr``
``injective``   one or more outputs; the element at an output index from elements at computed indices: ``f(op, index) -> Expr``
``reduction``   one output; the element at an output index as a reduction over axes of its own: ``f(op, index) -> Reduce``
``nest``        anything else, as explicit loops: ``f(op, b)`` with a ``Builder``, reading ``op.input(i)`` and storing to ``op.output(i)``
``view``        the output is the input's memory under another shape (Reshape and its family)
``host``        control flow that data decides, strings, sequences, optionals, image files: Python on the host, reported as such
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Literal, TypeVar

from ...ir.graph import Type

Kind = Literal["pointwise", "injective", "reduction", "nest", "view", "shape", "host"]
Infer = Callable[[Any], "Type | Sequence[Type]"]
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class OpDef:
    """One operator. ``infer`` gives the output types from an ``InferContext``; ``values`` are the numbers of the inputs whose value, not
    only shape, must be known to plan (a Reshape's shape); ``prologue`` says that each input element is read about once, so that what
    makes it may be computed on the way in; ``epilogue`` that each element of output 0 is stored once, so that what follows may be
    computed on the way out."""

    op: str
    domain: str
    kind: Kind
    define: Callable[..., Any]
    infer: Infer
    values: tuple[int, ...] = ()
    prologue: bool = False
    epilogue: bool = False
    by_parts: bool = False
    """A reduction given as ``f(op) -> list[Part]``: the output is made of grids, each with a reduction of its own."""
    moves: bool = False
    """Transposed inputs are read where they are: a Transpose may be computed on the way in, though elements are read many times."""
    trims: Callable[[Any], Sequence[int | None]] | None = None
    """For outputs whose extent data decides: see ``specialize``."""


_OPS: dict[tuple[str, str], OpDef] = {}


def lookup(domain: str, op: str) -> OpDef | None:
    """The definition of an operator, or None; the standard domain is ``""``."""
    _load_all()
    return _OPS.get(("" if domain == "ai.onnx" else domain, op))


def is_supported(domain: str, op: str) -> bool:
    return lookup(domain, op) is not None


def all_ops() -> list[OpDef]:
    _load_all()
    return list(_OPS.values())


def _register(kind: Kind, names: tuple[str, ...], infer: Infer, domain: str, **options: Any) -> Callable[[F], F]:
    def add(define: F) -> F:
        for name in names:
            if (domain, name) in _OPS:
                raise ValueError(f"operator {name} is defined twice")
            _OPS[domain, name] = OpDef(name, domain, kind, define, infer, **options)
        return define

    return add


def pointwise(*names: str, infer: Infer | None = None, domain: str = "") -> Callable[[F], F]:
    """An elementwise operator with multidirectional broadcasting; by default the result has the dtype of the first input."""
    from .infer import broadcast

    return _register("pointwise", names, infer or broadcast, domain, prologue=True, epilogue=True)


def injective(
    *names: str, infer: Infer, values: tuple[int, ...] = (), domain: str = "", prologue: bool = True
) -> Callable[[F], F]:
    return _register("injective", names, infer, domain, values=values, prologue=prologue, epilogue=True)


def reduction(
    *names: str, infer: Infer, values: tuple[int, ...] = (), domain: str = "", prologue: bool = False, moves: bool = False
) -> Callable[[F], F]:
    return _register("reduction", names, infer, domain, values=values, prologue=prologue, epilogue=True, moves=moves)


def reduction_by_parts(*names: str, infer: Infer, domain: str = "") -> Callable[[F], F]:
    return _register("reduction", names, infer, domain, epilogue=True, by_parts=True)


def nest(
    *names: str,
    infer: Infer,
    values: tuple[int, ...] = (),
    domain: str = "",
    prologue: bool = False,
    epilogue: bool = False,
    moves: bool = False,
    trims: Callable[[Any], Sequence[int | None]] | None = None,
) -> Callable[[F], F]:
    options = {"values": values, "prologue": prologue, "epilogue": epilogue, "moves": moves, "trims": trims}
    return _register("nest", names, infer, domain, **options)


def view(*names: str, infer: Infer, values: tuple[int, ...] = (), domain: str = "") -> Callable[[F], F]:
    return _register("view", names, infer, domain, values=values)


def shape(*names: str, infer: Infer, domain: str = "") -> Callable[[F], F]:
    return _register("shape", names, infer, domain)


def host(*names: str, domain: str = "") -> Callable[[F], F]:
    """An operator that Python runs: ``f(node, inputs, call) -> outputs``. ``inputs`` has None for absent ones; ``call(body, arguments)``
    gives the outputs of a subgraph. What it gives is typed when it is there."""
    return _register("host", names, _not_inferred, domain)


def _not_inferred(context: Any) -> list[Type]:
    raise AssertionError(f"{context.node} runs on the host: its types are those of its values")


@cache
def _load_all() -> None:
    """Imports every module of this package, which is how operators are defined."""
    for module in iter_modules(import_module(str(__package__)).__path__):
        import_module(f"{__package__}.{module.name}")
