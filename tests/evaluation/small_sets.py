"""Datasets of a few pictures for the evaluators that train nothing, a tiny network, and how to run them."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

from utils.config import CONFIGS

CLASSES = ("blue", "green", "red")
BACKBONE = {"type": "resnet_tiny", "width": 4}


def paint(path: Path, colour: int, *, seed: int, box: tuple[int, int, int, int] | None = None) -> None:
    """A noisy picture of 40 x 30 with a box of one pure colour, 0 to 2; all of it without a box."""
    picture = np.random.default_rng(seed).integers(100, 140, (30, 40, 3))
    x0, y0, x1, y1 = box or (0, 0, 40, 30)
    picture[y0:y1, x0:x1] = 20
    picture[y0:y1, x0:x1, colour] = 235
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture.astype(np.uint8)).save(path, quality=95)


def make_imagenet(root: Path, *, train: int = 4, val: int = 3) -> Path:
    """ROOT/{train,val}/CLASS: so many pictures a class, each of its colour."""
    for split, count in (("train", train), ("val", val)):
        for colour, name in enumerate(CLASSES):
            for number in range(count):
                paint(root / split / name / f"{number}.png", colour, seed=len(split) * 100 + 10 * colour + number)
    return root


def make_voc(root: Path, *, count: int = 12) -> Path:
    """VOC's layout: `count` pictures a split, each of one colour, which is its class; the first of each is difficult to tell."""
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for split in ("trainval", "test"):
        names = [f"{split}{number}" for number in range(count)]
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for colour, label in enumerate(CLASSES):
            values = [1 if number % 3 == colour else -1 for number in range(count)]
            values[colour + 3] = 0
            (lists / f"{label}_{split}.txt").write_text("".join(f"{n} {v:2d}\n" for n, v in zip(names, values)))
        for number, name in enumerate(names):
            paint(root / "JPEGImages" / f"{name}.jpg", number % 3, seed=number + len(split))
    return root


def make_birds(root: Path, *, count: int = 6) -> Path:
    """The layout of the birds: a box of colour on grey each; of every two images the second is for testing."""
    rows = []
    for number in range(count):
        name, box = f"00{number % 2}.Kind/Bird_{number}", (5 + number, 4, 25 + number, 20)
        rows.append(f"{number + 1} {name}.jpg")
        paint(root / "images" / f"{name}.jpg", number % 3, seed=number, box=box)
        share = np.zeros((30, 40), dtype=np.uint8)
        # Two of five annotators see a bird all around it.
        share[2:24, 2:38] = 102
        share[box[1] : box[3], box[0] : box[2]] = 153
        path = root / "segmentations" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(share).save(path)
    (root / "images.txt").write_text("\n".join(rows) + "\n")
    (root / "train_test_split.txt").write_text("".join(f"{n + 1} {1 - n % 2}\n" for n in range(count)))
    return root


def write_config(path: Path, name: str, folder: Path, **sections: dict) -> Path:
    """The shipped config PROGRAM/NAME with the tiny network, on a small dataset, and with some keys changed."""
    config = yaml.safe_load((CONFIGS / "evaluation" / f"{name}.yaml").read_text())
    config["model"] |= {"backbone": BACKBONE, "recalibrate_norm": True}
    config["data"] |= {"dir": str(folder), "data_workers": 0, "val_batch_size": 4}
    for name, values in sections.items():
        config[name] = config.get(name, {}) | values
    path.write_text(yaml.safe_dump(config))
    return path


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def evaluate(main: Callable[[list[str]], int], config: Path, out: Path, *arguments: str) -> dict[str, float]:
    """Run an evaluator's main; its metrics."""
    assert main(["--cfg", str(config), "--out", str(out), *arguments]) == 0
    metrics = results(out)["metrics"]
    assert all(math.isfinite(value) for value in metrics.values())
    return metrics


def unit_rows(count: int, dim: int, *, seed: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=1)
