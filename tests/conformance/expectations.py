"""The checked-in list of the cases that do not pass yet: groups of a reason and case ids. It only shrinks."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

PATH = Path(__file__).with_name("expected_failures.toml")

HEADER = """\
# Cases of ONNX's backend suite that do not pass yet, grouped by reason. A listed case that passes fails the run.
# Written by `python -m tests.conformance --update`, which keeps a group with `pinned = true` as it is (less what passes).
"""


@dataclass(frozen=True)
class Group:
    """Cases (ids like "node/test_abs") that fail for one reason; `pinned` if a person wrote the reason."""

    reason: str
    cases: tuple[str, ...]
    pinned: bool = False


def read(path: Path = PATH) -> list[Group]:
    if not path.exists():
        return []
    groups = tomllib.loads(path.read_text()).get("group", [])
    return [Group(group["reason"], tuple(group["cases"]), group.get("pinned", False)) for group in groups]


def by_case(groups: Iterable[Group]) -> dict[str, str]:
    """Case id -> reason. ValueError if a case is listed twice."""
    reasons: dict[str, str] = {}
    for group in groups:
        for case in group.cases:
            if case in reasons:
                raise ValueError(f"{case} is listed twice: {reasons[case]!r} and {group.reason!r}")
            reasons[case] = group.reason
    return reasons


def updated(groups: Iterable[Group], ran: Iterable[str], failures: Mapping[str, str]) -> list[Group]:
    """The list after a run: the cases in `ran` are listed if and only if `failures` (id -> reason) has them, pinned reasons
    stay, and cases that did not run stay as they are. Largest groups first."""
    ran = set(ran)
    pinned: set[str] = set()
    reasons: dict[tuple[bool, str], set[str]] = {}
    for group in groups:
        for case in group.cases:
            if case not in ran or (group.pinned and case in failures):
                reasons.setdefault((group.pinned, group.reason), set()).add(case)
                pinned.add(case)
    for case, reason in failures.items():
        if case not in pinned:
            reasons.setdefault((False, reason), set()).add(case)
    result = [Group(reason, tuple(sorted(cases)), is_pinned) for (is_pinned, reason), cases in reasons.items()]
    return sorted(result, key=lambda group: (-len(group.cases), group.reason))


def write(groups: Iterable[Group], path: Path = PATH) -> None:
    parts = [HEADER]
    for group in groups:
        pinned = "pinned = true\n" if group.pinned else ""
        cases = "".join(f"    {_quoted(case)},\n" for case in group.cases)
        parts.append(f"[[group]]\nreason = {_quoted(group.reason)}\n{pinned}cases = [\n{cases}]\n")
    path.write_text("\n".join(parts))


def _quoted(text: str) -> str:
    """A TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped) + '"'
