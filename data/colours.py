"""What happens to a view's colours: each operation in place on float images in [0, 1], as torchvision defines it."""

import torch
from torch import Tensor

GREY_WEIGHTS = (0.2989, 0.587, 0.114)
# One of (N, 1, 1, 1) on the images' device for each image, or a number for all.
Factor = Tensor | float


def brighten(images: Tensor, factor: Factor) -> None:
    """Scale (N, 3, H, W) images."""
    images.mul_(factor).clamp_(0, 1)


def change_contrast(images: Tensor, factor: Factor) -> None:
    """Move (N, 3, H, W) images away from their mean grey; a factor below 1 moves them towards it."""
    torch.lerp(_grey(images.mean((2, 3), keepdim=True)), images, factor, out=images).clamp_(0, 1)


def saturate(images: Tensor, factor: Factor) -> None:
    """Move the pixels of (N, 3, H, W) images away from their grey; a factor below 1 moves them towards it."""
    torch.lerp(_grey(images), images, factor, out=images).clamp_(0, 1)


def shift_hue(images: Tensor, turns: Factor) -> None:
    """Turn the hue of (N, 3, H, W) images, keeping HSV's saturation and value."""
    red, green, blue = images.split(1, dim=1)
    highest = torch.maximum(torch.maximum(red, green), blue)
    lowest = torch.minimum(torch.minimum(red, green), blue)
    chroma = highest - lowest
    # Where chroma is 0 the hue is arbitrary and multiplied by 0 below.
    scale = chroma.clamp(min=1e-12).reciprocal_()
    # sign(highest - red) is 0 where red is the highest, else 1: lerp then chooses exactly, and faster than where.
    hue = (blue - red).mul_(scale).add_(2)
    if_blue = (red - green).mul_(scale).add_(4)
    torch.lerp(hue, if_blue, (highest - green).sign_(), out=hue)
    if_red = torch.sub(green, blue, out=if_blue).mul_(scale)
    torch.lerp(if_red, hue, highest.sub_(red).sign_(), out=hue).add_(turns * 6)
    hue.sub_((hue / 6).floor_().mul_(6))
    # A channel's share of the chroma rises and falls with the distance of the hue from the channel's own, in sixths.
    for channel, centre, sign, offset in ((red, 3, 1, -1), (green, 2, -1, 2), (blue, 4, -1, 2)):
        share = torch.sub(hue, centre, out=channel).abs_().mul_(sign).add_(offset).clamp_(0, 1)
        share.mul_(chroma).add_(lowest)


def remove_colour(images: Tensor) -> None:
    """Make all channels of (N, 3, H, W) images their grey."""
    images.copy_(_grey(images))


def solarise(images: Tensor) -> None:
    """Invert the values of at least one half."""
    torch.where(images >= 0.5, 1 - images, images, out=images)


def _grey(images: Tensor) -> Tensor:
    """(N, 3, H, W) to (N, 1, H, W)."""
    red, green, blue = images.split(1, dim=1)
    return (red * GREY_WEIGHTS[0]).add_(green, alpha=GREY_WEIGHTS[1]).add_(blue, alpha=GREY_WEIGHTS[2])
