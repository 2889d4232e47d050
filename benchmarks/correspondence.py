"""ORL's pairs of boxes on photographs: every box embedded once, against the published procedure, in one run.

    python -m benchmarks.correspondence DIR [--limit N] [--backbone resnet18] [--checkpoint PATH] [--size 96] [--work_dir DIR]

DIR/images holds photographs, at any depth. Proposals are found once and kept in --work_dir. The baseline goes image by image, and
embeds the boxes of an image and of all its neighbours anew each time. Both see the same boxes, neighbours and network, which has
learned nothing unless --checkpoint gives one. Both take minutes: they run once, and how well they agree is printed with what they
took. No process but this one reads, so that its seconds are all of them.
"""

import utils.threads  # noqa: F401  isort: skip  before torch

import argparse
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

from benchmarks.baselines import correspondence as baseline
from benchmarks.report import Axis, Point, Report, describe, make_parser, points
from data.listing import ImageList, walk_images
from data.proposals import proposal_type
from data.ragged import Ragged
from engine.checkpoint import load_checkpoint
from models.backbone import make_trunk
from models.encoder import Encoder, make_encoder
from tools.box_pairs import find_pairs
from tools.kept_boxes import BoxRule, ProposalFiles, keep_boxes
from tools.make_proposals import make_proposals
from tools.neighbours import find_neighbours
from utils.cli import positive, shows_errors

SHARE = 0.1
# As published.
RULE = BoxRule(min_size=96, max_ratio=3, max_iou=0.5, top_n=100)
AXES = (
    Axis("size", 96, (64, 96, 128, 160), "side of what is embedded, in pixels"),
    Axis("neighbours", 10, (2, 5, 10, 20), "of each image"),
)


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
    return Counted(encoder.backbone, encoder.projector).to(arguments.device)


def find_proposals(images: ImageList, arguments: argparse.Namespace) -> ProposalFiles:
    """What is kept in the work folder, and found where it is not."""
    folder = arguments.work_dir / "proposals"
    begin = time.perf_counter()
    made = make_proposals(images, folder, max_side=arguments.max_side).done
    seconds = time.perf_counter() - begin
    print(f"proposals: {made} images searched in {seconds:.0f} s, {len(images) - made} there already")
    return ProposalFiles(images, folder, proposal_type(arguments.max_side))


def compare(
    report: Report, encoder: Counted, images: ImageList, proposals: ProposalFiles, *, point: Point, folder: Path
) -> None:
    """Report what both ways take and whether they agree; stage 2's files go to `folder`."""
    size, device = point["size"], report.device
    boxes, kept = measure(encoder, lambda: keep_boxes(images, proposals, folder, rule=RULE, workers=1))
    options = {"size": size, "batch_size": 256, "workers": 0, "device": device}
    neighbours, found = measure(
        encoder,
        lambda: find_neighbours(encoder, images, folder, count=point["neighbours"], memory_mb=256, **options),
    )
    report.line(
        f"{describe(point)}: {len(images)} images, {len(boxes.values)} boxes ({boxes.lengths.min()} to {boxes.lengths.max()} "
        f"an image) kept in {kept.seconds:.1f} s, {neighbours.shape[1]} neighbours each found in {found.seconds:.1f} s"
    )
    pairs, costs = {}, {}
    for store in ("float32", "float16"):
        pairs[store], costs[store] = measure(
            encoder,
            lambda: find_pairs(
                encoder, images, boxes, neighbours, folder / store, share=SHARE, store=store, parts=1, **options
            ),
        )
    expected, plain = measure(
        encoder,
        lambda: baseline.find_pairs(encoder, images, boxes, neighbours, size=size, share=SHARE, device=device),
    )
    report_costs(report, costs["float16"], plain, encoder.dim(project=False), point)
    for store, ours in pairs.items():
        rows = np.mean([np.array_equal(one, other) for one, other in zip(expected, ours)])
        common = common_share(expected, ours)
        report.line(
            f"{store}: {100 * common:.2f} % of {len(expected.values)} pairs are the baseline's, for "
            f"{100 * rows:.2f} % of images and neighbours all of them, in its order",
            what=f"agreement, {store}",
            **point,
            common_share=common,
            same_rows_share=float(rows),
        )


def report_costs(report: Report, ours: Cost, plain: Cost, width: int, point: Point) -> None:
    report.line(
        f"boxes embedded: {ours.pictures}, baseline {plain.pictures}, ratio {plain.pictures / ours.pictures:.1f}; "
        f"disk meanwhile: {ours.pictures * width * 2 / 1e6:.1f} MB in float16, twice that in float32",
        what="boxes embedded",
        **point,
        ours_boxes=ours.pictures,
        baseline_boxes=plain.pictures,
        ratio=plain.pictures / ours.pictures,
    )
    times = {
        "seconds": (ours.seconds, plain.seconds),
        "the processor's": (ours.processor_seconds, plain.processor_seconds),
    }
    for what, (own, other) in times.items():
        report.line(
            f"{what}: {own:.1f}, baseline {other:.1f}, ratio {other / own:.1f}",
            what=what,
            **point,
            ours_ms=1e3 * own,
            baseline_ms=1e3 * other,
            ratio=other / own,
        )


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = make_parser(__doc__, AXES)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--limit", type=positive, help="only the first N photographs")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--checkpoint", type=Path, help="of any method here, or a `backbone.pth`")
    parser.add_argument("--max_side", type=positive, help="search images shrunk to this longer side")
    parser.add_argument("--work_dir", type=Path, default=Path("runs/benchmarks/correspondence"))
    arguments = parser.parse_args(argv)
    places = list(points(arguments, AXES))
    with Report("correspondence", arguments) as report:
        encoder, images = make_network(arguments), list_photographs(arguments.folder, limit=arguments.limit)
        print(f"{arguments.backbone}, {encoder.dim(project=False)} numbers a box")
        arguments.work_dir.mkdir(parents=True, exist_ok=True)
        proposals = find_proposals(images, arguments)
        for point in places:
            with TemporaryDirectory(dir=arguments.work_dir) as folder:
                compare(report, encoder, images, proposals, point=point, folder=Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
