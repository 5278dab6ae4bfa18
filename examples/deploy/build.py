"""Compile a model into one file, here, where loopnest is installed with everything that it needs.

    python examples/deploy/build.py model.lnest [--model model.onnx] [--config tuned.toml [--tune 50]]

Without a model: SqueezeNet as it comes with the onnx package. ``model.lnest`` is all that ``serve.py`` needs.
"""

import argparse
from pathlib import Path

import onnx

import loopnest


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=Path)
    light = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    parser.add_argument("--model", default=light / "light_squeezenet.onnx")
    parser.add_argument("--config", help="options of the compiler: tuned.toml beside this file is one")
    parser.add_argument("--target", default="cpu", help="the instruction set of the machines that will serve, as cpu-avx2")
    parser.add_argument(
        "--tune", type=int, default=0, metavar="TRIALS", help="measure schedules first; --config keeps what wins"
    )
    arguments = parser.parse_args()

    if arguments.tune:
        if not arguments.config:
            parser.error("--tune writes to the file of --config")
        found = loopnest.tune(arguments.model, arguments.config, trials=arguments.tune, target=arguments.target)
        print(f"{found.trials} candidates: the model should be {found.gain:.3f} times as fast")

    f = loopnest.compile(arguments.model, target=arguments.target, config=arguments.config)
    if not f.plans:
        raise SystemExit(f"{arguments.model} leaves dims open: loopnest precompile takes the shapes that shall be in the file")
    f.save(arguments.output)
    print(f.compile_report)
    print(f"{arguments.output}: {arguments.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
