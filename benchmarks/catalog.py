"""Which models are timed, on what inputs, and the families that they belong to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import exports

Feeds = Mapping[str, np.ndarray]
Prepare = Callable[[Path], tuple[Path, Feeds]]


@dataclass(frozen=True)
class Entry:
    """`prepare` gives the model and its inputs by name; what it has to write goes to the folder that it is given.

    `missing` says why the model cannot be had here (a package that is not installed), None if it can.
    """

    name: str
    family: str
    prepare: Prepare
    missing: Callable[[], str | None] = lambda: None


def all_entries() -> dict[str, Entry]:
    """Every model by name, family after family."""
    listed = [*_exported_entries(), *_trained_entries()]
    return {entry.name: entry for entry in listed}


def find(name: str) -> Entry:
    """The entry of that name, or one for the ONNX file of that path. Raises `KeyError`."""
    return _file(Path(name)) if name.endswith(".onnx") else all_entries()[name]


def _file(path: Path) -> Entry:
    """A model of one's own: random inputs, dims that are not fixed are 1."""

    def prepare(folder: Path) -> tuple[Path, Feeds]:
        from loopnest.compiler.api import interface
        from loopnest.compiler.cli.feeds import make_feeds

        return path, make_feeds(interface(path), {}, {})

    return Entry(str(path), "file", prepare, lambda: None if path.exists() else f"there is no file {path}")


def _exported(family: str, model: str, feeds: Callable[[np.random.Generator], Feeds], label: str = "") -> Entry:
    """An export of `benchmarks.models`; `label` tells entries of one model apart."""

    def prepare(folder: Path) -> tuple[Path, Feeds]:
        return exports.path(model), feeds(np.random.default_rng(0))

    return Entry(f"{model}{label}", family, prepare, lambda: exports.unavailable(model))


