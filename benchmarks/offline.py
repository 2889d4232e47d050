"""What the stages before a training cost: label maps, proposals, ORL's features and neighbours; and the hours of whole data sets.

    python -m benchmarks.offline IMAGES_DIR [--images 32] [--json FILE] [--device cuda] [--write docs/offline.md]

IMAGES_DIR holds photographs, at any depth, of which so many are taken, evenly spread. Every stage does what its tool does to an
image, reading and writing included, and all take their turn on one image before the next comes. Times are the processor's, of one
core, so that other work counts little; on a GPU the network's and the search's are by the clock. The network is not trained, and
the features that neighbours are searched among are random: neither changes the work. --write renews what lies between
<!-- offline --> and <!-- end -->.
"""

import utils.threads  # noqa: F401  isort: skip  before torch

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from skimage.segmentation import felzenszwalb

from benchmarks.compare import synchronize
from benchmarks.offline_table import COCO, CORES, IMAGENET, Stage, hours, table
from benchmarks.report import Axis, Point, Report, describe, make_parser, points, renewed
from data.images import read_image
from data.label_maps import label_map_path, read_label_map
from data.listing import ImageList, walk_images
from data.mask_makers import FH, OpenCVFH, Slic
from engine.precision import memory_format
from evaluation.features import CentreCrops
from evaluation.ordered_reading import exact_kernels, prepare_images
from models.backbone import make_trunk
from models.encoder import Encoder
from models.nearest import nearest
from tools.make_proposals import MakeProposals
from tools.mask_tasks import MakeMaps
from utils.cli import shows_errors
from utils.errors import UserError
from utils.files import atomic_write_bytes
from utils.progress import ProgressBar

AXES = (
    Axis("images", 32, (8, 32, 128), "photographs"),
    Axis("size", 224, (96, 160, 224), "side of what the network is shown, in pixels"),
    Axis("bank", 32768, (8192, 32768, 131072), "features that neighbours are searched among"),
    Axis("width", 256, (128, 256, 2048), "numbers of such a feature, as ORL's projector gives"),
)
_QUERIES, _NEIGHBOURS, _BATCH = 1024, 10, 32
_REPEATS = 3


@dataclass(frozen=True)
class PlainFH(FH):
    """The same segments by scikit-image's own loops."""

    _name: ClassVar[str] = "fh_plain"

    def __call__(self, image: np.ndarray, name: str) -> np.ndarray:
        return felzenszwalb(image, **self.parameters)


MAKERS = {"FH": FH(), "FH by scikit-image": PlainFH(), "FH by OpenCV": OpenCVFH(), "SLIC, 100 at 224 px": Slic()}


class Sample(NamedTuple):
    """Photographs, and how many pixels they have in the mean."""

    images: ImageList
    pixels: float


