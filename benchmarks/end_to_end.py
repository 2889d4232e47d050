"""Whole training with the real loader: images a second and the share of time spent waiting for data, beside each part alone.

    python -m benchmarks.end_to_end [--method r2o|all] [--cfg demo] [--set data.resize_size=48 ...] [--sweep workers 0 1 2]

Workers, batch and size are the config's unless given here. ORL's third stage is measured with --found runs/orl/TIME/stage2, and
BYOL without it; CYBORGS on its first masks.

One process, on the device that training would take unless --device names one. Waiting is the host's, as in a run's log: a GPU may
still be at work meanwhile. Each figure is the median of --repeats passes that take turns.
"""

import utils.threads  # noqa: F401  isort: skip  before torch

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.compare import synchronize
from benchmarks.data_path import images_per_second, worker_milliseconds
from benchmarks.report import Axis, Point, Report, describe, make_parser, points
from benchmarks.synthetic import Trained
from data.loader import Loader
from engine.guard import FiniteGuard
from engine.meter import Meter
from tools.config_table import schema_of
from utils.cli import positive, shows_errors
from utils.config import find_config, load_config
from utils.errors import UserError
from utils.launch import launch
from utils.sections import Common
from wiring import Parts

AXES = (
    Axis("workers", None, (0, 1, 2, 4, 8), "processes that read images (the config's)", least=0),
    Axis("batch", None, (16, 32, 64, 128, 256), "images a step (the config's)"),
    Axis("size", None, (48, 96, 160, 224), "of a view, in pixels (the config's)"),
)
KEYS = {"workers": "data_workers", "batch": "train_batch_size", "size": "resize_size"}
WARM_UP, FEWEST_STEPS = 3, 3
# How a method finds the regions of a batch that it compares; ORL's are found before training.
FIND_REGIONS = {
    "r2o": lambda method, batch: method.find_regions(batch, method.clusters),
    "detconb": lambda method, batch: method.choose_regions(method.find_cells(batch), batch["uniforms"]),
    "cyborgs": lambda method, batch: method.choose_regions(method.find_cells(batch), batch["uniforms"]),
    "resim": lambda method, batch: [method.match(batch, windows) for windows in method.windows],
}
DATA, AUGMENTATION, REGIONS, STEP = "data path", "augmentation", "finding regions", "step, with both"
TOGETHER, WAIT, READ = "whole training", "wait", "read"
# Names in JSON.
COLUMNS = {DATA: "data", AUGMENTATION: "augmentation", REGIONS: "regions", STEP: "step", TOGETHER: "whole"}


def measure(method: str, parts: Parts, device: torch.device, *, steps: int, repeats: int) -> dict[str, list[float]]:
    """What each of `repeats` passes gives: images per second of each part alone and of all together, the share of that time in
    which the host waits for data, and milliseconds that one core needs to read an image.
    """
    prepare = importlib.import_module(f"{method}_main").prepare
    batch = next(iter(parts.loader))
    prepared, images = prepare(batch), len(batch["images"])
    step = _with_step(parts, device)
    forms = {AUGMENTATION: lambda: prepare(batch), STEP: lambda: step(prepare(batch))}
    if find_regions := FIND_REGIONS.get(method):
        forms[REGIONS] = lambda: find_regions(parts.method, prepared)
    found: dict[str, list[float]] = {}
    for epoch in range(repeats):
        speeds = {DATA: images_per_second(parts.loader, num_batches=steps, warm_up=WARM_UP)}
        speeds |= {name: _rate(work, images, device, steps) for name, work in forms.items()}
        speeds[TOGETHER], speeds[WAIT] = _train(
            parts.loader, lambda batch: step(prepare(batch)), epoch, images, device, steps
        )
        speeds[READ] = worker_milliseconds(parts.loader.dataset, num_images=min(32, parts.loader.num_images), repeats=1)
        for name, value in speeds.items():
            found.setdefault(name, []).append(value)
    return found


def _with_step(parts: Parts, device: torch.device) -> Callable[[dict[str, Any]], Any]:
    """What makes the loop's own step of a prepared batch."""
    # A batch a step, whatever the config accumulates: the time that an image takes is nearly the same.
    plan = parts.plan._replace(accumulate_steps=1)
    meter = Meter(device, images_per_step=parts.loader.batch_size)
    trained = Trained(
        parts.method, parts.method, parts.optimizer, parts.precision, plan, FiniteGuard(device), meter, batch={}
    )
    return lambda batch: trained._replace(batch=batch).step()


def _train(
    loader: Loader, step: Callable[[dict], Any], epoch: int, images: int, device: torch.device, steps: int
) -> tuple[float, float]:
    """Images a second, and the share of the time in which the host waits for a batch."""
    loader.set_epoch(epoch)
    batches, waits = iter(loader), []

    def work() -> None:
        before = time.perf_counter()
        batch = next(batches)
        waits.append(time.perf_counter() - before)
        step(batch)

    speed = _rate(work, images, device, steps)
    return speed, sum(waits[WARM_UP:]) * speed / (images * steps)


