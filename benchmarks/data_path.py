"""How fast images come: by part and method, and beside the published pipelines, on photographs of any size.

    python -m benchmarks.data_path IMAGES_DIR [--method r2o] [--limit 32] [--repeats 7] [--size N] [--workers N]
        [--sweep size 240 481 1000 2000] [--sweep workers 1 2 4 8] [--device cuda] [--json FILE]

Milliseconds of the processor for an image on one core (of a GPU by the clock), medians of rounds in which parts and pipelines
take turns. All has been read once before: the disk does not count. Our views' colours change on the device, by batches; the
published ones' in the worker: the ratio is given without that part, as where a GPU does it, and with it. Superpixels and masks
lie on the disk, but for the published R2O, which finds superpixels as it goes. Photographs that --size enlarges hold less detail
than a camera's.
"""

import utils.threads  # noqa: F401  isort: skip  before torch

import importlib
import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path

import cv2
import torch
from torch import Tensor
from torch.utils.data import Dataset

from benchmarks.compare import alternate
from benchmarks.data_pipelines import METHODS, Pipeline, make_folder, make_pipeline
from benchmarks.report import Axis, Point, Report, make_parser, points
from data.listing import find_images
from data.loader import Loader
from data.orientation import upright_shape
from data.sampler import EpochSampler
from data.views import collate
from utils.cli import positive, shows_errors
from utils.threads import one_thread

AXES = (
    # BSDS500's photographs have 481.
    Axis("size", None, (240, 481, 1000, 2000), "longer side that photographs are resized to, in pixels; default: none"),
    Axis("workers", 2, (1, 2, 4, 8), "processes of the loader"),
)
# Mean difference of normalised values between two pipelines: 8-bit rounding after each operation is 0.02, PIL's blur 0.03.
_ALIKE = 0.06
_BATCH, _BATCHES = 16, 20  # of the loader


def worker_milliseconds(dataset: Dataset, *, num_images: int, repeats: int = 3) -> float:
    """Milliseconds one core takes for an image: read, decode, cut, load the label map.

    Args:
        dataset: takes (epoch, index).
        num_images: how many of its first images to go through; they are read once before, so the disk does not count.
        repeats: passes over them; the fastest counts.
    """
    with one_thread():
        passes = [_pass_seconds(dataset, epoch, num_images) for epoch in range(repeats + 1)][1:]
    return min(passes) / num_images * 1000


def images_per_second(loader: Loader, *, num_batches: int, warm_up: int = 2) -> float:
    """Images a second of the whole data path, batches on the device, nothing done with them.

    Args:
        loader: at least `warm_up + num_batches` batches an epoch.
        num_batches: batches to time.
        warm_up: batches before, during which the workers start.
    Raises:
        ValueError: the epoch is too short.
    """
    if len(loader) < warm_up + num_batches:
        raise ValueError(f"an epoch has {len(loader)} batches, fewer than {warm_up} + {num_batches}")
    loader.set_epoch(0)
    images = 0
    for number, batch in enumerate(loader):
        if number == warm_up:
            begin = time.perf_counter()
        elif number > warm_up:
            images += len(batch["images"])
            if number == warm_up + num_batches:
                break
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return images / (time.perf_counter() - begin)


def _pass_seconds(dataset: Dataset, epoch: int, num_images: int) -> float:
    begin = time.perf_counter()
    for index in range(num_images):
        dataset[epoch, index]
    return time.perf_counter() - begin


def check_alike(pipeline: Pipeline) -> None:
    """Both pipelines make the same of the first photographs, up to rounding and PIL's blur.

    Raises:
        ValueError: they do not; names the method and the part.
    """
    prepare = _prepare(pipeline.method)
    for index in range(min(4, len(pipeline.items))):
        ours = prepare(collate([pipeline.items[index]]))
        for key, theirs in pipeline.published(index).items():
            if not _are_alike(key, ours[key][0], theirs):
                raise ValueError(f"{pipeline.method}: {key} of the two pipelines differ")


def _are_alike(key: str, ours: Tensor, theirs: Tensor) -> bool:
    if not ours.is_floating_point():
        return bool((ours == theirs).float().mean() > 0.99)
    # Patches are mirrored at random, and the second is a random one beside the first.
    chosen = [0, 2, 3] if key == "patches" else ...
    apart = [(ours - other)[chosen].abs().mean((-3, -2, -1)) for other in (theirs, theirs.flip(-1))]
    return bool((torch.minimum(*apart) if key == "patches" else apart[0]).max() < _ALIKE)


def _prepare(method: str):
    return importlib.import_module(f"{method}_main").prepare


