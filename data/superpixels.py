"""SLIC superpixels of the whole image, as R2O's spanning view has them."""

import numpy as np
from PIL import Image
from skimage.segmentation import slic

from data.label_maps import dense_labels
from data.photometric import IMAGENET_MEAN, IMAGENET_STD


def superpixel_type(*, segments: int, size: int | None) -> str:
    """The name of the label maps' folder, such as slic100_224; slic100 where maps have their image's size."""
    return f"slic{segments}_{size}" if size else f"slic{segments}"


def slic_labels(image: np.ndarray, *, size: int | None = 224, segments: int = 100) -> np.ndarray:
    """Superpixels of the resized, normalised image.

    Args:
        image: (H, W, 3) uint8; its aspect is not kept.
        size: side of the label map in pixels; None or 0 keeps the image's size.
        segments: how many SLIC is asked for; it gives fewer, 51 to 81 for 100.
    Returns:
        (size, size), or (H, W), uint8 or uint16, ids dense from 0.
    Source: R2O, to_slic in the released utils/mask_utils: SLIC sees ImageNet-normalised values, which scikit-image
        rescales together to [0, 1], so that its colours are not the photo's. Kept, as published.
    """
    resized = image
    if size and image.shape[:2] != (size, size):
        resized = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))
    # In float32 first, as the release normalises, then double: SLIC's ties hang on the last bit.
    scaled = resized.astype(np.float32) / np.float32(255)
    normalised = (scaled - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    labels, _ = dense_labels(slic(normalised.astype(np.float64), n_segments=segments, start_label=0))
    return labels