def _rate(work: Callable[[], Any], images: int, device: torch.device, steps: int) -> float:
    for _ in range(WARM_UP):
        work()
    synchronize(device)
    begin = time.perf_counter()
    for _ in range(steps):
        work()
    synchronize(device)
    return images * steps / (time.perf_counter() - begin)


def tell(report: Report, name: str, point: Point, found: dict[str, list[float]], *, steps: int) -> None:
    """A table of the parts, and a row of the JSON; a part's share is of the time that an image takes in whole training."""
    middle = {key: statistics.median(values) for key, values in found.items()}
    whole = middle[TOGETHER]
    lines = [f"{name} ({describe(point)}), {steps} steps, {len(found[TOGETHER])} times"]
    lines.append(f"{'':<20}{'images/s':>10}{'from':>10}{'to':>10}{'ms/image':>10}{'share of whole':>16}")
    for part in COLUMNS:
        if part in found:
            numbers = middle[part], min(found[part]), max(found[part])
            speeds = "".join(f"{number:>10.1f}" for number in numbers)
            lines.append(f"{part:<20}{speeds}{1e3 / middle[part]:>10.2f}{whole / middle[part]:>16.0%}")
    # Within each pass, in which all parts meet the same machine.
    ratios = [one / min(two) for one, *two in zip(found[TOGETHER], found[DATA], found[STEP])]
    of_slower = statistics.median(ratios)
    lines.append(
        f"{middle[WAIT]:.0%} of the time is spent waiting for data; whole training is at {of_slower:.0%} of its slower part "
        f"alone; one core reads and cuts an image, label map included, in {middle[READ]:.2f} ms"
    )
    speeds = {f"{COLUMNS[part]}_images_per_second": middle[part] for part in COLUMNS if part in found}
    report.line(
        "\n".join(lines),
        what=name,
        **point,
        threads=torch.get_num_threads(),  # a config may have its own number
        **speeds,
        whole_range=[min(found[TOGETHER]), max(found[TOGETHER])],
        wait_share=middle[WAIT],
        of_slower_share=of_slower,
        read_ms=middle[READ],
    )


def load(method: str, arguments: argparse.Namespace, point: Point) -> Common:
    """The method's config, at a point of the axes."""
    overrides = [*arguments.overrides, *(f"data.{KEYS[axis]}={value}" for axis, value in point.items())]
    if method == "orl" and arguments.found is None:
        overrides.append("model.variant=byol")
    elif method == "cyborgs":
        overrides.append("baseline=true")
    return load_config(find_config(arguments.cfg, method=method), schema_of(method), overrides=overrides)[0]


def places(method: str, arguments: argparse.Namespace) -> Iterator[Point]:
    """The points to measure, with the config's numbers where the command line gives none."""
    data = load(method, arguments, {}).data
    given = vars(arguments)
    own = {axis: getattr(data, key) if given[axis] is None else given[axis] for axis, key in KEYS.items()}
    return points(argparse.Namespace(**given | own), AXES)


def run(report: Report, method: str, arguments: argparse.Namespace, point: Point) -> None:
    config = load(method, arguments, point)
    torch.set_num_threads(config.threads or arguments.threads)
    options = {"orl": {"found": arguments.found}, "cyborgs": {"run_folder": Path()}}.get(method, {})
    parts = importlib.import_module(f"{method}_main").build(config, report.device, **options)
    steps = min(arguments.steps, len(parts.loader) - WARM_UP)
    if steps < FEWEST_STEPS:
        raise UserError(
            f"{method}: an epoch has {len(parts.loader)} batches and {WARM_UP + FEWEST_STEPS} are needed: lower the batch size"
        )
    parts.method.before_step(parts.plan.progress(0))
    name = "byol" if method == "orl" and arguments.found is None else method
    found = measure(method, parts, report.device, steps=steps, repeats=arguments.repeats)
    tell(report, name, point, found, steps=steps)


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = make_parser(__doc__, AXES)
    parser.set_defaults(device=None)
    parser.add_argument("--method", default="r2o", help="which METHOD_main.py, or all of them")
    parser.add_argument("--cfg", default="demo", help="a config of the method, by name or path")
    parser.add_argument("--set", nargs="+", default=[], action="extend", dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--steps", type=positive, default=20, help="at most, in a pass; an epoch has to hold them")
    parser.add_argument("--repeats", type=positive, default=3, help="passes")
    parser.add_argument("--found", type=Path, metavar="DIR", help="what ORL's second stage found")
    arguments = parser.parse_args(argv)
    arguments.device = arguments.device or launch(None)
    methods = [arguments.method]
    if arguments.method == "all":
        methods = sorted(path.name.removesuffix("_main.py") for path in Path().glob("*_main.py"))
    # Every config is read before anything is measured.
    chosen = [(method, point) for method in methods for point in places(method, arguments)]
    with Report("end_to_end", arguments) as report:
        for method, point in chosen:
            run(report, method, arguments, point)
    return 0


if __name__ == "__main__":
    sys.exit(main())
