"""The embedded scenes in the layouts of the datasets that evaluators read, so that each of them runs anywhere.

    python -m tools.make_eval_data --dataset_dir demo_data --output_dir demo_data/layouts

imagenet/{train,val}/CLASS/*.jpg    objects, each cut out with some of what is around it
imagenet/10percent.txt              those of every tenth training scene, as a data.subset
voc/                                PASCAL VOC's: JPEGImages, Annotations, SegmentationClass, ImageSets; objects that fill less
                                    than a fiftieth of the picture are difficult, borders are void
cityscapes/                         Cityscapes': leftImg8bit and gtFine, background as road, categories as the classes after it

DATASET_DIR itself has COCO's layout. Nothing is drawn at random; what is there already, made of the same scenes, is left alone.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image
from pycocotools.coco import COCO

from data.cityscapes import TRAIN_IDS
from data.demo_shapes import CATEGORY_NAMES
from data.images import read_image
from data.voc import VOID
from evaluation.map_scores import find_boundaries
from evaluation.truths import open_coco
from tools.make_demo_data import JPEG_QUALITY, SPLITS, voc_palette
from utils.cli import shows_errors
from utils.errors import DataError, UserError
from utils.files import read_json, write_json
from utils.progress import ProgressBar

# Changes whenever the same scenes give other files.
_VERSION = 1
# An object is cut out with so much around it, as a multiple of its longer side.
_CONTEXT = 1.2
# Of the picture's area, below which an object is difficult.
_DIFFICULT = 0.02


def make_eval_data(dataset_dir: str | Path, output_dir: str | Path) -> bool:
    """Write the layouts, unless they are there.

    Args:
        dataset_dir: the demo data.
        output_dir: made where missing.
    Returns:
        Whether anything had to be made.
    Raises:
        DataError: no demo data; UserError: the folder holds something else.
    """
    source, folder = Path(dataset_dir), Path(output_dir)
    if not (source / "meta.json").is_file():
        raise DataError(
            f"{source}: no demo data there; make it with `python -m tools.make_demo_data --output_dir {source}`"
        )
    meta = {"tool": "make_eval_data", "version": _VERSION, "scenes": read_json(source / "meta.json")["parameters"]}
    if folder.exists() and any(folder.iterdir()):
        found = read_json(folder / "meta.json") if (folder / "meta.json").is_file() else {}
        if {key: found.get(key) for key in meta} != meta:
            raise UserError(f"{folder} holds other files: delete it or choose another --output_dir")
        if found["complete"]:
            return False
    write_json(folder / "meta.json", {**meta, "complete": False})
    _make_voc_folders(folder / "voc")
    for split in SPLITS:
        coco = open_coco(source / "annotations" / f"instances_{split}.json")
        _make_split(source / "images" / split, folder, split, coco)
    some = sorted(path.name for path in (folder / "imagenet" / "train").glob("*/?????0_*.jpg"))
    (folder / "imagenet" / "10percent.txt").write_text("".join(f"{name}\n" for name in some))
    write_json(folder / "meta.json", {**meta, "complete": True})
    return True


def _make_split(images: Path, folder: Path, split: str, coco: COCO) -> None:
    entries = coco.loadImgs(sorted(coco.getImgIds()))
    shown = np.full((len(entries), len(CATEGORY_NAMES)), -1)
    with ProgressBar(len(entries), desc=f"{split} scene") as bar:
        for row, entry in enumerate(entries):
            things = coco.imgToAnns[entry["id"]]
            instances = np.zeros((entry["height"], entry["width"]), dtype=np.uint8)
            for place, thing in enumerate(things, start=1):
                instances[coco.annToMask(thing).astype(bool)] = place
            categories = np.array([0, *(thing["category_id"] for thing in things)], dtype=np.uint8)
            path = images / entry["file_name"]
            _cut_objects(path, folder / "imagenet" / split, things)
            _write_voc(path, folder / "voc", split, things, instances, categories)
            _write_cityscapes(path, folder / "cityscapes", split, instances, categories)
            for thing in things:
                column = thing["category_id"] - 1
                shown[row, column] = max(shown[row, column], 0 if _is_difficult(thing, instances) else 1)
            bar.update(row + 1)
    _write_lists(
        folder / "voc" / "ImageSets", split, [_name(split, images / entry["file_name"]) for entry in entries], shown
    )


def _cut_objects(path: Path, folder: Path, things: Sequence[dict[str, Any]]) -> None:
    """ImageNet's layout: a square around each object, moved into the picture where it would leave it."""
    picture = Image.fromarray(read_image(path))
    for place, thing in enumerate(things):
        x, y, w, h = thing["bbox"]
        side = min(round(_CONTEXT * max(w, h)), *picture.size)
        left, top = (
            min(max(round(start + length / 2 - side / 2), 0), whole - side)
            for start, length, whole in zip((x, y), (w, h), picture.size)
        )
        target = folder / CATEGORY_NAMES[thing["category_id"] - 1] / f"{path.stem}_{place}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        picture.crop((left, top, left + side, top + side)).save(target, quality=JPEG_QUALITY, subsampling=0)


