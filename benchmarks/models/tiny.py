"""Networks of a millisecond or less, where overhead shows."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.models.common import Recipe, image


def mnist_cnn() -> Recipe:
    """Two convolutions and two linear layers over 28x28, as in the example of PyTorch."""
    layers = [nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    return image(nn.Sequential(*layers, nn.Linear(9216, 128), nn.ReLU(), nn.Linear(128, 10), nn.LogSoftmax(1)), 28, 1)


def lenet() -> Recipe:
    """LeNet-5 (LeCun et al. 1998), with max pooling."""
    layers = [nn.Conv2d(1, 6, 5), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten()]
    return image(
        nn.Sequential(*layers, nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10)), 32, 1
    )


def mlp() -> Recipe:
    """A multilayer perceptron over 64 features."""
    layers = [nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10), nn.Softmax(-1)]
    return Recipe(nn.Sequential(*layers), {"x": torch.randn(2, 64)}, dynamic={"x": {0: "batch"}})
