"""Frozen records behave as frozen dataclasses do, next to one."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from typing import Any

import pytest

from loopnest.ir.frozen import Frozen


class Point(Frozen):
    x: int
    y: int = 2
    z: tuple[Any, ...] = ()


class Other(Frozen):
    x: int
    y: int = 2
    z: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Peer:
    x: int
    y: int = 2
    z: tuple[Any, ...] = ()


CALLS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((1,), {}),
    ((1, 3), {"z": (4, 5)}),
    ((), {"x": 1, "z": (1, "a")}),
    ((1, 2, ()), {}),
    ((), {}),
    ((1, 2, 3, 4), {}),
    ((1,), {"x": 1}),
    ((1,), {"w": 1}),
    ((), {"y": 1}),
]


@pytest.mark.parametrize("values, named", CALLS)
def test_as_a_dataclass(values: tuple[Any, ...], named: dict[str, Any]) -> None:
    try:
        peer = Peer(*values, **named)
    except TypeError:
        with pytest.raises(TypeError, match="Point has the fields x, y, z"):
            Point(*values, **named)
        return
    point = Point(*values, **named)
    assert repr(point) == repr(peer).replace("Peer", "Point")
    assert point.to_dict() == asdict(peer)
    assert point.replace(y=7).to_dict() == asdict(replace(peer, y=7))
    for same in (Point(*values, **named), copy.copy(point), copy.deepcopy(point)):
        assert same == point
        assert hash(same) == hash(point)
    assert point != point.replace(x=8)
    assert point != Other(*values, **named)
    assert point != peer


def test_it_is_frozen() -> None:
    point = Point(1)
    with pytest.raises(AttributeError, match="Point is frozen: x cannot be set"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match="Point is frozen: x cannot be deleted"):
        del point.x
    with pytest.raises(TypeError, match="has the fields"):
        point.replace(w=1)
    with pytest.raises(TypeError):
        hash(Point(1, z=([],)))


def test_records_in_records_are_dicts() -> None:
    assert Point(1, z=(Point(3), "a")).to_dict() == {"x": 1, "y": 2, "z": ({"x": 3, "y": 2, "z": ()}, "a")}
