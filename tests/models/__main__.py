"""`python -m tests.models`: how far loopnest is from ONNX Runtime on real models, and what these models are made of."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

import click
import onnx

from tests.conformance.outcome import operators
from tests.models.catalog import Model, all_models
from tests.models.judge import ENGINES, judge


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1)
@click.option("--threads", type=int, default=1, show_default=True)
@click.option("--engine", type=click.Choice(sorted(ENGINES)), default="loopnest", show_default=True)
@click.option("--list", "only_list", is_flag=True, help="Print inputs and operators of the models, run nothing.")
def main(names: tuple[str, ...], threads: int, engine: str, only_list: bool) -> None:
    """Judge the models whose name contains one of NAMES (all without): error, seconds, ok or what is wrong."""
    models = [model for model in all_models().values() if not names or any(name in model.name for name in names)]
    if only_list:
        _list(models)
        return
    failed = 0
    for model in models:
        reason = model.missing()
        if reason:
            print(f"{model.name:24} skipped: {reason}")
            continue
        failed += not _judge(model, engine, threads)
    sys.exit(bool(failed))


def _judge(model: Model, engine: str, threads: int) -> bool:
    try:
        started = time.monotonic()
        run = ENGINES[engine](model.load(), threads)
        verdicts = judge(model, run)
    except Exception as error:
        print(f"{model.name:24} FAILED {type(error).__name__}: {error}", flush=True)
        return False
    print(f"{model.name:24} {time.monotonic() - started:6.1f} s", flush=True)
    for verdict in verdicts:
        print(f"    {verdict.scenario:20} {verdict.error:.2e}  {'ok' if verdict.ok else 'FAILED'}")
        for problem in verdict.problems:
            print(f"        {problem}")
    return all(verdict.ok for verdict in verdicts)


def _list(models: list[Model]) -> None:
    total: Counter[str] = Counter()
    used_by: Counter[str] = Counter()
    for model in models:
        if model.missing():
            continue
        source = model.load()
        proto = onnx.load(source, load_external_data=False) if isinstance(source, Path) else source
        count = Counter(operators(proto))
        total += count
        used_by.update(count.keys())
        initialized = {tensor.name for tensor in proto.graph.initializer}
        opsets = ", ".join(f"{opset.domain or 'ai.onnx'} {opset.version}" for opset in proto.opset_import)
        print(f"{model.name}: {opsets}; {count.total()} nodes")
        for kind, values in (("in ", proto.graph.input), ("out", proto.graph.output)):
            print(f"    {kind}", *(_declared(value) for value in values if value.name not in initialized))
        print("    ops", ", ".join(f"{name} {n}" for name, n in count.most_common()))
    print("\noperator, nodes, models")
    for name, n in total.most_common():
        print(f"{name:32}{n:6}{used_by[name]:5}")


def _declared(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    extents = [dim.dim_param or str(dim.dim_value) if dim.WhichOneof("value") else "?" for dim in tensor.shape.dim]
    return f"{value.name}:{onnx.TensorProto.DataType.Name(tensor.elem_type).lower()}[{','.join(extents)}]"


if __name__ == "__main__":
    main()