def measure_core(report: Report, pipeline: Pipeline, size: int, *, repeats: int) -> None:
    """Lines and rows of one core's milliseconds an image, by part; a GPU's are by the clock."""
    check_alike(pipeline)
    count = len(pipeline.items)
    forms = {**pipeline.parts(), "all of a worker": lambda index: pipeline.dataset[0, index]}
    forms["published pipeline"] = pipeline.published
    work = {name: lambda form=form: [form(index) for index in range(count)] for name, form in forms.items()}
    work["collate"] = lambda: collate(pipeline.items)
    with one_thread():
        totals = alternate(work, repeats=repeats, seconds=120, clock=time.process_time)
    times = {name: total / count for name, total in totals.items()}
    published = times.pop("published pipeline")
    worker = times["all of a worker"] + times["collate"]
    batch, prepare = collate(pipeline.items), _prepare(pipeline.method)
    moved = {name: _move(name, value, report.device) for name, value in batch.items()}
    clock = time.perf_counter if report.device.type == "cuda" else time.process_time
    step = alternate({"": lambda: prepare(moved)}, repeats=repeats, device=report.device, clock=clock)[""] / count
    method, place = pipeline.method, f"photometric on {report.device}"
    for name, part in {**times, place: step, "published pipeline": published}.items():
        report.line(f"  {name:<28}{part:>9.3f} ms", what="part", part=name, method=method, size=size, ms=part)
    ratios = {"ratio": published / worker, "ratio_with_photometric": published / (worker + step)}
    report.line(
        f"  {1e3 / worker:.0f} images/s/core; the published pipeline takes {ratios['ratio']:.1f} times as long as a worker, "
        f"{ratios['ratio_with_photometric']:.1f} times as with the photometric part",
        what="worker",
        method=method,
        size=size,
        images_per_second_core=1e3 / worker,
        ours_ms=worker,
        baseline_ms=published,
        **ratios,
    )


def _move(name: str, value: object, device: torch.device) -> object:
    # Parameters are read on the CPU.
    return value.to(device) if isinstance(value, Tensor) and "photometric" not in name else value


class _Repeated(Dataset):
    """A dataset of few images as one of many."""

    def __init__(self, dataset: Dataset, times: int):
        self._dataset, self._times = dataset, times

    def __len__(self) -> int:
        return len(self._dataset) * self._times

    def __getitem__(self, key: tuple[int, int]) -> dict:
        return self._dataset[key[0], key[1] % len(self._dataset)]


def measure_loader(report: Report, pipeline: Pipeline, point: Point) -> None:
    """A line and a row of what worker processes deliver together, batches on the device."""
    warm_up = 2 * point["workers"] + 2
    count = (warm_up + _BATCHES) * _BATCH
    dataset = _Repeated(pipeline.dataset, -(-count // len(pipeline.items)))
    sampler = EpochSampler(len(dataset), batch_size=_BATCH, world_size=1, rank=0, accumulate_steps=1, seed=0)
    loader = Loader(dataset, sampler, workers=point["workers"], device=report.device)
    speed = images_per_second(loader, num_batches=_BATCHES, warm_up=warm_up)
    text = f"  {speed:.0f} images/s come from {point['workers']} workers"
    report.line(text, what="loader", method=pipeline.method, **point, images_per_second=speed)


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = make_parser(__doc__, AXES)
    parser.add_argument("folder", type=Path, metavar="IMAGES_DIR")
    parser.add_argument("--method", choices=(*METHODS, "all"), default="all")
    parser.add_argument("--limit", type=positive, default=32, help="photographs (32)")
    parser.add_argument("--repeats", type=positive, default=7, help="rounds (7)")
    parser.add_argument("--dct_scaling", action="store_true", help="as data.dct_scaling; not by part")
    arguments = parser.parse_args(argv)
    cv2.setNumThreads(1)
    methods = METHODS if arguments.method == "all" else (arguments.method,)
    found = find_images(arguments.folder)
    photographs = [found.path(index) for index in range(min(arguments.limit, len(found)))]
    with Report("data_path", arguments) as report:
        for size, group in itertools.groupby(points(arguments, AXES), key=lambda point: point["size"]):
            with tempfile.TemporaryDirectory() as folder:
                images = make_folder(Path(folder), photographs, longer=size)
                made = [make_pipeline(method, images, dct_scaling=arguments.dct_scaling) for method in methods]
                _measure(report, made, list(group), repeats=arguments.repeats)
    return 0


def _measure(report: Report, pipelines: list[Pipeline], group: list[Point], *, repeats: int) -> None:
    """All methods at the points of one size of photographs."""
    images = pipelines[0].dataset.images
    # Photographs that are left as they are have a size too.
    longer = round(statistics.median(max(upright_shape(images.path(index))) for index in range(len(images))))
    for pipeline in pipelines:
        report.line(f"{pipeline.method}: {len(images)} photographs, longer side {longer} px")
        measure_core(report, pipeline, longer, repeats=repeats)
        for point in group:
            measure_loader(report, pipeline, point | {"size": longer})


if __name__ == "__main__":
    sys.exit(main())
