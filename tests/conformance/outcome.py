"""Running one case and saying in a few words how it went."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from tests.conformance.cases import Case, all_cases
from tests.conformance.compare import Mismatch, check_outputs
from tests.conformance.engines import Engine, loopnest

# How an UnsupportedOperatorError names what is missing: "ai.onnx Cast (opset 13, 2 x: ...)".
_MISSING = re.compile(r"([\w.]+) (\w+) \(opset ")

STATUSES = ("passed", "unsupported", "mismatch", "error", "crash", "timeout")


@dataclass(frozen=True)
class Outcome:
    """How a case went. `reason` is short and the same for cases that fail alike; `detail` is the whole story."""

    status: str
    reason: str = ""
    detail: str = ""

    @property
    def passed(self) -> bool:
        return self.status == "passed"


def run_case(case: Case, engine: Engine) -> Outcome:
    """Runs every data set of the case through the engine and compares."""
    model, data_sets = case.load()
    try:
        run = engine(model)
        for inputs, expected in data_sets:
            check_outputs(expected, list(run(inputs)), case.rtol, case.atol)
    except Exception as error:
        return describe(error)
    return Outcome("passed")


def run_loopnest(case: str) -> Outcome:
    """`run_case` by id, through loopnest."""
    return run_case(all_cases()[case], loopnest)


def describe(error: Exception) -> Outcome:
    """What an exception means for the case that raised it."""
    detail = f"{type(error).__name__}: {error}"
    if isinstance(error, Mismatch):
        return Outcome("mismatch", f"{error.what} differs", detail)
    if isinstance(error, NotImplementedError):
        missing = sorted({_qualified(domain, name) for domain, name in _MISSING.findall(detail)})
        what = f"operators not supported: {', '.join(missing)}" if missing else _first_line(detail)
        return Outcome("unsupported", what, detail)
    return Outcome("error", _first_line(detail), detail)


def _qualified(domain: str, operator: str) -> str:
    return operator if domain in ("", "ai.onnx") else f"{domain}.{operator}"


def _first_line(text: str) -> str:
    """The first line without what differs between like failures: names in quotes and numbers."""
    line = next(iter(text.strip().splitlines()), "")
    line = re.sub(r"'[^']*'|\"[^\"]*\"|`[^`]*`", "'...'", line)
    return re.sub(r"\d+", "N", line)[:160]


def operators(model: onnx.ModelProto) -> list[str]:
    """Operator type of every node, subgraphs and model-local functions included; prefixed by its domain if not ai.onnx."""
    names = list(_graph_operators(model.graph.node))
    for function in model.functions:
        names.extend(_graph_operators(function.node))
    return names


def _graph_operators(nodes: object) -> Iterator[str]:
    for node in nodes:  # type: ignore[attr-defined]
        yield _qualified(node.domain, node.op_type)
        for attribute in node.attribute:
            for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _graph_operators(graph.node)
