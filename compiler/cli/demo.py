"""``loopnest demo``: ResNet-50 (or another network) from the onnx package, compiled, checked and timed."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import click
import numpy as np
from rich.console import Console

from ...ir.errors import LoopnestError
from ..accuracy import difference
from .bench import interleave
from .options import showing_progress, stopwatch

TOLERANCE = 1e-4
MODELS = (
    "resnet50", "densenet121", "vgg19", "inception_v1", "inception_v2", "squeezenet", "shufflenet", "bvlc_alexnet", "zfnet512",
)  # fmt: skip


def light_model(name: str) -> tuple[Path, Path]:
    """The model ``name`` of ``MODELS`` inside the onnx package, and the file of its expected output."""
    import onnx

    stem = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}"
    return stem.with_name(stem.name + ".onnx"), stem.with_name(stem.name + "_output_0.pb")


def expected_output(path: Path) -> np.ndarray:
    import onnx

    tensor = onnx.TensorProto()
    tensor.ParseFromString(path.read_bytes())
    return onnx.numpy_helper.to_array(tensor)


def ramp(shape: tuple[int, ...]) -> np.ndarray:
    """The input that the expected outputs were made with: 0 to 1 in equal steps, float32."""
    count = int(np.prod(shape))
    return (np.arange(count).reshape(shape) / count).astype(np.float32)


@click.command("demo")
@click.option("--model", "name", type=click.Choice(MODELS), default="resnet50", show_default=True, help="Which network.")
@click.option("--threads", type=click.IntRange(1), help="Worker threads; default: the CPUs this process may use.")
@click.option("--target", default="cpu", show_default=True, help="Instruction set to generate code for.")
@click.option("--seconds", default=2.0, show_default=True, help="Time to measure for.")
def command(name: str, threads: int | None, target: str, seconds: float) -> None:
    """Compile a network that comes with the onnx package, check it against the output shipped beside it, and time it."""
    from .. import api

    console = Console(soft_wrap=True, highlight=False)
    model, output = light_model(name)
    with showing_progress(), stopwatch() as first:
        function = api.compile(model, target=target, threads=threads)
        x = ramp(function.inputs[0].extents)
        with stopwatch() as running:
            (y,) = function.run(None, {function.inputs[0].name: x})
    console.print(f"{model.name}: compiled and run once in {first():.2f} s (the first run {running():.2f} s)")
    console.print(str(function), markup=False)
    error = difference([y], [expected_output(output)])
    if not error <= TOLERANCE:
        raise LoopnestError(f"the output differs from {output.name} by {error:.1e} of its largest value, more than {TOLERANCE}")
    console.print(f"matches {output.name}: largest difference {error:.1e} of the largest value (allowed {TOLERANCE})")
    (timing,) = interleave({"loopnest": lambda: function.run(None, {function.inputs[0].name: x})}, seconds, rounds=1)
    profile = function.profile(x)
    flops = sum(step.flops for step in profile.steps)
    console.print(_speed(median(timing.seconds), flops, profile.workers))


def _speed(seconds: float, flops: int, workers: int) -> str:
    from ..peak import peak_gflops

    peak, rate = peak_gflops() * workers, flops / seconds / 1e9
    share = f"{flops / 1e9:.2f} GFLOP, {rate:.0f} GFLOP/s, {rate / peak:.0%} of the measured peak"
    return f"{seconds * 1e3:.2f} ms a run on {workers} thread{'s' * (workers > 1)} (median): {share}"
