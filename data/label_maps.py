"""Label maps on disk: one single-channel PNG an image."""

import re
import shlex
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from data.derived import missing_files, readable
from data.image_list import File, as_file
from data.images import read_image
from data.inside import check_size, png_size
from data.listing import ImageList
from data.orientation import upright_shape
from data.shards import ShardFile
from utils.errors import DataError
from utils.files import atomic_write_bytes

MAX_LABELS = 65536
_PNG_START = b"\x89PNG\r\n\x1a\n"
# Without PNG's filters of rows, which help photos, maps are a fifth smaller and are read twice as fast.
_PNG_OPTIONS = (cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE, cv2.IMWRITE_PNG_COMPRESSION, 6)
_REPAIR = "`python -m tools.make_masks --repair` and the options it was made with make it again"
_MAKE_GENERATION = (
    "delete the folder of its generation, and resume the run from the checkpoint of the epoch that begins with it"
)
_PACK = "make it again in the folder that the shards were made of, and the shards by `python -m tools.make_shards`"
_MAKE_EPOCH = "delete the folder of its epoch, and `python -m tools.region_maps RUN` makes it again"


class LabelMapError(DataError, ValueError):
    """A label map that is missing, damaged or of the wrong kind; names the file and the remedy.

    Attributes:
        reason: what is wrong, alone; empty where only the message tells.
    """

    def __init__(self, message: str, *, reason: str = ""):
        super().__init__(message)
        self.reason = reason


def label_map_path(mask_dir: str | Path, mask_type: str, split: str, image_path: str) -> Path:
    """Where an image's label map lies: MASK_DIR/TYPE/SPLIT/IMAGE_PATH_WITH_SUFFIX.png.

    Args:
        mask_dir: the folder of all types.
        mask_type: such as `slic100_224`, `fh`.
        split: train, val, ...
        image_path: relative to the split's folder, with its suffix: a.jpg and a.png are two images.
    """
    return Path(mask_dir, mask_type, split, f"{image_path}.png")


def label_map_file(images: ImageList, index: int, *, mask_dir: str | Path, mask_type: str) -> File:
    """An image's label map in MASK_DIR, where images lie in shards and this is their folder, in its shard."""
    held = images.held_maps(mask_dir, mask_type)
    return held.file(index) if held else label_map_path(mask_dir, mask_type, images.split, images.name(index))


def find_mask_dir(images: ImageList, mask_type: str, *, mask_dir: str | None, image_dir: str) -> Path:
    """Where the maps of a type lie: where a config says, else in the images' shards, else in IMAGE_DIR/masks.

    Args:
        mask_dir, image_dir: those keys of the config's `data`.
    """
    if mask_dir is None and images.held_maps(images.root, mask_type):
        return images.root
    return Path(mask_dir or Path(image_dir, "masks"))


def generation_type(number: int) -> str:
    """The type of the maps that a run makes of its own features: gen_0003 for generation 3."""
    return f"gen_{number:04d}"


def epoch_type(epoch: int) -> str:
    """The type of the maps of an R2O run's regions after so many epochs: epoch_0003."""
    return f"epoch_{epoch:04d}"


def _is_generation(mask_type: str) -> bool:
    return re.fullmatch(r"gen_\d+", mask_type) is not None


def _is_epoch(mask_type: str) -> bool:
    return re.fullmatch(r"epoch_\d+", mask_type) is not None


def read_label_map(path: str | File) -> np.ndarray:
    """Read a label map.

    Returns:
        (H, W) uint8, or uint16 where there are more than 256 labels; ids dense from 0.
    Raises:
        LabelMapError: no such file, or no complete single-channel PNG.
    """
    try:
        encoded = as_file(path).read_bytes()
    except OSError as error:
        raise _unread(path, error.strerror or str(error)) from error
    is_png = encoded.startswith(_PNG_START)
    if is_png:
        try:
            check_size(*png_size(encoded))
        except ValueError as error:
            raise _unread(path, str(error)) from error
    labels = cv2.imdecode(np.frombuffer(encoded, dtype=np.uint8), cv2.IMREAD_UNCHANGED) if is_png else None
    if labels is None:
        raise _unread(path, "no complete PNG")
    if labels.ndim != 2:
        raise _unread(path, f"{labels.shape[2]} channels where a label map has one")
    return labels


def _unread(path: str | File, reason: str) -> LabelMapError:
    parts = Path(str(path)).parts
    remedy = _MAKE_GENERATION if any(map(_is_generation, parts)) else _REPAIR
    remedy = _MAKE_EPOCH if any(map(_is_epoch, parts)) else remedy
    remedy = _PACK if isinstance(path, ShardFile) else remedy
    return LabelMapError(f"{path}: {reason}; {remedy}", reason=reason)


def write_label_map(path: str | Path, labels: np.ndarray) -> None:
    """Write a label map, atomically, its ids made dense from 0 in rising order.

    Args:
        labels: (H, W) integers of any range; uint8 PNG up to 256 different ones, else uint16.
    Raises:
        LabelMapError: more than 65,536 different ids, or not two-dimensional integers.
    """
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise LabelMapError(f"{path}: a label map is (H, W) integers, not {labels.shape} {labels.dtype}")
    dense, count = dense_labels(labels)
    if count > MAX_LABELS:
        raise LabelMapError(f"{path}: {count} labels, but a 16-bit PNG holds {MAX_LABELS}; make larger regions")
    _, encoded = cv2.imencode(".png", dense, _PNG_OPTIONS)
    atomic_write_bytes(path, encoded.tobytes())


