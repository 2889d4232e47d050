"""A training step of each method: where its time goes, and how much longer it takes than its networks alone.

    python -m benchmarks.step [--method all|r2o|...] [--backbone resnet18 --size 96 --batch 16] [--precision O1]
        [--sweep batch|size|clusters [VALUE ...]] [--compile default] [--published] [--profile FILE] [--device cuda] [--json FILE]

The bound is what the step's own networks cost, called as often and on as much as the step calls them: trunk, neck and heads on
the same views, forward and backward, and the target's forward passes, R2O's of the whole image included; both come to the same
gradients, which is checked before they are timed in turns. The step is the loop's, from the prepared batch to the target's
average, on a synthetic batch (benchmarks/synthetic.py), under the method's published config but for what the options say.

--published adds the published structure in float32: contiguous tensors, LARS and the average a tensor at a time; it must come to
the same losses. It is on by default on a GPU. Under torchrun the step exchanges gradients, and the time of that alone is shown
too.
"""

import utils.threads  # noqa: F401  isort: skip  before torch

import argparse
import math
import os
import sys
from pathlib import Path

import torch

from benchmarks.bare import Call, check_bare, record_calls, run_bare
from benchmarks.baselines.step import published_step
from benchmarks.compare import alternate, synchronize
from benchmarks.parts import part_milliseconds
from benchmarks.report import Axis, Report, describe, make_parser, points
from benchmarks.synthetic import METHODS, VARIANTS, Trained, make_config, make_trained
from utils.cli import shows_errors
from utils.distributed import all_reduce_sum, is_main, world_size
from utils.launch import launch, shutdown

AXES = (
    Axis("batch", 32, (8, 16, 32, 64, 128, 256), "images a process"),
    Axis("size", 224, (64, 96, 128, 160, 224), "pixels a side of a view"),
    Axis("clusters", 127, (4, 16, 64, 127), "R2O's K"),
)


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = make_parser(__doc__, AXES)
    parser.add_argument("--method", default="all", choices=("all", *METHODS, *VARIANTS), help="all: the five")
    parser.add_argument("--backbone", default="resnet50", help="trunk (resnet50)")
    parser.add_argument("--precision", default="O0", choices=("O0", "O1"), help="float32, or bfloat16 autocast (O0)")
    parser.add_argument("--compile", default="false", help="model.compile (false)")
    parser.add_argument(
        "--published", action=argparse.BooleanOptionalAction, help="compare with the published structure"
    )
    parser.add_argument("--profile", type=Path, metavar="FILE", help="write one step's trace for chrome://tracing")
    arguments = parser.parse_args(argv)
    _join(arguments)
    names = METHODS if arguments.method == "all" else [arguments.method]
    # R2O alone has clusters.
    places = [
        (name, point | {"clusters": point["clusters"] if name == "r2o" else None})
        for point in points(arguments, AXES)
        for name in names
    ]
    with Report("step", arguments) as report:
        for number, (name, place) in enumerate(places):
            if (name, place) not in places[:number]:
                _measure(name, place, arguments, report)
    shutdown()
    return 0


def _join(arguments: argparse.Namespace) -> None:
    """Under torchrun, be one of its processes; the first alone prints and writes."""
    if "WORLD_SIZE" in os.environ:
        arguments.device = launch(None)
    if not is_main():
        arguments.json, sys.stdout = None, open(os.devnull, "w")


def _measure(name: str, place: dict[str, int | None], arguments: argparse.Namespace, report: Report) -> None:
    # Forms that the points before have compiled count against torch's limit.
    torch._dynamo.reset()
    options = {"backbone": arguments.backbone, "size": place["size"], "batch": place["batch"]}
    changes = {"precision": arguments.precision, "overrides": (f"model.compile={arguments.compile}",)}
    config, clusters = make_config(name, **options, **changes), place["clusters"]
    trained = make_trained(name, config, report.device, clusters=clusters)
    trained.step()
    calls = record_calls(trained)
    check_bare(calls, trained)
    forms = {"step": trained.step, "bound": lambda: _bound(calls, trained)}
    if arguments.published or arguments.published is None and report.device.type == "cuda":
        forms["published"] = published_step(name, report.device, clusters=clusters, **options)
    # Processes that stop by their own clocks would wait for each other for ever.
    times = alternate(forms, device=report.device, seconds=20 if world_size() == 1 else math.inf)
    images = 1e3 * place["batch"] / times["step"] * world_size()
    where = {"method": name, **place, "backbone": arguments.backbone, "processes": world_size()}
    ratio = times["step"] / times["bound"]
    shown = describe({axis: value for axis, value in place.items() if value is not None})
    report.line(
        f"{name} ({arguments.backbone}, {shown}, {arguments.precision}): {times['step']:.1f} ms a step, {images:.0f} images/s; "
        f"its networks alone {times['bound']:.1f} ms, ratio {ratio:.3f}",
        what="step",
        **where,
        precision=arguments.precision,
        compile=arguments.compile,
        ms=times["step"],
        bound_ms=times["bound"],
        ratio=ratio,
        images_per_second=images,
    )
    if "published" in times:
        faster = times["published"] / times["step"]
        report.line(
            f"  published structure in float32: {times['published']:.1f} ms, ratio {faster:.2f}",
            what="published structure, float32",
            **where,
            ours_ms=times["step"],
            baseline_ms=times["published"],
            times_as_long=faster,
        )
    _show_parts(trained, where | {"precision": arguments.precision}, times["step"], report)
    if arguments.profile is not None:
        words = [arguments.profile.stem, name, *(str(value) for value in place.values() if value is not None)]
        _profile(trained, arguments.profile.with_stem("_".join(words)), report)


def _bound(calls: list[Call], trained: Trained) -> None:
    run_bare(calls, trained)
    trained.optimizer.zero_grad()


def _show_parts(trained: Trained, where: dict, whole: float, report: Report) -> None:
    parts = part_milliseconds(trained, report.device)
    if world_size() > 1:
        numbers = sum(parameter.numel() for parameter in trained.method.parameters() if parameter.requires_grad)
        gradients = torch.zeros(numbers, device=report.device)
        name = f"all-reduce of {gradients.nbytes / 1e6:.0f} MB alone"
        exchange = {name: lambda: all_reduce_sum(gradients)}
        parts |= alternate(exchange, repeats=5, seconds=math.inf, device=report.device)
    for part, milliseconds in parts.items():
        text = f"  {part:32} {milliseconds:9.1f} ms  {milliseconds / whole:6.1%} of the step"
        report.line(text, what="part", part=part, **where, ms=milliseconds)


def _profile(trained: Trained, path: Path, report: Report) -> None:
    activities = [torch.profiler.ProfilerActivity.CPU]
    if report.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        trained.step()
        synchronize(report.device)
    if is_main():
        profile.export_chrome_trace(str(path))
    order = "self_cuda_time_total" if report.device.type == "cuda" else "self_cpu_time_total"
    report.line(profile.key_averages().table(sort_by=order, row_limit=20, max_name_column_width=60))
    report.line(f"  one step's trace is in {path}")


if __name__ == "__main__":
    sys.exit(main())
