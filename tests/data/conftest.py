"""Images that the data tests share."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def photo() -> np.ndarray:
    """(96, 140, 3) uint8, smooth and noisy parts; bicubic overshoot stays within 0 to 255."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices((96, 140))
    smooth = np.stack([columns * 1.8, rows * 2.6, 127 + 120 * np.sin(columns / 9) * np.cos(rows / 7)], axis=2)
    smooth[30:60, 40:90] = rng.integers(75, 180, (30, 50, 3))
    return smooth.astype(np.uint8)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder of twelve small JPEGs in two classes, images/train below it."""
    rng = np.random.default_rng(1)
    for number in range(12):
        path = tmp_path / "images" / "train" / f"class{number % 2}" / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.kron(rng.integers(0, 256, (5, 6, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(path, quality=90)
    return tmp_path