def _floats(**shapes: tuple[int, ...]) -> Callable[[np.random.Generator], Feeds]:
    return lambda rng: {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def _image(size: int = 224, batch: int = 1, channels: int = 3) -> Callable[[np.random.Generator], Feeds]:
    return _floats(x=(batch, channels, size, size))


def _tokens(length: int, words: int = 1000, name: str = "tokens") -> Callable[[np.random.Generator], Feeds]:
    return lambda rng: {name: rng.integers(0, words, (1, length))}


def _sentence(length: int) -> Callable[[np.random.Generator], Feeds]:
    """Ids of `length` tokens of which none is padding, in two segments."""

    def feeds(rng: np.random.Generator) -> Feeds:
        segments = (np.arange(length) >= length // 2).astype(np.int64)[None]
        ids = rng.integers(1000, 30000, (1, length))
        return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": segments}

    return feeds


def _decoding(layers: int, groups: int, words: int, new: int, past: int) -> Callable[[np.random.Generator], Feeds]:
    """`new` tokens after `past` ones, whose keys and values are given; heads of 64."""

    def feeds(rng: np.random.Generator) -> Feeds:
        cache = rng.standard_normal((layers, 2, 1, groups, past, 64), np.float32)
        return {"input_ids": rng.integers(0, words, (1, new)), "past": cache}

    return feeds


def _masked(length: int) -> Callable[[np.random.Generator], Feeds]:
    return lambda rng: {name: array for name, array in _sentence(length)(rng).items() if name != "token_type_ids"}


def _translation(rng: np.random.Generator) -> Feeds:
    return {"input_ids": rng.integers(0, 32000, (1, 64)), "decoder_input_ids": rng.integers(0, 32000, (1, 16))}


def _exported_entries() -> list[Entry]:
    classic = ("resnet18", "resnet50", "vgg16", "densenet121", "squeezenet")
    mobile = ("mobilenet_v2", "mobilenet_v3", "efficientnet_b0", "shufflenet_v2", "ghostnet", "mnasnet")
    batch8 = ("resnet18", "resnet50", "mobilenet_v2", "squeezenet", "shufflenet_v2", "efficientnet_b0", "regnet_y_800mf")
    transformers = ("vit_small", "deit_tiny", "swin_tiny", "mixer_small")
    texts = {"bert_base": _sentence, "minilm": _sentence, "distilbert": _masked}
    decoders = {"gpt2": (12, 12, 50257), "llama": (8, 4, 32000)}
    steps = {"prefill": (64, 0), "decode": (1, 256)}
    return [
        *(_exported("classic", name, _image()) for name in classic),
        _exported("classic", "inception_v3", _image(299)),
        *(_exported("mobile", name, _image()) for name in mobile),
        *(_exported("modern", name, _image()) for name in ("convnext_tiny", "regnet_y_800mf")),
        _exported("modern", "nfnet_f0", _image(192)),
        *(_exported("vision", name, _image()) for name in transformers),
        _exported("vision", "mobilevit_small", _image(256)),
        _exported("dense", "unet", _image(256)),
        _exported("dense", "deeplab_head", _image(28, channels=512)),
        _exported("dense", "hrnet_w18", _image(256)),
        _exported("dense", "yolo", _image(320)),
        _exported("generation", "dcgan", _floats(x=(1, 100, 1, 1))),
        _exported("generation", "espcn", _image(120, channels=1)),
        _exported("generation", "vae_decoder", _floats(x=(1, 4, 16, 16))),
        _exported("audio", "tcn", _floats(x=(1, 16, 1000))),
        _exported("audio", "wavenet", _floats(x=(1, 1, 2000))),
        _exported("audio", "conformer", _floats(x=(1, 200, 144))),
        _exported("audio", "whisper_tiny", _floats(x=(1, 80, 3000))),
        _exported("audio", "bilstm", _tokens(50)),
        *(_exported("language", name, feeds(n), f"_{n}") for name, feeds in texts.items() for n in (16, 128, 512)),
        *(
            _exported("language", name, _decoding(*size, *step), f"_{label}")
            for name, size in decoders.items()
            for label, step in steps.items()
        ),
        _exported("language", "t5_small", _translation),
        _exported("tiny", "mnist_cnn", _image(28, channels=1)),
        _exported("tiny", "lenet", _image(32, channels=1)),
        _exported("tiny", "mlp", _floats(x=(1, 64))),
        *(_exported("batch8", name, _image(batch=8), "_b8") for name in batch8),
    ]


_TRAINED = {
    "silero_vad": "16000hz-batch1",
    "magika": "batch1",
    "rapidocr_det": "1x3x320x480",
    "rapidocr_rec": "1x3x48x320",
    "rapidocr_cls": "1x3x48x192",
    "rapidocr_v4_det": "1x3x320x480",
    "rapidocr_v4_rec": "1x3x48x320",
    "ddddocr_common": "1x1x64x160",
    "ddddocr_det": "1x3x416x416",
    "nudenet": "1x3x320x320",
    "basic_pitch": "batch1",
    "light_vgg19_random": "1x3x224x224",
    "light_bvlc_alexnet_random": "1x3x224x224",
    "light_inception_v1_random": "1x3x224x224",
    "light_inception_v2_random": "1x3x224x224",
    "light_shufflenet_random": "1x3x224x224",
    "light_zfnet512_random": "1x3x224x224",
}
"""Models of `tests.models.catalog`, with the scenario whose last call is timed."""


@cache
def _tested() -> Mapping[str, Any]:
    from tests.models.catalog import all_models

    return all_models()


def _trained_entries() -> list[Entry]:
    return [_trained(name, scenario) for name, scenario in _TRAINED.items()]


def _trained(name: str, scenario: str) -> Entry:
    def prepare(folder: Path) -> tuple[Path, Feeds]:
        import onnx

        from tests.models.judge import onnxruntime

        model = _tested()[name]
        source = model.load()
        if not isinstance(source, Path):
            onnx.save(source, folder / "model.onnx")
            source = folder / "model.onnx"
        run, calls = onnxruntime(source, 2), list[Feeds]()

        def keeping(feeds: Feeds) -> Any:
            calls.append(dict(feeds))
            return run(feeds)

        (wanted,) = (each for each in model.scenarios if each.name == scenario)
        wanted.drive(keeping)
        return source, calls[-1]

    return Entry(name.removeprefix("light_").removesuffix("_random"), "trained", prepare, _tested()[name].missing)
