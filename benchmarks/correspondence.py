"""ORL's pairs of boxes on photographs: every box embedded once, against the published procedure, in one run.

    python -m benchmarks.correspondence DIR [--limit N] [--backbone resnet18] [--checkpoint PATH] [--size 96] [--work_dir DIR]

DIR/images holds photographs, at any depth. Proposals are found once and kept in --work_dir. The plain form goes image by image,
and embeds the boxes of an image and of all its neighbours anew each time. Both see the same boxes, neighbours and network, which
has learned nothing unless --checkpoint gives one. No process but this one reads, so that its seconds are all of them.
"""

import utils.threads  # noqa: F401  isort: skip  before torch

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.listing import ImageList, walk_images
from data.photometric import normalise
from data.proposals import proposal_type
from data.ragged import Ragged
from engine.checkpoint import load_checkpoint
from engine.precision import memory_format
from evaluation.features import BoxCrops
from models.backbone import make_trunk
from models.encoder import Encoder, make_encoder
from tools.box_pairs import find_pairs
from tools.kept_boxes import BoxRule, ProposalFiles, keep_boxes
from tools.make_proposals import make_proposals
from tools.neighbours import find_neighbours
from utils.cli import positive, shows_errors
from utils.progress import ProgressBar

CPU = torch.device("cpu")
SHARE = 0.1
# As published.
RULE = BoxRule(min_size=96, max_ratio=3, max_iou=0.5, top_n=100)


class Counted(Encoder):
    """An encoder that counts the pictures it was given."""

    pictures = 0

    def forward(self, images: Tensor, *, project: bool) -> Tensor:
        self.pictures += len(images)
        return super().forward(images, project=project)


@dataclass(frozen=True)
class Cost:
    seconds: float
    processor_seconds: float
    pictures: int


def measure(encoder: Counted, work: Callable[[], Any]) -> tuple[Any, Cost]:
    """What `work` returns and what it took."""
    wall, processor, pictures = time.perf_counter(), time.process_time(), encoder.pictures
    result = work()
    return result, Cost(time.perf_counter() - wall, time.process_time() - processor, encoder.pictures - pictures)


def plain_pairs(encoder: Encoder, images: ImageList, boxes: Ragged, neighbours: np.ndarray, *, size: int) -> Ragged:
    """The published procedure: an image's boxes and all its neighbours' are read and embedded when its turn comes."""
    crops = BoxCrops(images, boxes, size=size)

    def embed(index: int) -> Tensor:
        batch = normalise(crops[index] / 255)
        return encoder(batch.contiguous(memory_format=memory_format(CPU)), project=False)

    rows = []
    with ProgressBar(len(images), desc="plain form, images") as bar:
        for index, keys in enumerate(neighbours.tolist()):
            query = embed(index)
            for key in keys:
                similarity = query @ embed(key).T
                places = similarity.flatten().topk(max(1, int(SHARE * len(query)))).indices.numpy()
                own, other = np.divmod(places, similarity.shape[1])
                rows.append(np.concatenate([boxes[index][own], boxes[key][other]], axis=1))
            bar.update(index + 1)
    return Ragged.from_rows(rows, width=8, dtype=np.uint16)


def common_share(first: Ragged, second: Ragged) -> float:
    """Share of the first's pairs that the second has too, with the same image and neighbour."""
    common = sum(len({*map(tuple, one.tolist())} & {*map(tuple, other.tolist())}) for one, other in zip(first, second))
    return common / len(first.values)


def list_photographs(folder: Path, *, limit: int | None) -> ImageList:
    """All splits together."""
    root = folder / "images"
    return ImageList(root, "all", np.array(sorted(walk_images(root))[:limit]))


def make_network(arguments: argparse.Namespace) -> Counted:
    torch.manual_seed(0)
    if arguments.checkpoint:
        encoder = make_encoder(load_checkpoint(arguments.checkpoint), settings={"type": arguments.backbone})
    else:
        encoder = Encoder(make_trunk(arguments.backbone))
    return Counted(encoder.backbone, encoder.projector)


