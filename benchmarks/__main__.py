"""Every table of docs/performance.md, measured on this machine; masks, offline stages, shards and scaling have own pages.

    python -m benchmarks --out DIR [--images BSDS500_DIR] [--only NAME ...] [--device cuda] [--dry-run]

Each benchmark is a command of its own, and leaves NAME.json and its words, NAME.txt, in DIR; those that are there already are
left out, so that the same line goes on after a stop. BSDS500_DIR holds images/SPLIT/ID.jpg; what needs photographs is left out
without it. Afterwards `python -m benchmarks.plot` draws them, and `python -m benchmarks.page` writes the page.
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from utils.cli import shows_errors


class Command(NamedTuple):
    """A benchmark's command line; {images} stands for the folder of photographs, {scratch} for one to write to."""

    name: str
    line: str
    on_gpu: bool = False  # also measured there


COMMANDS = (
    Command("step", "step --backbone resnet18 --size 96 --batch 32"),
    Command(
        "step_sweep",
        "step --method detconb --backbone resnet18 --size 96 --batch 16 --sweep batch 8 16 32 --sweep size 64 96",
    ),
    Command("data_path", "data_path {images}/images --limit 32 --sweep size 481 1000 --sweep workers 1 2"),
    Command("end_to_end", "end_to_end --method all --steps 10 --sweep workers 0 1 2"),
    Command("kmeans", "kmeans --sweep clusters --sweep batch", on_gpu=True),
    Command("refinement", "refinement --sweep clusters --sweep batch", on_gpu=True),
    Command("mask_pooling", "mask_pooling --sweep processes --sweep batch --sweep size", on_gpu=True),
    Command("windows", "windows --sweep batch --sweep size", on_gpu=True),
    Command("optimizer", "optimizer", on_gpu=True),
    Command("correspondence", "correspondence {images} --limit 100 --work_dir {scratch}/correspondence"),
)
ON_GPU = (
    Command("step", "step --backbone resnet50 --size 224 --batch 256 --precision O1"),
    *(command for command in COMMANDS if command.on_gpu),
)


def line_of(command: Command, arguments: argparse.Namespace) -> list[str]:
    places = {"images": arguments.images, "scratch": arguments.out / "scratch"}
    line = command.line.format(**{name: shlex.quote(str(place)) for name, place in places.items()})
    module, *words = shlex.split(line)
    device = ["--device", arguments.device] if arguments.device != "cpu" else []
    return [sys.executable, "-m", f"benchmarks.{module}", *words, *device]


def file_of(command: Command, arguments: argparse.Namespace) -> Path:
    """Figures of a GPU stand beside the processor's."""
    suffix = "" if arguments.device == "cpu" else f"_{arguments.device.partition(':')[0]}"
    return arguments.out / f"{command.name}{suffix}.json"


def run(command: Command, arguments: argparse.Namespace) -> bool:
    """Whether it ended well; its words are shown and kept."""
    path = file_of(command, arguments)
    half = path.with_suffix(".half")
    process = subprocess.Popen(
        [*line_of(command, arguments), "--json", str(half)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with path.with_suffix(".txt").open("w", encoding="utf-8") as words:
        for line in process.stdout:
            print(line, end="", flush=True)
            words.write(line)
    if process.wait() == 0:
        half.replace(path)
    return path.exists()


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--images", type=Path, metavar="BSDS500_DIR")
    parser.add_argument("--only", nargs="+", choices=[command.name for command in COMMANDS], metavar="NAME")
    parser.add_argument("--device", default="cpu", help="cpu, cuda")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    arguments = parser.parse_args(argv)
    commands = COMMANDS if arguments.device == "cpu" else ON_GPU
    failed = []
    for name in sorted({*(arguments.only or ())} - {command.name for command in commands}):
        print(f"{name}: left out, it is not measured on a GPU")
    for command in commands:
        if arguments.only and command.name not in arguments.only:
            continue
        if "{images}" in command.line and arguments.images is None:
            print(f"{command.name}: left out, it needs --images")
        elif file_of(command, arguments).exists():
            print(f"{command.name}: {file_of(command, arguments)} is there already")
        elif arguments.dry_run:
            print(shlex.join(line_of(command, arguments)))
        else:
            print(f"\n{command.name}", flush=True)
            arguments.out.mkdir(parents=True, exist_ok=True)
            if not run(command, arguments):
                failed.append(command.name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
