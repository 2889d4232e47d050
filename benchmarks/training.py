"""Where a training step's time goes: the data path alone, the step alone, and both together.

    python -m benchmarks.training [--method r2o] [--cfg demo] [--set data.train_batch_size=32 ...] [--steps 20] [--found DIR]

ORL's third stage is measured with --found runs/orl/TIME/stage2, and BYOL without it; CYBORGS on its first masks.

One process, the device that training would take. The figures of one run belong together: machines differ, ratios less so.
"""

import argparse
import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.data_path import images_per_second, worker_milliseconds
from tools.config_table import schema_of
from utils.cli import shows_errors
from utils.config import find_config, load_config
from utils.errors import UserError
from utils.launch import launch
from wiring import Parts

WARM_UP = 3
# How a method finds the regions of a batch that it compares; ORL's are found before training.
FIND_REGIONS = {
    "r2o": lambda method, batch: method.find_regions(batch, method.clusters),
    "detconb": lambda method, batch: method.choose_regions(method.find_cells(batch), batch["uniforms"]),
    "cyborgs": lambda method, batch: method.choose_regions(method.find_cells(batch), batch["uniforms"]),
    "resim": lambda method, batch: [method.match(batch, windows) for windows in method.windows],
}


def measure(method: str, parts: Parts, device: torch.device, *, steps: int) -> dict[str, float]:
    """Images per second of each part, and milliseconds that one core needs to read an image."""
    prepare = importlib.import_module(f"{method}_main").prepare
    batches = iter(parts.loader)
    batch = next(batches)
    prepared = prepare(batch)
    images = len(batch["images"])
    speeds = {
        "data path alone": images_per_second(parts.loader, num_batches=steps, warm_up=WARM_UP),
        "augmentation alone": _rate(lambda: prepare(batch), images, device, steps),
    }
    find_regions = FIND_REGIONS.get(method)
    if find_regions is not None:
        speeds["finding regions alone"] = _rate(lambda: find_regions(parts.method, prepared), images, device, steps)
    speeds["step alone (with regions)"] = _rate(lambda: _step(parts, prepared), images, device, steps)
    parts.loader.set_epoch(1)
    stream = iter(parts.loader)
    together = _rate(lambda: _step(parts, prepare(next(stream))), images, device, steps)
    speeds["both together"] = together
    speeds["milliseconds a core reads an image"] = worker_milliseconds(parts.loader.dataset, num_images=32)
    return speeds


def _step(parts: Parts, batch: dict[str, Any]) -> None:
    progress = parts.plan.progress(1)
    parts.method.before_step(progress)
    with parts.precision.autocast():
        output = parts.method(batch, torch.Generator())
    parts.precision.backward(sum(output.losses.values()))
    parts.precision.step(parts.optimizer)
    parts.optimizer.zero_grad()
    parts.method.after_step(progress)


def _rate(work: Callable[[], Any], images: int, device: torch.device, steps: int) -> float:
    for _ in range(WARM_UP):
        work()
    _wait(device)
    begin = time.perf_counter()
    for _ in range(steps):
        work()
    _wait(device)
    return images * steps / (time.perf_counter() - begin)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def report(speeds: dict[str, float]) -> str:
    """A table; a part's share is of the time that an image takes when everything runs one after the other."""
    milliseconds = speeds.pop("milliseconds a core reads an image")
    lines = [f"{'part':<28}{'images/s':>10}{'ms/image':>10}{'share of both':>15}"]
    lines += [
        f"{name:<28}{speed:>10.1f}{1e3 / speed:>10.2f}{speeds['both together'] / speed:>15.0%}"
        for name, speed in speeds.items()
    ]
    return "\n".join([*lines, f"one core reads and cuts an image, label map included, in {milliseconds:.2f} ms"])


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="r2o", help="which METHOD_main.py")
    parser.add_argument("--cfg", default="demo", help="a config of the method, by name or path")
    parser.add_argument("--set", nargs="+", default=[], action="extend", dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--found", type=Path, metavar="DIR", help="what ORL's second stage found")
    arguments = parser.parse_args(argv)
    method, overrides = arguments.method, arguments.overrides
    if method == "orl" and arguments.found is None:
        overrides = [*overrides, "model.variant=byol"]
    elif method == "cyborgs":
        overrides = [*overrides, "baseline=true"]
    config, _ = load_config(find_config(arguments.cfg, method=method), schema_of(method), overrides=overrides)
    device = launch(None)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    options = {"orl": {"found": arguments.found}, "cyborgs": {"run_folder": Path()}}.get(method, {})
    parts = importlib.import_module(f"{method}_main").build(config, device, **options)
    needed = arguments.steps + 2 * WARM_UP
    if len(parts.loader) < needed:
        raise UserError(
            f"an epoch has {len(parts.loader)} batches and {needed} are needed: lower --steps or the batch size"
        )
    parts.method.before_step(parts.plan.progress(0))
    print(report(measure(method, parts, device, steps=arguments.steps)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