def compare(encoder: Counted, images: ImageList, arguments: argparse.Namespace, folder: Path) -> None:
    """Print what both ways take and whether they agree; stage 2's files go to `folder`."""
    made, cost = measure(encoder, lambda: find_proposals(images, arguments))
    print(f"proposals: {made} images searched in {cost.seconds:.0f} s, {len(images) - made} there already")
    proposals = ProposalFiles(images, arguments.work_dir / "proposals", proposal_type(arguments.max_side))
    boxes, kept = measure(encoder, lambda: keep_boxes(images, proposals, folder, rule=RULE, workers=1))
    options = {"batch_size": 256, "workers": 0, "device": CPU}
    neighbours, found = measure(
        encoder,
        lambda: find_neighbours(
            encoder, images, folder, size=arguments.size, count=arguments.neighbours, memory_mb=256, **options
        ),
    )
    print(
        f"{len(images)} images, {len(boxes.values)} boxes ({boxes.lengths.min()} to {boxes.lengths.max()} an image) kept in "
        f"{kept.seconds:.1f} s, {neighbours.shape[1]} neighbours each found in {found.seconds:.1f} s"
    )
    pairs, costs = {}, {}
    for store in ("float32", "float16"):
        options |= {"share": SHARE, "size": arguments.size, "store": store, "parts": 1}
        pairs[store], costs[store] = measure(
            encoder, lambda: find_pairs(encoder, images, boxes, neighbours, folder / store, **options)
        )
    expected, plain = measure(encoder, lambda: plain_pairs(encoder, images, boxes, neighbours, size=arguments.size))
    report(costs["float16"], plain, encoder.dim(project=False))
    for store, ours in pairs.items():
        rows = np.mean([np.array_equal(one, other) for one, other in zip(expected, ours)])
        print(
            f"{store}: {100 * common_share(expected, ours):.2f} % of {len(expected.values)} pairs are the plain form's, for "
            f"{100 * rows:.2f} % of images and neighbours all of them, in its order"
        )


def find_proposals(images: ImageList, arguments: argparse.Namespace) -> int:
    """How many images had to be searched."""
    return make_proposals(images, arguments.work_dir / "proposals", max_side=arguments.max_side).done


def report(ours: Cost, plain: Cost, width: int) -> None:
    print(
        f"boxes embedded: {ours.pictures}, plain form {plain.pictures}, ratio {plain.pictures / ours.pictures:.1f}; "
        f"disk meanwhile: {ours.pictures * width * 2 / 1e6:.1f} MB in float16, twice that in float32"
    )
    print(f"seconds: {ours.seconds:.1f}, plain form {plain.seconds:.1f}, ratio {plain.seconds / ours.seconds:.1f}")
    ratio = plain.processor_seconds / ours.processor_seconds
    print(
        f"the processor's: {ours.processor_seconds:.1f}, plain form {plain.processor_seconds:.1f}, ratio {ratio:.1f}",
        flush=True,
    )


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--limit", type=positive, help="only the first N photographs")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--checkpoint", type=Path, help="of any method here, or a `backbone.pth`")
    parser.add_argument("--size", type=positive, default=96, help="side of what is embedded, in pixels")
    parser.add_argument("--neighbours", type=positive, default=10)
    parser.add_argument("--max_side", type=positive, help="search images shrunk to this longer side")
    parser.add_argument("--work_dir", type=Path, default=Path("runs/benchmarks/correspondence"))
    parser.add_argument("--threads", type=positive, default=2)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    encoder, images = make_network(arguments), list_photographs(arguments.folder, limit=arguments.limit)
    print(
        f"{arguments.backbone} at {arguments.size} px, {arguments.threads} threads; load of the machine before: "
        f"{os.getloadavg()[0]:.1f}"
    )
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=arguments.work_dir) as folder:
        compare(encoder, images, arguments, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
