"""SIGKILL at random moments, of everything that a method does: what is resumed ends in the same bytes.

KILLS=30 python -m pytest tests/mains/test_killed_anywhere.py, by default three. Every other try kills at a file: before it is put
in place, when half of it is written, or just after; the rest at a random time.
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
TRIES = int(os.environ.get("KILLS", 3))
KILLER = Path(__file__).parents[1] / "killer"
# What a run leaves that must be the same; times and paths are in the others.
KEPT = ("*.png", "*.npy")
# CYBORGS has checkpoints and bootstrapped masks, ORL checkpoints, proposals, features, neighbours and pairs.
CONFIGS = {"cyborgs": test_cyborgs.CONFIG, "orl": orl_runs.CONFIG}
LAST = {"cyborgs": ".", "orl": "stage3"}


def start(method: str, folder: Path, out: str, **kill: str) -> subprocess.Popen:
    command = [sys.executable, f"{method}_main.py", "--cfg", str(folder / "own.yaml"), "--out", str(folder / out)]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(KILLER),
        "KILL_COUNT": str(folder / out) + ".n",
    }
    with open(folder / f"{out}.txt", "ab") as log:
        return subprocess.Popen(
            [*command, "--resume", "auto"],
            cwd=ROOT,
            env=environment | kill,
            start_new_session=True,
            stdout=log,
            stderr=log,
        )


def finish(method: str, folder: Path, out: str, **kill: str) -> int:
    process = start(method, folder, out, **kill)
    try:
        return process.wait(timeout=300)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def digests(run: Path) -> dict[str, str]:
    """SHA-256 of what a run leaves."""
    paths = [path for pattern in KEPT for path in run.rglob(pattern)]
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.fixture(scope="module", params=CONFIGS)
def whole(request, tmp_path_factory) -> tuple[str, Path, int, float]:
    """The method, a folder with its uninterrupted run, the files that this puts in place, and its seconds."""
    method, folder = request.param, tmp_path_factory.mktemp(request.param)
    make_pictures(folder)
    write_own_config(folder, CONFIGS[method])
    began = time.monotonic()
    # 0 is never reached.
    assert finish(method, folder, "whole", KILL_AT="0", KILL_WHEN="before") == 0, (folder / "whole.txt").read_text()
    return method, folder, os.path.getsize(folder / "whole.n"), time.monotonic() - began


def test_a_run_killed_anywhere_ends_in_the_same_bytes(whole):
    method, folder, files, seconds = whole
    for number in range(TRIES):
        draw = random.Random(f"{method} {number}")
        out = f"try{number}"
        if number % 2 == 0:
            kill = {"KILL_AT": str(draw.randint(1, files)), "KILL_WHEN": draw.choice(["torn", "before", "after"])}
            code = finish(method, folder, out, **kill)
            assert code == -signal.SIGKILL, (kill, code)
        else:
            kill = {"seconds": f"{draw.uniform(0.2, 0.95) * seconds:.1f}"}
            process = start(method, folder, out)
            time.sleep(float(kill["seconds"]))
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert finish(method, folder, out) == 0, (kill, (folder / f"{out}.txt").read_text())
        assert digests(folder / out) == digests(folder / "whole"), kill
        assert_same(newest(folder / "whole" / LAST[method]), newest(folder / out / LAST[method]))
        backbones = [torch.load(folder / run / LAST[method] / "backbone.pth") for run in ("whole", out)]
        assert all(torch.equal(value, backbones[1][name]) for name, value in backbones[0].items()), kill
        leftovers = list((folder / out).rglob(".tmp-*"))
        assert not leftovers, (kill, leftovers)