def take_images(folder: Path, count: int) -> Sample:
    """Evenly spread over all of a folder, sorted.

    Raises:
        UserError: there are fewer.
    """
    found = sorted(walk_images(folder)) if folder.is_dir() else []
    if len(found) < count:
        raise UserError(f"{folder}: {len(found)} images below it where --images asks for {count}")
    images = ImageList(folder, "all", np.array(found)[np.arange(count) * len(found) // count])
    pixels = [np.prod(read_image(images.path(index)).shape[:2]) for index in range(count)]
    return Sample(images, float(np.mean(pixels)))


def image_stages(images: ImageList, folder: Path) -> list[Stage]:
    """What is done image by image, with one core.

    Raises:
        UserError: the compiled segments are not scikit-image's.
    """
    # Compiles, and loads what is loaded at the first use.
    for make in _image_tasks(images, folder / "first").values():
        make(0)
    tasks = _image_tasks(images, folder)
    seconds = dict.fromkeys(tasks, 0.0)
    with ProgressBar(len(images), desc="images") as bar:
        for index in range(len(images)):
            # No stage shall be the one that waits for the disk.
            read_image(images.path(index))
            for what, make in tasks.items():
                seconds[what] += _processor_seconds(lambda: make(index))
            bar.update(index + 1)
    _check_equal(images, folder)
    return [Stage(what, total / len(images)) for what, total in seconds.items()]


def _image_tasks(images: ImageList, folder: Path) -> dict[str, Callable[[int], object]]:
    tasks = {what: MakeMaps(images, folder, (maker,), False) for what, maker in MAKERS.items()}
    return tasks | {"selective search": MakeProposals(images, folder, None, False)}


def _check_equal(images: ImageList, folder: Path) -> None:
    for name in map(images.name, range(len(images))):
        ours, plain = (
            read_label_map(label_map_path(folder, maker.type, images.split, name)) for maker in (FH(), PlainFH())
        )
        if not np.array_equal(ours, plain):
            raise UserError(f"{images.root / name}: FH's segments are not scikit-image's")


def feature_stages(images: ImageList, *, backbone: str, size: int, device: torch.device) -> list[Stage]:
    """Reading and cutting out, on a core, and the network, on `device`."""
    crops = CentreCrops(images, size=size)
    pictures = [crops[0]]

    def read() -> None:
        pictures[:] = [crops[index] for index in range(len(images))]

    reading = _processor_seconds(read) / len(images)
    encoder = Encoder(make_trunk(backbone)).to(device, memory_format=memory_format(device))
    batch = torch.cat((pictures * -(-_BATCH // len(pictures)))[:_BATCH])
    with exact_kernels():
        seconds = _device_seconds(lambda: encoder(prepare_images(batch, device), project=True), device)
    return [
        Stage(f"features, reading at {size} px", reading),
        Stage(f"features, {backbone} at {size} px", seconds / _BATCH, on_device=device.type != "cpu"),
    ]


def neighbour_stage(*, bank: int, width: int, device: torch.device) -> Stage:
    """The search, whose time is that of a pair of images."""
    queries, neighbours = min(_QUERIES, bank), min(_NEIGHBOURS, bank - 1)
    generator = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(bank, width, generator=generator), dim=1).to(device)
    own = torch.arange(queries, device=device)
    seconds = _device_seconds(lambda: nearest(rows[:queries], rows, own=own, count=neighbours, block=bank), device)
    what = f"neighbours, {width} numbers"
    return Stage(what, seconds / (queries * bank), on_device=device.type != "cpu", is_of_pair=True)


def _processor_seconds(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def _device_seconds(work: Callable[[], object], device: torch.device) -> float:
    """The least of some runs, after one that does not count: the processor's time, or by the clock of a GPU."""
    work()
    if device.type == "cpu":
        return min(_processor_seconds(work) for _ in range(_REPEATS))
    times = []
    for _ in range(_REPEATS):
        synchronize(device)
        begin = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - begin)
    return min(times)


def measure(report: Report, folder: Path, point: Point, *, backbone: str) -> tuple[list[Stage], float]:
    """All stages at a point of the axes, with a line each, and the mean number of pixels of the images."""
    images, pixels = take_images(folder, point["images"])
    with TemporaryDirectory() as temporary:
        stages = image_stages(images, Path(temporary))
    stages += feature_stages(images, backbone=backbone, size=point["size"], device=report.device)
    stages.append(neighbour_stage(bank=point["bank"], width=point["width"], device=report.device))
    print(f"{describe(point)}; {pixels / 1e6:.2f} million pixels an image in the mean")
    for stage in stages:
        figures = {"ratio": stage.seconds / stages[0].seconds} if stage.what in MAKERS else {}
        of_all = {f"{data.key}_hours": hours(stage, data) for data in (IMAGENET, COCO)}
        where = "a GPU" if stage.on_device else f"{CORES} cores"
        report.line(
            f"{stage.what}: {stage.cost()}; {where}: "
            + ", ".join(f"{data.name} {hours(stage, data):.2g} h" for data in (IMAGENET, COCO)),
            what=stage.what,
            **point,
            pixels=pixels,
            seconds=stage.seconds,
            seconds_of="pair" if stage.is_of_pair else "image",
            on="device" if stage.on_device else "core",
            **figures,
            **of_all,
        )
    return stages, pixels


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = make_parser(__doc__, AXES)
    parser.add_argument("folder", type=Path, metavar="IMAGES_DIR")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--write", type=Path, help="a Markdown file with the marks")
    parser.set_defaults(threads=1)
    arguments = parser.parse_args(argv)
    page = _Page(arguments)
    cv2.setNumThreads(1)
    with Report("offline", arguments) as report:
        for point in points(arguments, AXES):
            stages, pixels = measure(report, arguments.folder, point, backbone=arguments.backbone)
    page.renew(stages, pixels, point["images"])
    return 0


class _Page:
    """The page that --write names, if any; whether it can be renewed is known before anything is measured."""

    def __init__(self, arguments: argparse.Namespace):
        self._path, self._device = arguments.write, arguments.device
        if self._path and arguments.sweep:
            raise UserError("--write takes the table of one point: leave out --sweep")
        self._renewed("")

    def renew(self, stages: list[Stage], pixels: float, count: int) -> None:
        if self._path:
            text = table(stages, pixels=pixels, num_images=count, device=self._device)
            atomic_write_bytes(self._path, self._renewed(text).encode())

    def _renewed(self, text: str) -> str:
        return renewed(self._path, "offline", text) if self._path else ""


if __name__ == "__main__":
    sys.exit(main())
