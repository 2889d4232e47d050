"""Gaussian blur with borders reflected: of a batch by matrix products, of one image on the CPU by its rows and columns."""

from functools import lru_cache

import cv2
import numpy as np
import torch
from torch import Tensor

# Taps this small beside the middle one are below float32's last digit of a sum.
_NOTHING = 1e-9


def blur_together(images: Tensor, sigmas: Tensor, *, kernel: int) -> None:
    """Blur in place (N, 3, H, W) float images by (N,) sigmas in pixels: rows and columns each by one banded matrix an image.

    Args:
        sigmas: on the CPU.
        kernel: taps, odd.
    """
    taps = gaussian_taps(sigmas, kernel).to(images.device, non_blocking=True)
    N, _, H, W = images.shape
    across = (taps @ _reflection(W, kernel, images.device)).view(N, W, W)
    down = (taps @ _reflection(H, kernel, images.device)).view(N, H, H)
    # Channels beside the columns: two wide products an image are several times as fast on the CPU as six small ones.
    wide = torch.bmm(down, images.transpose(1, 2).reshape(N, H, 3 * W))
    blurred = torch.bmm(wide.view(N, H * 3, W), across.transpose(1, 2)).view(N, H, 3, W)
    images.copy_(blurred.transpose(1, 2))


def blur_alone(image: Tensor, sigma: float, *, kernel: int) -> None:
    """Blur in place a contiguous (3, H, W) float32 image on the CPU; as `blur_together`, ten times as fast there."""
    taps = gaussian_taps(torch.tensor([sigma]), kernel)[0].numpy()
    # Most of the taps of a small sigma are nothing.
    taps = taps[taps > _NOTHING * taps.max()]
    for plane in image.numpy():
        cv2.sepFilter2D(plane, -1, taps, taps, dst=plane, borderType=cv2.BORDER_REFLECT_101)


def gaussian_taps(sigmas: Tensor, kernel: int) -> Tensor:
    """(N,) sigmas to (N, kernel) weights that sum to 1."""
    distance = torch.arange(kernel, dtype=torch.float32) - kernel // 2
    taps = torch.exp(-0.5 * (distance / sigmas[:, None]) ** 2)
    return taps / taps.sum(1, keepdim=True)


@lru_cache(maxsize=8)
def _reflection(size: int, kernel: int, device: torch.device) -> Tensor:
    """(kernel, size * size): for each tap the pixel of each place that it reads, borders reflected."""
    padded = torch.from_numpy(np.pad(np.arange(size), kernel // 2, mode="reflect"))
    read = torch.stack([padded[tap : tap + size] for tap in range(kernel)])
    return torch.nn.functional.one_hot(read, size).to(torch.float32).flatten(1).to(device)
