"""Transformers and mixers over images."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import MobileViTConfig, MobileViTModel, SwinConfig, SwinModel, ViTConfig, ViTModel

from benchmarks.models.common import Recipe, Residual, image


class LastState(nn.Module):
    """The last hidden state of a vision model of `transformers`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(pixel_values=x).last_hidden_state


def _vit(width: int, heads: int) -> Recipe:
    config = ViTConfig(hidden_size=width, num_attention_heads=heads, intermediate_size=4 * width, attn_implementation="eager")
    return image(LastState(ViTModel(config, add_pooling_layer=False)), dynamic={})


def vit_small() -> Recipe:
    """ViT-S/16 (Dosovitskiy et al. 2021; size of Touvron et al. 2021)."""
    return _vit(384, 6)


def deit_tiny() -> Recipe:
    """DeiT-Ti/16 without distillation token (Touvron et al. 2021): ViT, 192 wide."""
    return _vit(192, 3)


def swin_tiny() -> Recipe:
    """Swin-T (Liu et al. 2021): windows of 7x7, shifted in every other layer."""
    return image(LastState(SwinModel(SwinConfig(attn_implementation="eager"))), dynamic={})


def mobilevit_small() -> Recipe:
    """MobileViT-S (Mehta & Rastegari 2022), 256x256."""
    return image(LastState(MobileViTModel(MobileViTConfig(attn_implementation="eager"))), 256, dynamic={})


class Transposed(nn.Module):
    """Applies a layer along the other axis."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.transpose(1, 2)).transpose(1, 2)


class Patches(nn.Module):
    """Patches of an image as rows."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, width, size, size)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x).flatten(2).transpose(1, 2)


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def mixer_small() -> Recipe:
    """MLP-Mixer S/16 (Tolstikhin et al. 2021)."""

    def mlp(width: int, hidden: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    layers: list[nn.Module] = [Patches(512, 16)]
    for _ in range(8):
        layers += [Residual(nn.LayerNorm(512), Transposed(mlp(196, 256))), Residual(nn.LayerNorm(512), mlp(512, 2048))]
    return image(nn.Sequential(*layers, nn.LayerNorm(512), Mean(), nn.Linear(512, 1000)), dynamic={})
