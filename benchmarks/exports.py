"""Models exported by PyTorch with random weights: built on first use, then kept in the user's cache folder.

    from benchmarks import exports
    model = exports.path("resnet50")        # needs the extra `torch` only if it is not there yet

`python -m benchmarks.exports` builds all of them and prints where they are.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs
from filelock import FileLock

if TYPE_CHECKING:
    import torch

OPSET = 20


@dataclass(frozen=True)
class Recipe:
    """What `torch.onnx.export` needs: a module, example arguments, their names and which of their dims are dynamic."""

    module: torch.nn.Module
    inputs: Mapping[str, torch.Tensor]
    outputs: tuple[str, ...]
    dynamic: Mapping[str, Mapping[int, str]]


def path(name: str) -> Path:
    """The exported model of that name (see NAMES), exported now if this version of this file has not yet done so."""
    file = _folder() / f"{name}.onnx"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock")):
            if not file.exists():
                _export(RECIPES[name](), file)
    return file


def unavailable(name: str) -> str | None:
    """Why `path(name)` cannot give the model: None if it can."""
    if (_folder() / f"{name}.onnx").exists():
        return None
    missing = [package for package in _requirements(name) if importlib.util.find_spec(package) is None]
    return f"not exported yet and not installed: {', '.join(missing)} (extra `torch`)" if missing else None


def _requirements(name: str) -> tuple[str, ...]:
    return ("torch", "onnxscript", "transformers") if name == "bert_base" else ("torch", "onnxscript")


def _folder() -> Path:
    source = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    return Path(platformdirs.user_cache_dir("loopnest")) / "exports" / source


def _export(recipe: Recipe, file: Path) -> None:
    import torch

    partial = file.with_name(f"{file.stem}.{os.getpid()}.partial.onnx")
    dims: dict[str, Any] = {}
    shapes = tuple(
        {axis: dims.setdefault(dim, torch.export.Dim(dim)) for axis, dim in recipe.dynamic[name].items()}
        for name in recipe.inputs
    )
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is not there
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            recipe.module.eval(),
            tuple(recipe.inputs.values()),
            str(partial),
            input_names=list(recipe.inputs),
            output_names=list(recipe.outputs),
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    partial.replace(file)


def _seeded() -> None:
    import torch

    torch.manual_seed(20)


def _lively(module: torch.nn.Module) -> torch.nn.Module:
    """Gives batch normalization statistics that are not the identity, as training would."""
    import torch

    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0.0, 0.1)  # type: ignore[union-attr]
            layer.running_var.uniform_(0.6, 1.6)  # type: ignore[union-attr]
            torch.nn.init.uniform_(layer.weight, 0.6, 1.4)
            torch.nn.init.normal_(layer.bias, 0.0, 0.1)
    return module


def _image_recipe(module: torch.nn.Module, dynamic: Mapping[int, str], channels: int = 3, size: int = 224) -> Recipe:
    import torch

    return Recipe(module, {"x": torch.randn(2, channels, size, size)}, ("y",), {"x": dynamic})


def _resnet50() -> Recipe:
    """ResNet-50 (He et al. 2015, the variant with stride in the 3x3), batch dynamic, 224x224."""
    from torch import nn

    def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs)]

    class Bottleneck(nn.Module):
        def __init__(self, inputs: int, width: int, stride: int) -> None:
            super().__init__()
            self.branch = nn.Sequential(
                *conv(inputs, width, 1),
                nn.ReLU(),
                *conv(width, width, 3, stride),
                nn.ReLU(),
                *conv(width, 4 * width, 1),
            )
            nn.init.constant_(self.branch[-1].weight, 0.3)
            self.shortcut = nn.Sequential(*(conv(inputs, 4 * width, 1, stride) if inputs != 4 * width else []))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.branch(x) + self.shortcut(x)).relu()

    _seeded()
    layers: list[nn.Module] = [*conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for block in range(blocks):
            layers.append(Bottleneck(inputs, width, 2 if block == 0 and stage > 0 else 1))
            inputs = 4 * width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000)]
    return _image_recipe(_lively(nn.Sequential(*layers)), {0: "batch"})


def _mobilenet_v2() -> Recipe:
    """MobileNetV2 1.0 (Sandler et al. 2018), batch dynamic, 224x224."""
    from torch import nn

    def conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
        ]

    class InvertedResidual(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
            super().__init__()
            hidden = inputs * expansion
            expand = [*conv(inputs, hidden), nn.ReLU6()] if expansion > 1 else []
            self.branch = nn.Sequential(*expand, *conv(hidden, hidden, 3, stride, hidden), nn.ReLU6(), *conv(hidden, outputs))
            self.residual = stride == 1 and inputs == outputs

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.branch(x) if self.residual else self.branch(x)

    _seeded()
    layers: list[nn.Module] = [*conv(3, 32, 3, 2), nn.ReLU6()]
    inputs = 32
    settings = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, outputs, blocks, stride in settings:
        for block in range(blocks):
            layers.append(InvertedResidual(inputs, outputs, stride if block == 0 else 1, expansion))
            inputs = outputs
    layers += [*conv(320, 1280), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000)]
    return _image_recipe(_lively(nn.Sequential(*layers)), {0: "batch"})


def _unet() -> Recipe:
    """A UNet (Ronneberger et al. 2015) of four levels with ConvTranspose; batch, height and width (multiples of 8) dynamic."""
    import torch
    from torch import nn

    def double(inputs: int, outputs: int) -> nn.Sequential:
        stages = ((inputs, outputs), (outputs, outputs))
        return nn.Sequential(
            *(layer for i, o in stages for layer in (nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU()))
        )

    class UNet(nn.Module):
        def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128)) -> None:
            super().__init__()
            self.down = nn.ModuleList(double(i, o) for i, o in zip((3, *widths[:-1]), widths, strict=True))
            pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
            self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, 2) for i, o in pairs)
            self.join = nn.ModuleList(double(2 * o, o) for _, o in pairs)
            self.head = nn.Conv2d(widths[0], 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kept: list[torch.Tensor] = []
            for level, block in enumerate(self.down):
                x = block(nn.functional.max_pool2d(x, 2) if level else x)
                kept.append(x)
            kept.pop()
            for up, join in zip(self.up, self.join, strict=True):
                x = join(torch.cat([kept.pop(), up(x)], dim=1))
            return self.head(x)

    _seeded()
    module = _lively(UNet())
    return _image_recipe(module, {0: "batch", 2: "height", 3: "width"}, size=64)


def _bert_base() -> Recipe:
    """BERT-base (Devlin et al. 2018) of `transformers`, random weights; batch and sequence dynamic, padding mask given."""
    import torch
    from transformers import BertConfig, BertModel

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = BertModel(BertConfig(attn_implementation="eager"))

        def forward(
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            result = self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
            return result.last_hidden_state, result.pooler_output

    _seeded()
    size = (2, 19)
    inputs = {
        "input_ids": torch.randint(0, 30000, size),
        "attention_mask": torch.ones(size, dtype=torch.int64),
        "token_type_ids": torch.zeros(size, dtype=torch.int64),
    }
    dynamic = {name: {0: "batch", 1: "sequence"} for name in inputs}
    return Recipe(Encoder(), inputs, ("last_hidden_state", "pooler_output"), dynamic)


def _gpt2_block() -> Recipe:
    """A GPT-2 block (Radford et al. 2019, 768 wide, 12 heads) with a key/value cache; batch, new and past tokens dynamic."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, width: int = 768, heads: int = 12) -> None:
            super().__init__()
            self.heads = heads
            self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))

        def forward(
            self, hidden: torch.Tensor, past_key: torch.Tensor, past_value: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            batch, new, width = hidden.shape
            qkv = self.qkv(self.before_attention(hidden)).reshape(batch, new, 3, self.heads, width // self.heads)
            query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
            key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
            scores = query @ key.transpose(-1, -2) / (width // self.heads) ** 0.5
            past = past_key.shape[2]
            rows, columns = torch.arange(new) + past, torch.arange(past + new)
            scores = scores.masked_fill(columns[None, :] > rows[:, None], torch.finfo(scores.dtype).min)
            mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, new, width)
            hidden = hidden + self.project(mixed)
            return hidden + self.mlp(self.before_mlp(hidden)), key, value

    _seeded()
    past = torch.randn(2, 12, 7, 64)
    return Recipe(
        Block(),
        {"hidden": torch.randn(2, 5, 768), "past_key": past, "past_value": torch.randn_like(past)},
        ("hidden_out", "key", "value"),
        {"hidden": {0: "batch", 1: "new"}, "past_key": {0: "batch", 2: "past"}, "past_value": {0: "batch", 2: "past"}},
    )


def _bilstm() -> Recipe:
    """A tagger: embedding, two bidirectional LSTM layers (Graves & Schmidhuber 2005), linear; batch and sequence dynamic."""
    import torch
    from torch import nn

    class Tagger(nn.Module):
        def __init__(self, words: int = 1000, width: int = 64, hidden: int = 128, tags: int = 17) -> None:
            super().__init__()
            self.embed = nn.Embedding(words, width)
            self.lstm = nn.LSTM(width, hidden, num_layers=2, bidirectional=True, batch_first=True)
            self.head = nn.Linear(2 * hidden, tags)

        def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            states, (last, _) = self.lstm(self.embed(tokens))
            return self.head(states).log_softmax(-1), last

    _seeded()
    tokens = torch.randint(0, 1000, (3, 11))
    return Recipe(Tagger(), {"tokens": tokens}, ("scores", "last"), {"tokens": {0: "batch", 1: "sequence"}})


RECIPES: Mapping[str, Callable[[], Recipe]] = {
    "resnet50": _resnet50,
    "mobilenet_v2": _mobilenet_v2,
    "unet": _unet,
    "bert_base": _bert_base,
    "gpt2_block": _gpt2_block,
    "bilstm": _bilstm,
}

NAMES = tuple(RECIPES)

if __name__ == "__main__":
    for wanted in sys.argv[1:] or NAMES:
        print(f"{wanted:14} {path(wanted)}")
