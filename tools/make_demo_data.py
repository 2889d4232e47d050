"""Make the demo data: scenes of ten categories of textured objects, with ground truth, from a seed alone.

    python -m tools.make_demo_data --output_dir demo_data [--num_train 4000] [--num_val 1000] [--size 96] [--seed 0]

OUTPUT_DIR/images/{train,val}/*.jpg                     the scenes
OUTPUT_DIR/annotations/instances_{train,val}.json       COCO's format: boxes, categories, visible masks as RLE
OUTPUT_DIR/segmentations/{train,val}/*.png              VOC's: a palette PNG of category ids, 0 for the background

About a minute on one core. What is there already, made with the same parameters, is left alone; a job that was stopped
begins again and makes the same files.
"""

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import skimage
from PIL import Image
from pycocotools import mask as coco_masks

from data.demo_scenes import SCENES_VERSION, Scene, draw_scene
from data.demo_shapes import CATEGORY_NAMES
from utils.cli import shows_errors
from utils.cores import available_cores
from utils.errors import UserError
from utils.files import read_json, write_json
from utils.progress import ProgressBar
from utils.seeding import numpy_generator

SPLITS = ("train", "val")
JPEG_QUALITY = 92
_CHUNK = 25


@dataclass(frozen=True)
class DemoData:
    """What the files hold, whatever made them: equal parameters give equal scenes."""

    num_train: int = 4000
    num_val: int = 1000
    size: int = 96
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("num_train", 1), ("num_val", 1), ("size", 32)):
            if getattr(self, name) < least:
                raise UserError(f"--{name} is {getattr(self, name)}: it must be at least {least}")

    def count(self, split: str) -> int:
        return self.num_train if split == "train" else self.num_val

    def scene(self, split: str, index: int) -> Scene:
        """The index-th scene of a split, drawn from its own stream of random numbers."""
        return draw_scene(numpy_generator(self.seed, SPLITS.index(split), index), size=self.size)

    def as_meta(self) -> dict[str, Any]:
        return {"tool": "make_demo_data", "parameters": {**vars(self), "scenes_version": SCENES_VERSION}}


def make_demo_data(output_dir: str | Path, demo: DemoData, *, workers: int | None = None) -> bool:
    """Write the demo data, unless it is there.

    Args:
        output_dir: made where missing.
        demo: what to make.
        workers: processes; None for all cores. The files do not depend on it.
    Returns:
        Whether anything had to be made.
    Raises:
        UserError: where the folder holds something else.
    """
    folder = Path(output_dir)
    if _is_made(folder, demo):
        return False
    for split in SPLITS:
        (folder / "images" / split).mkdir(parents=True, exist_ok=True)
        (folder / "segmentations" / split).mkdir(parents=True, exist_ok=True)
    # The note comes first, so that a folder left by a stopped job is known as ours, and says that it is not complete.
    write_json(folder / "meta.json", {**demo.as_meta(), "complete": False})
    with ProgressBar(sum(map(demo.count, SPLITS)), desc="scene") as bar:
        done = 0
        for split in SPLITS:
            objects = []
            for scene_objects in _make_split(folder, demo, split, workers or available_cores()):
                objects.append(scene_objects)
                bar.update(done := done + 1)
            write_json(folder / "annotations" / f"instances_{split}.json", coco_annotations(objects, size=demo.size))
    versions = {module.__name__: module.__version__ for module in (np, PIL, skimage)}
    write_json(folder / "meta.json", {**demo.as_meta(), "versions": versions, "complete": True})
    return True


