"""`python -m benchmarks.overhead`: what a call costs besides computing, with a model of one input, one output and sixteen elements."""

from __future__ import annotations

import timeit
from collections.abc import Callable, Mapping
from typing import Any

import click
import numpy as np
import onnx
import onnx.helper as oh
import onnxruntime as ort

import loopnest
from benchmarks.tables import rows

TARGET = 3.0
"""Microseconds that a call may take."""


def model() -> onnx.ModelProto:
    """y = -x"""
    x, y = (oh.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [16]) for name in "xy")
    graph = oh.make_graph([oh.make_node("Neg", ["x"], ["y"])], "negative", [x], [y])
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 21)], ir_version=10)


def calls() -> dict[str, Callable[[], Any]]:
    """Ways to call that model, by name."""
    x = np.arange(16, dtype=np.float32)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model().SerializeToString(), options, providers=["CPUExecutionProvider"])
    f = loopnest.compile(model(), threads=1)
    return {
        "f(x)": lambda: f(x),
        'f.run(None, {"x": x})': lambda: f.run(None, {"x": x}),
        "f.bind(x)()": f.bind(x),
        "ONNX Runtime's run": lambda: session.run(None, {"x": x}),
    }


def microseconds(ways: Mapping[str, Callable[[], Any]], number: int, rounds: int) -> dict[str, float]:
    """The shortest time of one call in rounds of `number` calls, in which all ways take turns."""
    found = [{name: timeit.timeit(call, number=number) / number * 1e6 for name, call in ways.items()} for _ in range(rounds)]
    return {name: min(each[name] for each in found) for name in ways}


@click.command()
@click.option("--number", default=20_000, show_default=True, help="Calls in a row.")
@click.option("--rounds", default=9, show_default=True)
def main(number: int, rounds: int) -> None:
    """Time calls that compute next to nothing."""
    found = microseconds(calls(), number, rounds)
    click.echo("\n".join(rows(["call", "microseconds"], [[f"`{name}`", f"{time:.2f}"] for name, time in found.items()])))
    click.echo(f"a call may take {TARGET:.0f}: {'met' if found['f(x)'] < TARGET else 'not met'}")


if __name__ == "__main__":
    main()
