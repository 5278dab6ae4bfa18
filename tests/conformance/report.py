"""docs/conformance.md: what passes, what does not and why, generated from a run."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx

from tests.conformance.expectations import Group
from tests.conformance.outcome import STATUSES, Outcome

PATH = Path(__file__).parents[2] / "docs" / "conformance.md"

# Node cases passed by others, onnx 1.23.2, values without a NumPy dtype passed as ml_dtypes arrays. The first three were measured with
# onnx's own runner, which passes some inputs as NumPy scalars that these APIs refuse; the others with this package.
OTHERS = (
    ("ONNX Runtime 1.31, onnx's own runner", 1346),
    ("OpenVINO 2026.4, onnx's own runner", 1373),
    ("ONNX's reference (NumPy, not a compiler), onnx's own runner", 1867),
    ("ONNX Runtime 1.31.1, `--engine onnxruntime`", 1398),
    ("loopnest for AArch64 in an emulator, `--engine neon`", 1876),
)


def counts(outcomes: Mapping[str, Outcome]) -> dict[str, Counter[str]]:
    """Kind of case -> status -> how many."""
    result: dict[str, Counter[str]] = {}
    for case, outcome in outcomes.items():
        result.setdefault(case.partition("/")[0], Counter())[outcome.status] += 1
    return result


def summary_rows(outcomes: Mapping[str, Outcome]) -> list[list[str]]:
    """A header and one row a kind, then the sum."""
    per_kind = counts(outcomes)
    total: Counter[str] = sum(per_kind.values(), Counter())
    rows = [["kind", "cases", *STATUSES]]
    for kind, count in [*per_kind.items(), ("all", total)]:
        rows.append([kind, str(count.total()), *(str(count[status]) for status in STATUSES)])
    return rows


def as_text(rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def as_markdown(rows: list[list[str]]) -> str:
    head, *body = rows
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *body])


def _cell(text: str) -> str:
    return textwrap.shorten(text, 110, placeholder=" ...").replace("|", "\\|")


def write(outcomes: Mapping[str, Outcome], groups: Iterable[Group], path: Path = PATH) -> None:
    passed = counts(outcomes)["node"]["passed"]
    total = counts(outcomes)["node"].total()
    others = [["engine", "node cases passed"], ["**loopnest**", f"**{passed}**"], *([name, str(n)] for name, n in OTHERS)]
    reasons = [["reason", "cases"], *([_cell(group.reason), str(len(group.cases))] for group in groups)]
    path.write_text(f"""\
# Conformance

ONNX's official backend suite (onnx {onnx.__version__}) run through `loopnest.backend`. This page is written by
`python -m tests.conformance --update`; do not edit it.

{as_markdown(summary_rows(outcomes))}

A case passes if every output has the expected dtype and shape, floats within the case's own tolerance (most: 1e-3
relative, 1e-7 absolute), NaN and inf where expected, and integers, booleans and strings equal. *unsupported*: an
`UnsupportedOperatorError` named what is missing before anything ran.

## Beside others

Node cases of {total}. The figures of the other engines were measured once, with onnx 1.23.2, each through its Python API and
values without a NumPy dtype passed as ml_dtypes arrays. onnx's own runner passes some inputs as NumPy scalars, which ONNX Runtime
refuses; here every tensor is passed as an array, which explains the two figures of ONNX Runtime.

{as_markdown(others)}

## What does not pass yet

`tests/conformance/expected_failures.toml` names each of these cases. A listed case that passes fails the test run, and so
does an unlisted one that fails.

{as_markdown(reasons)}

## Commands

    python -m tests.conformance                        # run all, print the summary and what differs from the list
    python -m tests.conformance --filter conv -v       # cases whose id contains "conv", with the reason of each failure
    python -m tests.conformance --op Conv              # cases whose model has the operator
    python -m tests.conformance --update               # run all, then rewrite the list and this page
    python -m tests.conformance --engine onnxruntime   # the same suite and rules through another engine
    pytest tests/conformance -n 2                      # one test a case
""")
