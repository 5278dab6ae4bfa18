"""Architectures as small PyTorch definitions with seeded random weights, one file a family; a function of that name makes each.

This table needs no PyTorch, the files do.
"""

from __future__ import annotations

from collections.abc import Mapping

FILES: Mapping[str, tuple[str, ...]] = {
    "classic": ("resnet18", "resnet50", "vgg16", "densenet121", "inception_v3", "squeezenet"),
    "mobile": ("mobilenet_v2", "mobilenet_v3", "efficientnet_b0", "shufflenet_v2", "ghostnet", "mnasnet"),
    "modern": ("convnext_tiny", "regnet_y_800mf", "nfnet_f0"),
    "vision_transformers": ("vit_small", "deit_tiny", "swin_tiny", "mobilevit_small", "mixer_small"),
    "dense": ("unet", "deeplab_head", "hrnet_w18", "yolo"),
    "generation": ("dcgan", "espcn", "vae_decoder"),
    "audio": ("tcn", "wavenet", "conformer", "whisper_tiny", "bilstm"),
    "language": ("bert_base", "minilm", "distilbert", "t5_small", "gpt2_block", "gpt2", "llama"),
    "tiny": ("mnist_cnn", "lenet", "mlp"),
}
"""The models of each file."""

TRANSFORMERS = ("modern", "vision_transformers", "audio", "language")
"""The files that take modules from `transformers`."""

NAMES = tuple(name for names in FILES.values() for name in names)


def file_of(name: str) -> str:
    """The file that defines the model. Raises `KeyError` for a name that is none."""
    for file, names in FILES.items():
        if name in names:
            return file
    raise KeyError(name)


def requirements(name: str) -> tuple[str, ...]:
    """The packages that an export of the model needs."""
    return ("torch", "onnxscript", *(("transformers",) if file_of(name) in TRANSFORMERS else ()))
