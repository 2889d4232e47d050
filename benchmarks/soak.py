"""Whether memory, files and threads stay constant over many short epochs: `python -m benchmarks.soak --method r2o --minutes 20`.

METHOD's demo is trained on a few of its scenes, so that an epoch takes seconds and all that happens between epochs (pictures,
checkpoints, masks, workers) happens as often as in days of training. Memory is PSS without files on disk: what processes share
counts once. What a run takes at first, caches and the allocator's arenas among it, is no leak: the first quarter is left out.
Linux only.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tools.make_demo_data import main as make_demo_data
from utils.cli import positive, shows_errors
from utils.errors import UserError
from utils.files import write_json
from utils.shared import memory_of

SETTINGS = [
    "optimizer.total_epochs=1000000",
    "data.train_batch_size=16",
    "log.log_step=1",
    "checkpoint.save_epoch=1000000",
]
# BYOL is ORL's first stage. New masks in every epoch; the sheet of all generations would grow with their number.
OWN = {"orl": ["model.variant=byol"], "cyborgs": ["bootstrap.boot_freq=1", "log.num_pictures=0"]}


class Sample(NamedTuple):
    seconds: float
    epoch: float
    main_mb: float
    workers_mb: float
    files: int  # that the main process has open
    threads: int  # of the main process

    @property
    def total_mb(self) -> float:
        """While masks are made, more processes share what is the main one's at other times."""
        return self.main_mb + self.workers_mb


def soak(method: str, folder: Path, *, minutes: float, images: int, every: float) -> list[Sample]:
    """Train for so long; a sample every so many seconds from the first step on.

    Raises:
        UserError: the run ended by itself.
    """
    make_demo_data(["--output_dir", str(folder / "data"), "--num_train", str(images), "--num_val", "8"])
    command = [sys.executable, f"{method}_main.py", "--cfg", "demo", "--out", str(folder / "run"), "--set"]
    command += [f"data.image_dir={folder / 'data'}", *SETTINGS, *OWN.get(method, [])]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    samples: list[Sample] = []
    try:
        while (epoch := _epoch(folder / "run")) is None:
            _check(run, command)
            time.sleep(every)
        began = time.monotonic()
        while time.monotonic() - began < 60 * minutes:
            _check(run, command)
            samples.append(_sample(run.pid, time.monotonic() - began, _epoch(folder / "run") or epoch))
            time.sleep(every)
    finally:
        run.send_signal(signal.SIGTERM)
        run.wait()
    return samples


def growth(samples: list[Sample], name: str) -> float:
    """By how much a figure grew from the second quarter to the last, by their medians."""
    values = [getattr(sample, name) for sample in samples]
    quarter = len(values) // 4
    return float(np.median(values[-quarter:]) - np.median(values[quarter : 2 * quarter]))


def _sample(pid: int, seconds: float, epoch: float) -> Sample:
    process = Path("/proc") / str(pid)
    workers = round(sum(_memory(child) for child in (process / "task" / str(pid) / "children").read_text().split()), 1)
    files, threads = (len(os.listdir(process / what)) for what in ("fd", "task"))
    return Sample(round(seconds, 1), round(epoch, 2), _memory(pid), workers, files, threads)


def _memory(pid: int | str) -> float:
    """MB of a process; 0 of one that has just ended."""
    try:
        return round(memory_of(pid) / 1e6, 1)
    except (OSError, ProcessLookupError):
        return 0.0


def _epoch(run: Path) -> float | None:
    """How far a run is; None before its first step."""
    try:
        with open(run / "metrics.jsonl", "rb") as file:
            file.seek(-min(4096, file.seek(0, os.SEEK_END)), os.SEEK_END)
            return json.loads(file.read().splitlines()[-1])["epoch"]
    except (FileNotFoundError, IndexError, json.JSONDecodeError):
        return None


def _check(run: subprocess.Popen, command: list[str]) -> None:
    if run.poll() is not None:
        raise UserError(f"the run ended with code {run.returncode}: {' '.join(command)}")


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="r2o", choices=["r2o", "resim", "orl", "cyborgs"])
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--images", type=positive, default=64, help="scenes of an epoch")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between samples")
    parser.add_argument("--folder", type=Path, help="new, for data and run; by default runs/soak/METHOD")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    arguments = parser.parse_args(argv)
    folder = arguments.folder or Path("runs/soak") / arguments.method
    if (folder / "run").exists():
        raise UserError(f"{folder / 'run'} is there already: remove it, or give another --folder")
    samples = soak(arguments.method, folder, minutes=arguments.minutes, images=arguments.images, every=arguments.every)
    if arguments.json:
        write_json(arguments.json, [sample._asdict() for sample in samples])
    print("".join(f"{name:>12}" for name in Sample._fields))
    for sample in samples[:: max(1, len(samples) // 8)] + samples[-1:]:
        print("".join(f"{value:>12}" for value in sample))
    for name in (*Sample._fields[2:], "total_mb"):
        print(f"{name} grew by {growth(samples, name):.1f} from the second quarter to the last")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
