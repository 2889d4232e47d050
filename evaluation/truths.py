"""What people say is in an image: COCO's objects, or segmentations by one or more people."""

import argparse
import contextlib
import io
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image
from pycocotools.coco import COCO

from utils.errors import DataError


class Truth(Protocol):
    """Gives what each person drew in an image.

    Attributes:
        background: whether 0 is no object.
    """

    background: bool

    def __call__(self, name: str) -> list[np.ndarray]:
        """One (H, W) map of integers a person, at least one, all of one shape.

        Args:
            name: the image's path relative to its split's folder.
        Raises:
            DataError: there is none for this image, or it is damaged.
        """
        ...


def open_coco(annotations: str | Path) -> COCO:
    """pycocotools' index of a file, without its prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(annotations))


class CocoObjects:
    """COCO's objects, numbered from 1, each where no smaller one covers it; crowds are background.

    Args:
        annotations: an instances_*.json; read at once, so that worker processes share it.
    Raises:
        DataError: no such file, or no COCO annotations.
    """

    background = True

    def __init__(self, annotations: str | Path):
        self._path = annotations
        try:
            self._coco = open_coco(annotations)
            self._ids = {entry["file_name"]: entry["id"] for entry in self._coco.dataset["images"]}
        except OSError as error:
            raise DataError(f"{annotations}: {error.strerror}; COCO's instances_*.json is needed") from error
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
            raise DataError(f"{annotations}: no COCO annotations of objects: {type(error).__name__} {error}") from error

    def __call__(self, name: str) -> list[np.ndarray]:
        number = self._ids.get(name, self._ids.get(Path(name).name))
        if number is None:
            raise DataError(f"{self._path}: names no image {name}; give the annotations of these images")
        objects = [one for one in self._coco.imgToAnns[number] if not one.get("iscrowd")]
        try:
            entry = self._coco.imgs[number]
            instances = np.zeros((entry["height"], entry["width"]), dtype=np.int32)
            masks = [self._coco.annToMask(one).astype(bool) for one in objects]
            for place, mask in enumerate(sorted(masks, key=np.sum, reverse=True), start=1):
                instances[mask] = place
        # An object that is not as COCO describes makes pycocotools raise nearly anything.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise DataError(f"{self._path}: {name}: no objects of COCO's kind: {reason}") from error
        return [instances]


class HumanSegments:
    """Segmentations as label images: {stem}.png, or {stem}_K.png for the K-th person, as in BSDS.

    Args:
        folder: holds them, below the same folders as the images, if any.
    Raises:
        DataError: no such folder, or no PNG in it.
    """

    background = False

    def __init__(self, folder: str | Path):
        self._folder = Path(folder)
        files = sorted(path.relative_to(folder) for path in self._folder.rglob("*.png"))
        if not files:
            raise DataError(f"{folder}: no PNG there; give the folder of this split's segmentations, {{stem}}_K.png")
        self._exact = {str(file.with_suffix("")): file for file in files}
        self._numbered = defaultdict(list)
        for stem, file in self._exact.items():
            if numbered := re.fullmatch(r"(.+)_\d+", stem):
                self._numbered[numbered[1]].append(file)

    def __call__(self, name: str) -> list[np.ndarray]:
        stem = str(Path(name).with_suffix(""))
        files = [self._exact[stem]] if stem in self._exact else self._numbered.get(stem, [])
        if not files:
            raise DataError(f"{self._folder}: neither {stem}.png nor {stem}_K.png there for the image {name}")
        maps = [_read_labels(self._folder / file) for file in files]
        if len({one.shape for one in maps}) > 1:
            sizes = ", ".join(f"{file.name} {one.shape[1]} x {one.shape[0]}" for file, one in zip(files, maps))
            raise DataError(f"{self._folder}: segmentations of one image differ in size: {sizes}")
        return maps


def _read_labels(path: Path) -> np.ndarray:
    """(H, W) integers of a label image, a palette's indices included."""
    try:
        with Image.open(path) as labels:
            values = np.asarray(labels)
    # Damaged files make PIL raise nearly anything.
    except Exception as error:
        raise DataError(f"{path}: {str(error) or type(error).__name__}") from error
    if values.ndim != 2 or values.dtype.kind not in "biu":
        raise DataError(f"{path}: {values.dtype} {values.shape}, but labels are a palette's indices or integers")
    return values.astype(np.uint8) if values.dtype == bool else values


class NoTruth(DataError):
    """Nothing beside the images says what is in them."""


def find_truth(dataset_dir: str | Path, split: str) -> Truth:
    """What lies beside the images: annotations/instances_SPLIT.json, or instances_SPLIT2017.json as COCO's, or segments/SPLIT.

    Raises:
        NoTruth: nothing does.
    """
    folder = Path(dataset_dir)
    files = [folder / "annotations" / f"instances_{name}.json" for name in (split, f"{split}2017")]
    for file in files:
        if file.is_file():
            return CocoObjects(file)
    if (folder / "segments" / split).is_dir():
        return HumanSegments(folder / "segments" / split)
    raise NoTruth(f"{folder}: neither annotations/{files[0].name} nor segments/{split} there")


def add_truth_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --annotations and --segments, of which one may be given."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--annotations", metavar="FILE", help="COCO's instances_*.json of these images")
    group.add_argument("--segments", metavar="DIR", help="human segmentations of the split, {stem}_K.png or {stem}.png")


@contextmanager
def naming_truth_options() -> Iterator[None]:
    """The context of a program with --annotations and --segments, which NoTruth's message then names."""
    try:
        yield
    except NoTruth as error:
        raise NoTruth(f"{error}; give --annotations or --segments") from None


def chosen_truth(arguments: argparse.Namespace) -> Truth | None:
    """The one that the command line names, if any.

    Raises:
        DataError: it is not there, or is damaged.
    """
    if arguments.annotations:
        return CocoObjects(arguments.annotations)
    return HumanSegments(arguments.segments) if arguments.segments else None
