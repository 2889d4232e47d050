"""What training on many GPUs tells between them, on paper: bytes a step, how long they take, when that is longer than computing.

    python -m benchmarks.scaling [--step_ms 120]                  every method by its published config
    python -m benchmarks.scaling --method resim --cfg c4_imagenet_200ep --set amp.sync_bn=true
    python -m benchmarks.scaling --step_ms FILE.json              by step times that benchmarks.step has measured on your GPU
    python -m benchmarks.scaling --write docs/scaling.md          renews the page between its marks

A process has the config's batch, however many there are. tests/benchmarks/test_traffic.py holds the bytes against what real
processes hand in, call by call; times are what links allow at best, by benchmarks/network.py. Nothing here needs a GPU.
"""

import utils.threads  # noqa: F401  isort: skip  before torch

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.report import Report, make_parser
from benchmarks.scaling_tables import NETWORKS, WORLDS, Case, megabytes_sent, overtakes_compute, page, times
from benchmarks.synthetic import METHODS
from benchmarks.traffic import build_skeleton, traffic
from tools.config_table import schema_of
from utils.cli import shows_errors
from utils.config import find_config, load_config
from utils.errors import UserError
from utils.files import atomic_write_bytes, read_json
from utils.marks import renew_marked
from utils.sections import Common

# The published config of each method.
PAPERS = {name: recipe.config for name, recipe in METHODS.items()}


def make_config(name: str, cfg: str, overrides: Iterable[str] = ()) -> Common:
    return load_config(find_config(cfg, method=name), schema_of(name), overrides=list(overrides))[0]


def make_case(name: str, config: Common) -> Case:
    method = build_skeleton(name, config)
    parts = {processes: traffic(name, config, method, processes=processes) for processes in WORLDS}
    return Case(name, config.data.train_batch_size, parts)


def renew(text: str) -> str:
    """The page with its tables renewed."""
    tables = page([make_case(name, make_config(name, cfg)) for name, cfg in PAPERS.items()])
    return renew_marked(text, "scaling", lambda match: tables)


def read_steps(given: str, configs: dict[str, Common]) -> dict[str, float]:
    """Milliseconds of a step by method: a number for all, or a file's rows {"what": "step", "method": ..., "ms": ...}.

    Raises:
        UserError: no number and no such file, or its steps are not those of the configs.
    """
    try:
        return dict.fromkeys(configs, float(given))
    except ValueError:
        pass
    if not Path(given).is_file():
        raise UserError(f"--step_ms {given}: neither a number nor a file")
    rows = [row for row in read_json(Path(given)).get("rows", []) if row.get("what") == "step"]
    rows = [row for row in rows if row.get("method") in configs and "ms" in row]
    if not rows:
        raise UserError(f'--step_ms {given}: no row with "what": "step", "method" and "ms" in it')
    steps = {}
    for row in rows:
        _check_step(given, row, configs[row["method"]])
        if row["method"] in steps:
            raise UserError(f"--step_ms {given}: has several steps of {row['method']}; measure without --sweep")
        steps[row["method"]] = float(row["ms"])
    return steps


def _check_step(given: str, row: dict[str, Any], config: Common) -> None:
    """Compute and bytes must be of one step."""
    data, trunk = config.data, config.model.backbone.type
    for name, value in {"backbone": trunk, "batch": data.train_batch_size, "size": data.resize_size}.items():
        if row.get(name, value) != value:
            raise UserError(
                f"--step_ms {given}: {row['method']}'s step has {name} {row[name]}, but its config {value}: measure that by "
                "benchmarks.step, or change the config's by --method and --set"
            )


def add_figures(report: Report, cases: list[Case]) -> None:
    for case in cases:
        for world, parts in case.parts.items():
            place = {"method": case.name, "processes": world}
            for part in parts:
                row = {"kind": part.kind, "operation": part.operation, "calls": len(part.sizes), "bytes": part.bytes}
                report.rows.append({"what": "handed in", **place, **row, "hides": part.hides})
            for network in NETWORKS:
                taken = times(parts, world, network)
                row = {"gbits": network.gbits, "waits_ms": taken.waits, "hides_ms": taken.hides}
                report.rows.append({"what": "time", **place, **row, "sent_mb": megabytes_sent(parts, world)})


def compare_with_steps(report: Report, cases: list[Case], steps: dict[str, float]) -> None:
    for case in cases:
        if case.name not in steps:
            report.line(f"{case.name}: its step was not measured")
            continue
        for network in NETWORKS:
            world, step = overtakes_compute(case, steps[case.name], network), steps[case.name]
            text = f"from {world} processes on" if world else f"never, up to {WORLDS[-1]} processes"
            report.line(
                f"{case.name}: communication takes longer than a step of {step:g} ms at {network.gbits:g} Gbit/s {text}",
                what="overtakes",
                method=case.name,
                gbits=network.gbits,
                step_ms=step,
                processes=world,
            )


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--method", choices=PAPERS, help="one alone")
    parser.add_argument("--cfg", help="its config, by name or path, in place of the published one")
    parser.add_argument("--set", nargs="+", default=[], action="extend", dest="overrides", metavar="KEY=VALUE")
    parser.add_argument(
        "--step_ms", metavar="MS|FILE", help="a step's computation, or what benchmarks.step --json wrote"
    )
    parser.add_argument(
        "--write", type=Path, metavar="PAGE", help="renew what stands between <!-- scaling --> and <!-- end -->"
    )
    arguments = parser.parse_args(argv)
    _check(parser, arguments)
    if arguments.write:
        new = renew(arguments.write.read_text(encoding="utf-8"))
        atomic_write_bytes(arguments.write, new.encode("utf-8"))
        return 0
    names = [arguments.method] if arguments.method else list(PAPERS)
    configs = {name: make_config(name, arguments.cfg or PAPERS[name], arguments.overrides) for name in names}
    steps = None if arguments.step_ms is None else read_steps(arguments.step_ms, configs)
    cases = [make_case(name, config) for name, config in configs.items()]
    with Report("scaling", arguments) as report:
        report.line(page(cases))
        add_figures(report, cases)
        if steps is not None:
            compare_with_steps(report, cases, steps)
    return 0


def _check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    if (arguments.cfg or arguments.overrides) and not arguments.method:
        parser.error("--cfg and --set are of one --method")
    if arguments.write and (arguments.method or arguments.step_ms or arguments.json):
        parser.error("--write renews the page of all methods by their published configs, and takes no other option")


if __name__ == "__main__":
    sys.exit(main())
