"""COCO's instances_*.json as a set of objects: boxes, classes from 0, and masks that are drawn when they are asked for."""

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from data.inside import check_name, check_size
from data.object_sets import ObjectSet
from data.ragged import Ragged
from utils.errors import DataError
from utils.files import read_json

# A triangle has three corners.
_LEAST_NUMBERS = 6
# Boxes less wide or high, in pixels, hold nothing.
_LEAST_SIDE = 1e-3
_log = logging.getLogger(__name__)


def read_coco(folder: str | Path, split: str, *, masks: bool, keep_empty: bool) -> ObjectSet:
    """Read a split.

    Args:
        folder: holds annotations/instances_SPLIT.json, and the images in images/SPLIT, SPLIT or images.
        split: such as "train2017".
        masks: the outlines are needed too; an object without a usable one is then left out.
        keep_empty: images without any object stay, as a test set needs them.
    Returns:
        The images by their ids. Crowds are left out; boxes are cut to their image, and left out where nothing remains.
    Raises:
        DataError: no such file or folder, no COCO annotations, an unknown image or class, no image left.
    """
    path = coco_path(folder, split)
    content = _read(path)
    classes = {entry["id"]: place for place, entry in enumerate(content["categories"])}
    images = {entry["id"]: _Image(entry) for entry in content["images"]}
    dropped = 0
    for entry in content["annotations"]:
        if not entry.get("iscrowd"):
            dropped += not _add(path, images, classes, entry, masks=masks)
    if dropped:
        _log.warning(
            "%s: %d objects are left out: empty, outside their image, or without a usable outline", path, dropped
        )
    kept = [image for image in images.values() if image.rows or keep_empty]
    if not kept:
        raise DataError(f"{path}: no image with an object in it")
    found = ObjectSet(
        root=_image_folder(Path(folder), split),
        names=np.array([image.name for image in kept]),
        ids=np.array([image.number for image in kept], dtype=np.int64),
        sizes=np.array([image.size for image in kept], dtype=np.int64),
        rows=Ragged.from_rows((image.rows for image in kept), width=6, dtype=np.float64),
        classes=tuple(entry["name"] for entry in content["categories"]),
        dropped=dropped,
    )
    if not masks:
        return found
    return replace(found, read_masks=_Outlines(path, found.sizes, *_joined([image.outlines for image in kept])))


def require_scorable(path: Path, *, masks: bool) -> None:
    """What pycocotools needs of a test's annotations, beyond what is read of them here.

    Raises:
        DataError: there is no object, or one lacks what it takes to be judged.
    """
    annotations = _read(path)["annotations"]
    if not annotations:
        raise DataError(f"{path}: no object in it, so that there is nothing to find")
    needed = ("area", "iscrowd", "segmentation") if masks else ("area", "iscrowd")
    for entry in annotations:
        # A crowd's outline is a dictionary, any other's one or more polygons.
        lacking = [key for key in needed if entry.get(key) is None or entry[key] == []]
        if lacking:
            raise DataError(
                f"{path}: annotation {entry['id']} has no {lacking[0]}, without which it cannot be judged: add it"
                + (", or set model.masks: false" if lacking[0] == "segmentation" else "")
            )


def coco_path(folder: str | Path, split: str) -> Path:
    """Where a split's annotations lie."""
    return Path(folder) / "annotations" / f"instances_{split}.json"


def decode_mask(segmentation: list | dict, height: int, width: int) -> np.ndarray:
    """(H, W) uint8, 0 or 1, of polygons, or of run lengths, compressed or not.

    Raises:
        ValueError, or nearly anything else that pycocotools raises: it is none of these, or of another size.
    """
    if isinstance(segmentation, list):
        runs = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif list(segmentation["size"]) != [height, width]:
        raise ValueError(f"runs of size {segmentation['size']} where {[height, width]} is needed")
    elif isinstance(segmentation["counts"], list):
        runs = coco_mask.frPyObjects(segmentation, height, width)
    else:
        runs = segmentation
    return coco_mask.decode(runs)