def dense_labels(labels: np.ndarray) -> tuple[np.ndarray, int]:
    """Renumber ids from 0 without gaps, in rising order: (labels as uint8, uint16 or int64, number of labels)."""
    if labels.size and labels.min() >= 0 and labels.max() < MAX_LABELS:
        # Counting small ids is ten times as fast as sorting them.
        present = np.bincount(labels.ravel().astype(np.int64)) > 0
        count, renumbered, places = int(present.sum()), present.cumsum() - 1, labels
    else:
        ids, places = np.unique(labels, return_inverse=True)
        count, renumbered = len(ids), np.arange(len(ids))
    kinds = {count <= MAX_LABELS: np.uint16, count <= 256: np.uint8}
    return renumbered.astype(kinds.get(True, np.int64))[places.reshape(labels.shape)], count


def enlarge(labels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(h, w) -> (H, W) = `shape`: pixel i of an axis takes cell (h - 1) / (H - 1) i, rounded, half up.

    The first and the last cell lie on the image's borders, as the cells of a ResNet do, whose centres are multiples of its
    stride; pixels halfway between two cells' centres are where their regions meet.

    Source: scipy.ndimage.zoom of order 0, which the release calls.
    """
    rows, columns = (_nearest_cells(cells, pixels) for cells, pixels in zip(labels.shape, shape))
    return labels[rows[:, None], columns]


def _nearest_cells(cells: int, pixels: int) -> np.ndarray:
    # In scipy's order of operations, so that what lies exactly between two cells goes to the same one.
    step = (cells - 1) / max(pixels - 1, 1)
    return np.floor(np.arange(pixels) * step + 0.5).astype(np.int64)


def expected_shape(mask_type: str, image_shape: tuple[int, ...]) -> tuple[int, int]:
    """Shape of an image's map: (S, S) where the type's name ends in _S, as in slic100_224, else the image's.

    A generation's number is no size, nor is an epoch's: maps of gen_0003 and epoch_0003 have their images'.

    Args:
        mask_type: the name of the type's folder.
        image_shape: (H, W) or (H, W, 3) of the upright image.
    """
    is_number = _is_generation(mask_type) or _is_epoch(mask_type)
    side = None if is_number else re.search(r"_(\d+)$", mask_type)
    return (int(side[1]), int(side[1])) if side else (image_shape[0], image_shape[1])


def find_defect(path: str | File, mask_type: str, image_path: str | File) -> str | None:
    """What is wrong with an image's map; None where it is sound.

    Args:
        path: where the map lies.
        mask_type: the name of the type's folder, which tells the map's size.
        image_path: the image; only its header is read where that suffices.
    Raises:
        UnreadableImage: there can be no map.
    """
    if not as_file(path).exists():
        read_image(image_path)
        return "missing"
    try:
        labels = read_label_map(path)
    except LabelMapError as error:
        return error.reason
    shape = expected_shape(mask_type, upright_shape(image_path))
    if labels.shape != shape:
        return f"{labels.shape[1]} x {labels.shape[0]} pixels where {shape[1]} x {shape[0]} are needed"
    return None if np.bincount(labels.ravel()).all() else "its ids are not dense from 0"


def missing_label_maps(folder: str | Path, images: ImageList) -> list[int]:
    """Indices of the images without a map in the folder MASK_DIR/TYPE/SPLIT; opens no file."""
    mask_dir, mask_type = Path(folder).parents[1], Path(folder).parent.name
    held = images.held_maps(mask_dir, mask_type)
    return held.missing() if held else missing_files(folder, images, suffix=".png")


def check_label_maps(mask_dir: str | Path, mask_type: str, images: ImageList) -> None:
    """Refuse to start without label maps.

    Raises:
        DataError: readable images have none; names the folder, some of the images, and the command that makes them.
    """
    folder = Path(mask_dir, mask_type, images.split)
    missing = missing_label_maps(folder, images)
    lacking = list(islice(readable(missing, images), 3))
    if lacking:
        start = (
            f"{folder}: {len(missing)} of {len(images)} images have no label map there, such as "
            f"{', '.join(images.name(index) for index in lacking)}"
        )
        if _is_generation(mask_type):
            raise DataError(
                f"{start}; a CYBORGS run makes such maps of its own features: copy that folder of the run whole"
            )
        if _is_epoch(mask_type):
            raise DataError(f"{start}; make those of an R2O run with `python -m tools.region_maps RUN`")
        if images.held_maps(mask_dir, mask_type):
            raise DataError(f"{start}; {_PACK}")
        command = shlex.join(
            ["python", "-m", "tools.make_masks", "--dataset_dir", str(_dataset_dir(images)), "--split", images.split]
            + ["--output_dir", str(mask_dir), "--mask_type", mask_type]
        )
        # What a copy or an annotation file was taken from, the folder's name does not tell.
        hint = "" if re.match(r"(fh|slic|grid)", mask_type) else " and the options that say what they are made of"
        raise DataError(f"{start}; make them with `{command}`{hint}")


def _dataset_dir(images: ImageList) -> Path:
    """The folder that `find_images` was given."""
    if images.root.name not in (images.split, f"{images.split}2017"):
        return images.root
    return images.root.parents[1] if images.root.parent.name == "images" else images.root.parent