def coco_annotations(objects: list[list[dict[str, Any]]], *, size: int) -> dict[str, Any]:
    """The COCO file of a split.

    Args:
        objects: for each image, in order, what `describe_objects` says.
        size: side of the images in pixels.
    Returns:
        What json.dump takes. Image ids and annotation ids start at 1: pycocotools takes an annotation 0 for none.
    """
    shape = {"width": size, "height": size}
    images = [{"id": index + 1, "file_name": f"{index:06d}.jpg", **shape} for index in range(len(objects))]
    flat = [{"image_id": index + 1, **thing} for index, things in enumerate(objects) for thing in things]
    annotations = [{"id": number, **thing} for number, thing in enumerate(flat, start=1)]
    categories = [{"id": number, "name": name} for number, name in enumerate(CATEGORY_NAMES, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def describe_objects(scene: Scene) -> list[dict[str, Any]]:
    """COCO's fields of each object of a scene: category, visible mask as compressed RLE, its box (x, y, w, h), area."""
    described = []
    for place, category in enumerate(scene.categories.tolist(), start=1):
        encoded = coco_masks.encode(np.asfortranarray(scene.instances == place))
        described.append(
            {
                "category_id": category,
                "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")},
                "bbox": coco_masks.toBbox(encoded).tolist(),
                "area": int(coco_masks.area(encoded)),
                "iscrowd": 0,
            }
        )
    return described


def voc_palette() -> list[int]:
    """The 256 colours of PASCAL VOC's label images, as a flat list of red, green and blue.

    Source: VOC devkit, VOClabelcolormap: the bits of the id, spread over the channels from the top.
    """
    ids = np.arange(256)
    colours = np.zeros((256, 3), int)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((ids >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours.ravel().tolist()


def _is_made(folder: Path, demo: DemoData) -> bool:
    """Whether the data is there; refuses a folder where its files would mix with others."""
    if not folder.exists() or not any(folder.iterdir()):
        return False
    meta = read_json(folder / "meta.json") if (folder / "meta.json").is_file() else {}
    wanted = demo.as_meta()
    if {key: meta.get(key) for key in wanted} != wanted:
        found = f"demo data of {meta['parameters']}" if meta.get("tool") == wanted["tool"] else "other files"
        remedy = f"delete it or choose another --output_dir to make {wanted['parameters']}"
        raise UserError(f"{folder} holds {found}; {remedy}")
    return bool(meta.get("complete"))


def _make_split(folder: Path, demo: DemoData, split: str, workers: int) -> Iterator[list[dict[str, Any]]]:
    """Write the split's scenes; yields the description of each one's objects, in order."""
    maker = _SceneMaker(folder, demo, split)
    if workers == 1:
        yield from map(maker, range(demo.count(split)))
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(maker, range(demo.count(split)), chunksize=_CHUNK)


@dataclass(frozen=True)
class _SceneMaker:
    """Writes one scene's files and describes its objects; what the workers get."""

    folder: Path
    demo: DemoData
    split: str

    def __call__(self, index: int) -> list[dict[str, Any]]:
        scene = self.demo.scene(self.split, index)
        stem = f"{index:06d}"
        # Subsampled colours would smear textures of two pixels' width.
        Image.fromarray(scene.image).save(
            self.folder / "images" / self.split / f"{stem}.jpg", quality=JPEG_QUALITY, subsampling=0
        )
        segmentation = Image.fromarray(scene.segmentation)
        segmentation.putpalette(voc_palette())
        segmentation.save(self.folder / "segmentations" / self.split / f"{stem}.png")
        return describe_objects(scene)


@shows_errors
def main(argv: list[str] | None = None) -> int:
    """The command line; exit code 2 where the folder holds something else or a number is out of range."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--num_train", type=int, default=DemoData.num_train)
    parser.add_argument("--num_val", type=int, default=DemoData.num_val)
    parser.add_argument("--size", type=int, default=DemoData.size, help="side of the images in pixels, at least 32")
    parser.add_argument("--seed", type=int, default=DemoData.seed)
    parser.add_argument("--workers", type=int, help="processes; by default all cores")
    arguments = parser.parse_args(argv)
    demo = DemoData(arguments.num_train, arguments.num_val, arguments.size, arguments.seed)
    made = make_demo_data(arguments.output_dir, demo, workers=arguments.workers)
    what = "made" if made else "were there already"
    print(f"{arguments.output_dir}: {demo.num_train} + {demo.num_val} scenes {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