def _make_voc_folders(root: Path) -> None:
    for name in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Main", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True, exist_ok=True)


def _write_voc(
    path: Path, root: Path, split: str, things: Sequence[dict[str, Any]], instances: np.ndarray, categories: np.ndarray
) -> None:
    name = _name(split, path)
    shutil.copyfile(path, root / "JPEGImages" / f"{name}.jpg")
    tree = ElementTree.Element("annotation")
    _add(tree, "filename", f"{name}.jpg")
    size = ElementTree.SubElement(tree, "size")
    for field, value in (("width", instances.shape[1]), ("height", instances.shape[0]), ("depth", 3)):
        _add(size, field, value)
    for thing in things:
        entry = ElementTree.SubElement(tree, "object")
        _add(entry, "name", CATEGORY_NAMES[thing["category_id"] - 1])
        _add(entry, "difficult", int(_is_difficult(thing, instances)))
        box = ElementTree.SubElement(entry, "bndbox")
        x, y, w, h = map(int, thing["bbox"])
        # VOC counts pixels from 1 and names a box's last ones.
        for field, value in (("xmin", x + 1), ("ymin", y + 1), ("xmax", x + w), ("ymax", y + h)):
            _add(box, field, value)
    ElementTree.indent(tree)
    ElementTree.ElementTree(tree).write(root / "Annotations" / f"{name}.xml", encoding="utf-8")
    labels = np.where(find_boundaries(instances), np.uint8(VOID), categories[instances])
    segmentation = Image.fromarray(labels)
    segmentation.putpalette(voc_palette())
    segmentation.save(root / "SegmentationClass" / f"{name}.png")


def _add(parent: ElementTree.Element, field: str, value: object) -> None:
    ElementTree.SubElement(parent, field).text = str(value)


def _write_lists(folder: Path, split: str, names: Sequence[str], shown: np.ndarray) -> None:
    listing = "".join(f"{name}\n" for name in names)
    for task in ("Main", "Segmentation"):
        (folder / task / f"{split}.txt").write_text(listing)
    for label, column in zip(CATEGORY_NAMES, shown.T):
        lines = [f"{name} {value:2d}\n" for name, value in zip(names, column)]
        (folder / "Main" / f"{label}_{split}.txt").write_text("".join(lines))


def _write_cityscapes(path: Path, root: Path, split: str, instances: np.ndarray, categories: np.ndarray) -> None:
    photographs, labels = root / "leftImg8bit" / split / "demo", root / "gtFine" / split / "demo"
    photographs.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    Image.fromarray(read_image(path)).save(photographs / f"demo_{path.stem}_leftImg8bit.png")
    ids = np.array(TRAIN_IDS, dtype=np.uint8)[categories[instances]]
    # 0 is "unlabeled".
    ids[find_boundaries(instances)] = 0
    Image.fromarray(ids).save(labels / f"demo_{path.stem}_gtFine_labelIds.png")


def _is_difficult(thing: dict[str, Any], instances: np.ndarray) -> bool:
    return thing["area"] < _DIFFICULT * instances.size


def _name(split: str, path: Path) -> str:
    """VOC has one folder of pictures for all splits."""
    return f"{split}_{path.stem}"


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", default="demo_data", help="the demo data")
    parser.add_argument("--output_dir", default="demo_data/layouts")
    arguments = parser.parse_args(argv)
    made = make_eval_data(arguments.dataset_dir, arguments.output_dir)
    print(f"{arguments.output_dir}: {'made' if made else 'was there already'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
