"""A few pictures with all that ORL's second stage must bear, a tiny network, and several processes in one."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data.listing import ImageList, find_images
from data.ragged import Ragged
from evaluation import features
from models.backbone import make_trunk
from models.encoder import Encoder
from models.heads import MLP
from tools import box_pairs, kept_boxes, neighbours
from tools.box_pairs import find_pairs
from tools.kept_boxes import BoxRule, keep_boxes
from tools.neighbours import find_neighbours

COUNT = 11
NO_IMAGE, TRUNCATED, NOTHING_FOUND = 3, 8, 6
SIZE = 16
RULE = BoxRule(min_size=8, max_ratio=3, max_iou=0.5, top_n=12)
CPU = {"device": torch.device("cpu"), "workers": 0}
# Of the jobs' parts, so that these few images make several of each.
SMALL = {
    (kept_boxes, "_IMAGES_A_CHUNK"): 4,
    (neighbours, "_IMAGES_A_CHUNK"): 4,
    (neighbours, "_QUERIES"): 3,
    (box_pairs, "_BOXES_A_CHUNK"): 20,
    (box_pairs, "_QUERIES"): 2,
}


def make_images(folder: Path) -> ImageList:
    """Pictures of several sizes; one is no image, of one only the header is sound."""
    rng = np.random.default_rng(0)
    (folder / "train").mkdir(parents=True)
    for number in range(COUNT):
        path = folder / "train" / f"{number:02d}.png"
        blocks = rng.integers(0, 256, (3 + number % 2, 4, 3))
        Image.fromarray(np.kron(blocks, np.ones((12, 13, 1))).astype(np.uint8)).save(path)
        if number == NO_IMAGE:
            path.write_bytes(b"no image")
        if number == TRUNCATED:
            path.write_bytes(path.read_bytes()[:-60])
    return find_images(folder)


def make_proposals() -> list[np.ndarray | None]:
    """Random boxes inside every picture; None where there is no image, none at all where nothing was found."""
    rng = np.random.default_rng(1)
    found = []
    for number in range(COUNT):
        height, width = 12 * (3 + number % 2), 52
        x, y = rng.integers(0, width - 8, 60), rng.integers(0, height - 8, 60)
        w, h = rng.integers(4, width - x + 1), rng.integers(4, height - y + 1)
        found.append(np.stack([x, y, w, h], axis=1).astype(np.uint16))
    found[NO_IMAGE], found[NOTHING_FOUND] = None, found[0][:0]
    return found


def make_boxes() -> Ragged:
    """Boxes of every picture, three to eight; of the one that is no image, and of another, none."""
    proposals = make_proposals()
    rows = [[] if row is None else row[: 3 + 2 * number % 6] for number, row in enumerate(proposals)]
    return Ragged.from_rows(rows, width=4, dtype=np.uint16)


def make_neighbours() -> np.ndarray:
    """(N, 3) other images, the unreadable ones too; some have one only."""
    rng = np.random.default_rng(2)
    chosen = np.stack([rng.choice(np.delete(np.arange(COUNT), own), 3, replace=False) for own in range(COUNT)])
    chosen[[NO_IMAGE, 5], 1:] = -1
    return chosen.astype(np.int32)


def make_encoder() -> Encoder:
    """A tiny trunk with a projector, whose features of different pictures differ well."""
    torch.manual_seed(0)
    trunk = make_trunk("resnet_tiny", width=4)
    projector = MLP(trunk.levels["c5"].channels, hidden_dim=16, output_dim=8)
    # Without statistics of a batch, features are nearly parallel.
    for module in (*trunk.modules(), *projector.modules()):
        if hasattr(module, "momentum"):
            module.momentum = 1.0
    projector(trunk(torch.randn(64, 3, SIZE, SIZE))["c5"].mean((2, 3)))
    return Encoder(trunk, projector)


def run_stage(encoder: Encoder, images: ImageList, folder: Path) -> None:
    """All of the second stage but its pictures."""
    boxes = keep_boxes(images, make_proposals(), folder, rule=RULE, workers=1)
    nearest = find_neighbours(encoder, images, folder, size=SIZE, count=3, batch_size=4, memory_mb=16, **CPU)
    options = {"share": 0.3, "size": SIZE, "batch_size": 7, "store": "float16", "parts": 2}
    find_pairs(encoder, images, boxes, nearest, folder, **options, **CPU)


class Together:
    """Threads that take themselves for the processes of a group, each with its rank; all but the first are late."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int):
        self._count, self._own = count, threading.local()
        self._told: list[Queue] = [Queue() for _ in range(count)]
        self._barrier = threading.Barrier(count, timeout=60)
        for module in (box_pairs, features, kept_boxes, neighbours):
            for name in ("rank", "world_size", "barrier", "on_main"):
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, getattr(self, name))
        # Whoever does not wait for them misses their files, or takes away what they need.
        files = ((features, "save_array"), (neighbours, "save_array"), (Ragged, "save"), (box_pairs, "RowStore"))
        for owner, name in files:
            monkeypatch.setattr(owner, name, self._late(getattr(owner, name)))

    def _late(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def called_late(*arguments: Any) -> Any:
            if self.rank() > 0:
                time.sleep(0.03)
            return function(*arguments)

        return called_late

    def rank(self) -> int:
        return self._own.rank

    def world_size(self) -> int:
        return self._count

    def barrier(self) -> None:
        self._barrier.wait()

    def on_main(self, function: Callable[[], Any]) -> Any:
        if self.rank() > 0:
            return self._told[self.rank()].get(timeout=60)
        # As a broadcast, it does not wait until the others listen.
        told = function()
        for queue in self._told[1:]:
            queue.put(told)
        return told

    def run(self, work: Callable[[], None]) -> None:
        """`work` on all; the first error."""

        def run_one(rank: int) -> None:
            self._own.rank = rank
            try:
                work()
            except BaseException:
                # Else the others would wait for it.
                self._barrier.abort()
                raise

        with ThreadPoolExecutor(self._count) as pool:
            for result in [pool.submit(run_one, rank) for rank in range(self._count)]:
                result.result()