class _Image:
    """What is gathered of an image while the annotations are gone through."""

    def __init__(self, entry: dict[str, Any]):
        self.number, self.name = entry["id"], entry["file_name"].encode("utf-8", "surrogateescape")
        self.size = (entry["height"], entry["width"])
        self.rows: list[list[float]] = []
        self.outlines: list[list | dict] = []


@dataclass(frozen=True)
class _Outlines:
    """Outlines as JSON, an image's behind one another's: 800,000 objects as lists would not be shared by processes."""

    path: Path
    sizes: np.ndarray  # (N, 2)
    text: np.ndarray  # uint8
    offsets: np.ndarray  # (N + 1,)

    def __call__(self, index: int) -> np.ndarray:
        height, width = self.sizes[index].tolist()
        outlines = json.loads(self.text[self.offsets[index] : self.offsets[index + 1]].tobytes())
        try:
            masks = [decode_mask(outline, height, width) for outline in outlines]
        # An outline that is not as COCO describes makes pycocotools raise nearly anything.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise DataError(f"{self.path}: an outline in image {index} of its list is damaged: {reason}") from error
        return np.stack(masks) if masks else np.zeros((0, height, width), np.uint8)


def _read(path: Path) -> dict[str, Any]:
    """The file, its images and categories by their ids, checked for what is read of it."""
    try:
        content = read_json(path)
        for part, keys in (("images", ("id", "file_name", "height", "width")), ("categories", ("id", "name"))):
            content[part] = sorted(content[part], key=lambda entry: entry["id"])
            for entry in content[part]:
                [entry[key] for key in keys]
                if not isinstance(entry["id"], int):
                    raise ValueError(f"the id {entry['id']!r} of one of its {part} is no whole number")
        for entry in content["images"]:
            check_name(entry["file_name"], path)
            check_size(entry["width"], entry["height"])
        for entry in content["annotations"]:
            [entry[key] for key in ("id", "image_id", "category_id", "bbox")]
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror}; COCO's annotations/instances_SPLIT.json is needed: check data.dir"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: no COCO annotations of objects: {type(error).__name__} {error}") from error
    return content


def _add(path: Path, images: dict, classes: dict, entry: dict[str, Any], *, masks: bool) -> bool:
    """Give an object to its image; whether there is anything of it."""
    image, label = images.get(entry["image_id"]), classes.get(entry["category_id"])
    if image is None or label is None:
        what = f"image {entry['image_id']}" if image is None else f"category {entry['category_id']}"
        raise DataError(f"{path}: annotation {entry['id']} is of {what}, which the file does not list")
    try:
        x, y, w, h = (float(number) for number in entry["bbox"])
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{path}: annotation {entry['id']}: the box {entry['bbox']} is not x, y, width, height"
        ) from error
    height, width = image.size
    box = [max(x, 0.0), max(y, 0.0), min(x + w, width), min(y + h, height)]
    # Written so that NaN is left out too.
    if not (box[2] - box[0] > _LEAST_SIDE and box[3] - box[1] > _LEAST_SIDE):
        return False
    if masks:
        outline = _usable(entry.get("segmentation"))
        if not outline:
            return False
        image.outlines.append(outline)
    image.rows.append([*box, label, 0])
    return True


def _usable(outline: list | dict | None) -> list | dict | None:
    """An outline without the polygons that enclose nothing."""
    if not isinstance(outline, list):
        return outline
    return [polygon for polygon in outline if len(polygon) >= _LEAST_NUMBERS and len(polygon) % 2 == 0]


def _joined(images: list[list[list | dict]]) -> tuple[np.ndarray, np.ndarray]:
    texts = [json.dumps(outlines, separators=(",", ":")).encode() for outlines in images]
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)
    return np.frombuffer(b"".join(texts), dtype=np.uint8), offsets


def _image_folder(folder: Path, split: str) -> Path:
    places = (folder / "images" / split, folder / split, folder / "images")
    for place in places:
        if place.is_dir():
            return place
    raise DataError(f"{folder}: no images; looked for {', '.join(map(str, places))}")
