"""Pictures of regions: what a run draws at every epoch, and `python -m tools.pictures RUN` to see regions become objects."""

import argparse
import colorsys
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from skimage.segmentation import find_boundaries
from torch import nn
from torch.utils.data import Dataset

from data.views import collate
from models.views import unfold_views
from utils.distributed import is_main
from utils.files import atomic_write_bytes
from utils.log import RunLog
from utils.method import Progress

TILE = 160  # side of one image in a sheet, in pixels
GAP = 4


def save_flat(picture: Image.Image, path: Path, *, colours: int) -> None:
    """Write a picture of flat areas as a PNG of so few colours, whole or not at all."""
    buffer = io.BytesIO()
    picture.quantize(colours, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
    atomic_write_bytes(path, buffer.getvalue())


class RegionPictures:
    """Draws the same images at every call: photo, superpixels, and the regions that a method makes of them now.

    Args:
        dataset: gives `spanning` and `superpixels` for (epoch, index).
        count: images drawn, evenly spaced over the listing; 0 draws none.
        group: images whose regions are found together, as in training; the first `count` of them are drawn.
    """

    def __init__(self, dataset: Dataset, *, count: int, group: int):
        self.count = min(count, len(dataset))
        self._batch = None
        if self.count and is_main():
            number = min(max(group, self.count), len(dataset))
            indices = spread(number, len(dataset))
            # The images to be drawn come from the whole listing, the rest of their group from between them.
            first = spread(self.count, number)
            order = [*first, *(i for i in range(number) if i not in set(first))]
            self._batch = collate([dataset[0, int(indices[i])] for i in order])

    @torch.no_grad()
    def draw(
        self, method: nn.Module, progress: Progress, log: RunLog, prepare: Callable[[dict], dict], device: torch.device
    ) -> None:
        """Add a sheet, one row an image, to the log; the method is left as it was."""
        # After a resume within an epoch, the picture of the epoch's beginning is there, and the weights have moved on.
        if self._batch is None or log.has_picture(progress.step, "regions"):
            return
        batch = {
            key: value.to(device) if key in ("spanning", "superpixels", "images") else value
            for key, value in self._batch.items()
        }
        training = method.training
        # BatchNorm's running statistics must not learn from pictures: a resumed run draws them twice.
        regions, _ = method.eval().find_regions(prepare(batch), method.num_clusters(progress))
        method.train(training)
        rows = [
            region_row(photo, superpixels, own)
            for photo, superpixels, own in zip(
                self._batch["spanning"][: self.count].permute(0, 2, 3, 1).numpy(),
                self._batch["superpixels"].numpy(),
                regions.cpu().numpy(),
            )
        ]
        log.pictures(progress.step, "regions", stack(rows, axis=0))


class ViewPictures:
    """Draws some images' views as they are in an epoch, one row an image.

    Args:
        dataset: gives an image's views for (epoch, index).
        count: images drawn, evenly spaced over the listing; 0 draws none.
    """

    name: str  # of the sheet

    def __init__(self, dataset: Dataset, *, count: int):
        self._dataset = dataset
        self._indices = spread(min(count, len(dataset)), len(dataset)) if is_main() else []

    def draw(self, method: nn.Module, epoch: int, progress: Progress, log: RunLog) -> None:
        """Add a sheet of the epoch's views to the log; the method computes no feature for it."""
        if len(self._indices) == 0 or log.has_picture(progress.step, self.name):
            return
        batch = collate([self._dataset[epoch, int(index)] for index in self._indices])
        log.pictures(progress.step, self.name, stack(self.rows(method, batch), axis=0))

    def rows(self, method: nn.Module, batch: dict[str, Any]) -> list[np.ndarray]:
        """A picture for each image of a batch."""
        raise NotImplementedError


class SampledMaskPictures(ViewPictures):
    """Draws both views of some images, their masks, and the regions that were drawn of them.

    Args:
        dataset: gives `images`, `labels` and `uniforms` for (epoch, index).
        count: images drawn, evenly spaced over the listing; 0 draws none.
    """

    name = "masks"

    def rows(self, method: nn.Module, batch: dict[str, Any]) -> list[np.ndarray]:
        """Both views of each image, their masks, and the drawn regions."""
        cells = method.find_cells(batch)
        ids, _ = method.choose_regions(cells, batch["uniforms"])
        side = method.pool_size
        drawn = torch.where((cells[:, :, None] == ids[:, None]).any(-1), cells, -1).unflatten(1, (side, side))
        return [
            stack([mask_row(*view) for view in zip(photos, labels, sampled)], axis=1)
            for photos, labels, sampled in zip(
                batch["images"].permute(0, 1, 3, 4, 2).numpy(), batch["labels"].numpy(), unfold_views(drawn).numpy()
            )
        ]


def mask_row(photo: np.ndarray, labels: np.ndarray, sampled: np.ndarray) -> np.ndarray:
    """(TILE, 3 TILE, 3) uint8: a view (H, W, 3), its masks, and its grid's cells in the colours of the drawn regions."""
    photo = resize(photo)
    return stack([photo, paint_regions(photo, resize(labels)), paint_regions(photo, resize(sampled))], axis=1)


def spread(count: int, total: int) -> np.ndarray:
    """`count` indices of `total`, evenly spaced from the first to the last."""
    return np.linspace(0, total - 1, count).astype(int)


def region_row(photo: np.ndarray, superpixels: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """(TILE, 3 TILE, 3) uint8: a photo (H, W, 3), its superpixels' borders and its regions; the maps may have any size."""
    photo = resize(photo)
    return stack([photo, draw_borders(photo, resize(superpixels)), paint_regions(photo, resize(regions))], axis=1)


def draw_borders(photo: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The photo with yellow lines where labels meet."""
    drawn = photo.copy()
    drawn[_borders(labels)] = (255, 220, 0)
    return drawn


def paint_regions(photo: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The photo's brightness in one colour a label, white lines between; negative labels stay grey."""
    palette = np.array([(0.6, 0.6, 0.6), *(colour(i) for i in range(max(int(labels.max()), 0) + 1))])
    brightness = photo.mean(-1, keepdims=True) / 255
    drawn = (255 * palette[np.maximum(labels, -1) + 1] * (0.45 + 0.55 * brightness)).astype(np.uint8)
    drawn[_borders(labels)] = 255
    return drawn


def _borders(labels: np.ndarray) -> np.ndarray:
    # Label 0 would count as background, on whose side no border is drawn.
    return find_boundaries(labels - labels.min() + 1, mode="inner")


def colour(label: int) -> tuple[float, float, float]:
    """A colour of its own for each label: hues a golden section apart, never twice the same beside each other."""
    return colorsys.hsv_to_rgb(label * 0.6180339887 % 1, (0.75, 0.5, 0.95)[label % 3], (0.95, 1.0, 0.75)[label % 3])


def resize(image: np.ndarray, side: int = TILE) -> np.ndarray:
    """A photo (H, W, 3) uint8 smoothly, a label map (H, W) by nearest, to (side, side)."""
    if image.ndim == 3:
        return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))
    rows, columns = ((np.arange(side) + 0.5) * length / side for length in image.shape)
    return image.astype(np.int64)[rows.astype(int)[:, None], columns.astype(int)]


def stack(pictures: list[np.ndarray], *, axis: int) -> np.ndarray:
    """Pictures below (axis 0) or beside (axis 1) each other with a white gap."""
    padded = []
    for picture in pictures:
        gap = [(0, 0)] * 3
        gap[axis] = (0, GAP if len(padded) + 1 < len(pictures) else 0)
        padded.append(np.pad(picture, gap, constant_values=255))
    return np.concatenate(padded, axis=axis)


def story(folder: Path, *, columns: int = 6) -> np.ndarray:
    """One sheet of a run: photo, superpixels, then the regions at `columns` moments from its first to its last picture."""
    files = sorted(folder.glob("regions_*.png"))
    if not files:
        raise SystemExit(f"{folder}: no regions_*.png there; give a run's folder with log.num_pictures above 0")
    chosen = [files[i] for i in np.unique(spread(columns, len(files)))]
    sheets = [np.asarray(Image.open(file)) for file in chosen]
    fixed = sheets[0][:, : 2 * TILE + GAP]
    return stack([fixed, *(sheet[:, 2 * (TILE + GAP) :] for sheet in sheets)], axis=1)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("--output", type=Path, help="the PNG to write; by default RUN/regions.png")
    parser.add_argument("--columns", type=int, default=6, help="moments shown")
    arguments = parser.parse_args(argv)
    output = arguments.output or arguments.run / "regions.png"
    Image.fromarray(story(arguments.run / "pictures", columns=arguments.columns)).save(output)
    print(output)


if __name__ == "__main__":
    main()
