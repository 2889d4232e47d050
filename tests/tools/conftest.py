"""Images that the tools' tests share."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def eight_photos(tmp_path):
    """A data set of eight photographs of 30 x 24 pixels, images/train/0.png to 7.png."""
    rng = np.random.default_rng(0)
    for number in range(8):
        path = tmp_path / "images" / "train" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.kron(rng.integers(0, 256, (4, 5, 3)), np.ones((6, 6, 1))).astype(np.uint8)).save(path)
    return tmp_path
