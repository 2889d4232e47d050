"""SIGKILL at random moments, of everything that a method does: what is resumed ends in the same bytes.

KILLS=30 python -m pytest -m slow tests/mains/test_killed_anywhere.py, by default three; KILLS=20:30 does the last ten of them.
Every other try kills at a file: before it is put in place, when half of it is written, or just after; the rest at a random time.
"""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.mains import orl_runs, test_cyborgs
from tests.mains.runs import assert_same, make_pictures, newest, write_own_config
from tests.paths import ROOT

pytestmark = pytest.mark.slow
TRIES = range(*map(int, os.environ.get("KILLS", "3").split(":")))
KILLER = Path(__file__).parents[1] / "killer"
# What a run leaves that must be the same; times and paths are in the others.
KEPT = ("*.png", "*.npy")
# CYBORGS has checkpoints and bootstrapped masks, ORL checkpoints, proposals, features, neighbours and pairs.
CONFIGS = {"cyborgs": test_cyborgs.CONFIG, "orl": orl_runs.CONFIG}
LAST = {"cyborgs": ".", "orl": "stage3"}


def make_folder(method: str, folder: Path) -> Path:
    """Pictures, and a config beside them: what ORL proposes for pictures is kept with them."""
    make_pictures(folder)
    write_own_config(folder, CONFIGS[method])
    return folder


def start(method: str, folder: Path, **kill: str) -> subprocess.Popen:
    """The method by FOLDER/own.yaml, begun or gone on with in FOLDER/run; what it says goes to FOLDER/log.txt."""
    command = [sys.executable, f"{method}_main.py", "--cfg", str(folder / "own.yaml"), "--out", str(folder / "run")]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(KILLER),
        "KILL_LOG": str(folder / "files.txt"),
    }
    with open(folder / "log.txt", "ab") as log:
        return subprocess.Popen(
            [*command, "--resume", "auto"],
            cwd=ROOT,
            env=environment | kill,
            start_new_session=True,
            stdout=log,
            stderr=log,
        )


def finish(method: str, folder: Path, **kill: str) -> int:
    process = start(method, folder, **kill)
    try:
        return process.wait(timeout=300)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of what a run leaves."""
    paths = [path for pattern in KEPT for path in folder.rglob(pattern)]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.fixture(scope="module", params=CONFIGS)
def whole(request, tmp_path_factory) -> tuple[str, Path, int, float]:
    """The method, the folder of its uninterrupted run, the files that this puts in place, and its seconds."""
    method = request.param
    folder, began = make_folder(method, tmp_path_factory.mktemp(method)), time.monotonic()
    # 0 is never reached.
    assert finish(method, folder, KILL_AT="0", KILL_WHEN="before") == 0, (folder / "log.txt").read_text()
    return method, folder, len((folder / "files.txt").read_text().splitlines()), time.monotonic() - began


def test_a_run_killed_anywhere_ends_in_the_same_bytes(whole, tmp_path):
    method, first, files, seconds = whole
    backbones = Path("run", LAST[method], "backbone.pth")
    for number in TRIES:
        draw = random.Random(f"{method} {number}")
        folder = make_folder(method, tmp_path / str(number))
        if number % 2 == 0:
            kill = {"KILL_AT": str(draw.randint(1, files)), "KILL_WHEN": draw.choice(["torn", "before", "after"])}
            code = finish(method, folder, **kill)
            assert code == -signal.SIGKILL, (kill, code)
            kill["file"] = (folder / "files.txt").read_text().splitlines()[-1]
        else:
            kill = {"seconds": f"{draw.uniform(0.2, 0.95) * seconds:.1f}"}
            process = start(method, folder)
            time.sleep(float(kill["seconds"]))
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert finish(method, folder) == 0, (kill, (folder / "log.txt").read_text())
        assert digests(folder) == digests(first), kill
        assert_same(newest(first / "run" / LAST[method]), newest(folder / "run" / LAST[method]))
        whole_one, killed_one = (torch.load(run / backbones, weights_only=True) for run in (first, folder))
        assert all(torch.equal(value, killed_one[name]) for name, value in whole_one.items()), kill
        leftovers = list(folder.rglob(".tmp-*"))
        assert not leftovers, (kill, leftovers)
        print(method, number, kill)
