"""Inputs that look like what the models were made for: photographs, pages, tones, speech-like sound. All seeded."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def photograph(shape: tuple[int, int, int, int], seed: int) -> Floats:
    """NCHW in [0, 1]: smooth shading, a few hard edges, sensor noise."""
    rng = np.random.default_rng(seed)
    batch, channels, height, width = shape
    y, x = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)[None, :]
    image = np.zeros(shape)
    for _ in range(6):
        weight = rng.normal(size=(batch, channels, 1, 1))
        fy, fx, phase = rng.uniform(0.5, 9, 2), rng.uniform(0.5, 9, 2), rng.uniform(0, 6.28)
        image += weight * np.sin(fy[0] * y + fx[0] * x + phase) * np.cos(fy[1] * y - fx[1] * x)
    for _ in range(4):
        top, left = rng.integers(0, max(height - 8, 1)), rng.integers(0, max(width - 8, 1))
        image[:, :, top : top + height // 3, left : left + width // 3] += rng.normal(size=(batch, channels, 1, 1))
    image += rng.normal(scale=0.05, size=shape)
    return ((image - image.min()) / (image.max() - image.min())).astype(np.float32)


def normalized_photograph(shape: tuple[int, int, int, int], seed: int) -> Floats:
    """A photograph scaled as ImageNet models take it: about zero mean, unit variance."""
    return ((photograph(shape, seed) - 0.45) / 0.226).astype(np.float32)


def page(shape: tuple[int, int, int, int], seed: int) -> Floats:
    """NCHW in [0, 1]: dark strokes in lines of "words" on light paper."""
    rng = np.random.default_rng(seed)
    batch, _, height, width = shape
    image = np.full(shape, 0.92)
    glyph = max(6, min(height // 2, 24))
    for sheet in range(batch):
        for top in range(2, height - glyph, int(glyph * 1.6)):
            left = int(rng.integers(2, glyph))
            while left < width - glyph:
                for _ in range(rng.integers(2, 5)):
                    y, x = top + rng.integers(0, glyph - 4), left + rng.integers(0, max(glyph // 2 - 2, 1))
                    tall, wide = rng.integers(2, glyph // 2), rng.integers(1, 4)
                    if rng.random() < 0.5:
                        tall, wide = wide, tall
                    image[sheet, :, y : y + tall, x : x + wide] = rng.uniform(0.02, 0.2)
                left += int(glyph * (0.7 if rng.random() < 0.8 else 1.6))
    image += rng.normal(scale=0.01, size=shape)
    return np.clip(image, 0, 1).astype(np.float32)


def sound(samples: int, rate: int, seed: int, batch: int = 1) -> Floats:
    """(batch, samples) in [-1, 1]: voiced syllables (harmonics of a gliding pitch) with pauses, and some noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / rate
    wave = np.zeros((batch, samples))
    for row in wave:
        pitch = rng.uniform(90, 220) * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(1, 3) * time))
        phase = 2 * np.pi * np.cumsum(pitch) / rate
        voiced = sum(rng.uniform(0.2, 1) / k * np.sin(k * phase) for k in range(1, 12))
        syllables = np.clip(np.sin(2 * np.pi * rng.uniform(2, 4) * time + rng.uniform(0, 6)), 0, 1)
        row += 0.3 * syllables * voiced + rng.normal(scale=0.005, size=samples)
    return np.clip(wave, -1, 1).astype(np.float32)


def music(samples: int, rate: int, seed: int, batch: int = 1) -> Floats:
    """(batch, samples) in [-1, 1]: chords of decaying notes over a noise floor, never silent."""
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / rate
    wave = rng.normal(scale=0.02, size=(batch, samples))
    for row in wave:
        for start in np.arange(0, samples / rate, 0.25):
            for note in rng.integers(40, 76, 3):
                since = np.clip(time - start, 0, None)
                row += 0.15 * (time >= start) * np.exp(-2 * since) * np.sin(2 * np.pi * 440 * 2 ** ((note - 69) / 12) * since)
    return np.clip(wave, -1, 1).astype(np.float32)
