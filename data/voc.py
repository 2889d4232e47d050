"""PASCAL VOC's layout: photographs, boxes in XML, segmentations as palette PNGs, and the lists of its tasks.

ROOT/JPEGImages/NAME.jpg
ROOT/Annotations/NAME.xml                       boxes
ROOT/SegmentationClass/NAME.png                 a pixel's class from 1, 0 the background, 255 void
ROOT/ImageSets/{Main,Segmentation}/SPLIT.txt    names
ROOT/ImageSets/Main/CLASS_SPLIT.txt             names, each with 1 (yes), -1 (no) or 0 (difficult)
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data.inside import check_name
from data.object_sets import ImageObjects
from utils.errors import DataError

VOC_CLASSES = tuple(
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep sofa "
    "train tvmonitor".split()
)
VOID = 255


class VocFolder:
    """A dataset in VOC's layout.

    Args:
        root: holds JPEGImages, ImageSets, and Annotations or SegmentationClass; such as VOCdevkit/VOC2007.
        classes: names, in the order of their numbers.
    Raises:
        DataError: no such folder.
    """

    def __init__(self, root: str | Path, classes: Sequence[str] = VOC_CLASSES):
        self.root, self.classes = Path(root), tuple(classes)
        self._label_of = {name: place for place, name in enumerate(self.classes)}
        if not (self.root / "ImageSets").is_dir():
            raise DataError(
                f"{root}: no folder ImageSets there; give the folder of one year, such as VOCdevkit/VOC2007"
            )

    def names(self, split: str, task: str = "Main") -> list[str]:
        """The images of a split, in the list's order."""
        path = self._list_path(split, task)
        names = [check_name(line.split()[0], path) for line in _read_lines(path) if line.strip()]
        if not names:
            raise DataError(f"{path}: no name in it")
        return names

    def image_path(self, name: str) -> Path:
        return self.root / "JPEGImages" / f"{name}.jpg"

    def objects(self, name: str) -> ImageObjects:
        """The objects of an image, their boxes cut to it, without those of which nothing remains.

        Raises:
            DataError: no such file, or one that is damaged or names an unknown class.
        """
        path = self.root / "Annotations" / f"{name}.xml"
        try:
            # Python's expat refuses entities that expand for ever, and reads no other files (tests/test_malice.py).
            tree = ElementTree.parse(path).getroot()  # nosec B314
            size = (int(tree.findtext("size/height")), int(tree.findtext("size/width")))
            entries = [_read_object(entry) for entry in tree.iterfind("object")]
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}; VOC's Annotations are needed") from error
        except (ElementTree.ParseError, TypeError, ValueError) as error:
            raise DataError(f"{path}: no annotation of VOC's kind ({error}); copy it again") from error
        unknown = next((label for label, *_ in entries if label not in self._label_of), None)
        if unknown is not None:
            raise DataError(f"{path}: an object of class {unknown!r}, which data.classes does not name")
        boxes = np.array([box for _, box, _ in entries], dtype=np.float64).reshape(-1, 4)
        boxes = boxes.clip(0, [size[1], size[0], size[1], size[0]])
        labels = np.array([self._label_of[label] for label, *_ in entries], dtype=np.int64)
        difficult = np.array([difficult for *_, difficult in entries], dtype=bool)
        some = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        return ImageObjects(boxes[some], labels[some], difficult[some], size)

    def image_labels(self, split: str) -> tuple[list[str], np.ndarray]:
        """Which classes the images of a split show.

        Returns:
            Names, and (N, C) int8: 1 where an image shows a class, -1 where not, 0 where that is difficult to say.
        Raises:
            DataError: a class' list is missing, or differs from the others in its names, or has other values.
        """
        names = self.names(split)
        columns = [self._class_column(split, label, names) for label in self.classes]
        return names, np.stack(columns, axis=1)

    def segmentation(self, name: str, folder: str = "SegmentationClass") -> np.ndarray:
        """(H, W) uint8: a pixel's class from 1, 0 for the background, 255 for void.

        Raises:
            DataError: no such file, or one that is damaged, in colours, or names a class that there is not.
        """
        path = self.root / folder / f"{name}.png"
        labels = read_labels(path)
        highest = int(labels.max(initial=0, where=labels != VOID))
        if highest > len(self.classes):
            raise DataError(
                f"{path}: a pixel of class {highest}, but there are {len(self.classes)}: check data.classes"
            )
        return labels

    def _list_path(self, split: str, task: str) -> Path:
        folder = self.root / "ImageSets" / task
        path = folder / f"{split}.txt"
        if not path.is_file():
            there = ", ".join(sorted(file.stem for file in folder.glob("*.txt") if "_" not in file.stem)) or "none"
            raise DataError(f"{path}: no such list; there are: {there}")
        return path

    def _class_column(self, split: str, label: str, names: list[str]) -> np.ndarray:
        path = self._list_path(f"{label}_{split}", "Main")
        rows = [line.split() for line in _read_lines(path) if line.strip()]
        if any(len(row) != 2 or row[1] not in ("1", "-1", "0") for row in rows):
            raise DataError(f"{path}: each line must be a name and 1, -1 or 0")
        found = {name: int(value) for name, value in rows}
        if found.keys() != set(names):
            raise DataError(f"{path}: {len(found)} names, which are not the {len(set(names))} of {split}.txt beside it")
        return np.array([found[name] for name in names], dtype=np.int8)


def read_labels(path: Path) -> np.ndarray:
    """(H, W) uint8 of a palette or grey PNG.

    Raises:
        DataError: no such file, or one that is damaged or in colours.
    """
    try:
        with Image.open(path) as picture:
            labels = np.asarray(picture)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    # Damaged files make PIL raise nearly anything.
    except Exception as error:
        raise DataError(f"{path}: {str(error) or type(error).__name__}") from error
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise DataError(f"{path}: {labels.dtype} {labels.shape}, but labels are a palette's indices or 8-bit grey")
    return labels


def _read_object(entry: ElementTree.Element) -> tuple[str, tuple[float, float, float, float], bool]:
    x0, y0, x1, y1 = (float(entry.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
    # VOC counts pixels from 1 and names a box's last ones.
    return entry.findtext("name").strip(), (x0 - 1, y0 - 1, x1, y1), entry.findtext("difficult", "0").strip() == "1"


def _read_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()
