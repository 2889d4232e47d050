"""R2O on two hosts, each with a torchrun of its own, while what joins them, or one of them, fails."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.checkpoint import load_checkpoint
from tests.mains.hosts import ADDRESSES, TwoHosts
from tests.mains.runs import TINY_MODEL, assert_same, make_pictures, newest, wait_for_step, write_own_config

pytestmark = pytest.mark.slow
CONFIG = {
    "model": TINY_MODEL | {"region_level": "c4"},
    "clustering": {"scheduler": {"type": "linear", "epochs": [1, 6], "values": [9, 3]}, "images_per_kmeans": 4},
    "data": {"resize_size": 32, "superpixel_size": 48, "slic_segments": 16, "data_workers": 1, "train_batch_size": 4},
    "optimizer": {"total_epochs": 8, "warmup_epochs": 1},
    "log": {"log_step": 1, "num_pictures": 2},
    "checkpoint": {"keep_last": 3},
}
STEPS = 24


@pytest.fixture
def hosts():
    with TwoHosts() as hosts:
        yield hosts


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """With an undisturbed run, `whole`."""
    folder = tmp_path_factory.mktemp("two_hosts")
    make_pictures(folder)
    write_own_config(folder, CONFIG)
    with TwoHosts() as hosts:
        assert wait(torchrun(hosts, folder, "whole"), 200) == [0, 0], said(folder, "whole")
    assert newest(folder / "whole")["step"] == STEPS
    return folder


def torchrun(hosts: TwoHosts, folder: Path, out: str, *settings: str, restarts: int = 0) -> list[subprocess.Popen]:
    """Both nodes, with c10d rendezvous at the first."""
    nodes = []
    for number, address in enumerate(ADDRESSES):
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1"]
        command += [f"--max_restarts={restarts}", "--rdzv_backend=c10d", f"--rdzv_id={out}", f"--local_addr={address}"]
        command += [f"--rdzv_endpoint={ADDRESSES[0]}:29411", f"--rdzv_conf=is_host={1 - number}"]
        command += ["r2o_main.py", "--cfg", str(folder / "own.yaml"), "--out", str(folder / out), "--resume", "auto"]
        log = folder / f"{out}_{number}.txt"
        nodes.append(hosts.start(number, command + (["--set", *settings] if settings else []), log))
    return nodes


def wait(nodes: list[subprocess.Popen], seconds: float) -> list[int | None]:
    """Exit codes; None for a node that had to be killed."""
    deadline = time.monotonic() + seconds
    codes = []
    for node in nodes:
        try:
            codes.append(node.wait(timeout=max(0.1, deadline - time.monotonic())))
        except subprocess.TimeoutExpired:
            codes.append(None)
    for node in nodes:
        if node.poll() is None:
            os.killpg(node.pid, signal.SIGKILL)
            node.wait()
    return codes


def workers(folder: Path, out: str) -> list[int]:
    """The training processes of a run, by their command lines."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            above = Path(f"/proc/{parent}/cmdline").read_bytes().decode()
        except (OSError, IndexError):
            continue
        # Of data workers the parent is a training process; of a training process it is torchrun.
        if str(folder / out) in words and "torch.distributed.run" not in words and "torch.distributed.run" in above:
            found.append(int(entry.name))
    return found


def said(folder: Path, out: str) -> list[str]:
    return [(folder / f"{out}_{number}.txt").read_text() for number in range(2)]


def test_a_killed_worker_is_started_anew_and_nothing_is_lost(hosts, folder):
    nodes = torchrun(hosts, folder, "killed", restarts=3)
    wait_for_step(folder / "killed", 10)
    victims = workers(folder, "killed")
    assert len(victims) == 2
    os.kill(victims[-1], signal.SIGKILL)
    assert wait(nodes, 300) == [0, 0], said(folder, "killed")
    assert "resuming from" in said(folder, "killed")[0] + said(folder, "killed")[1]
    assert_same(newest(folder / "whole"), newest(folder / "killed"))


def test_a_cut_cable_ends_every_rank_with_its_reason_and_whole_checkpoints(hosts, folder):
    nodes = torchrun(hosts, folder, "cut", "timeout_minutes=0.1", "optimizer.total_epochs=300")
    wait_for_step(folder / "cut", 10)
    hosts.cut()
    wait(nodes, 100)
    for number, text in enumerate(said(folder, "cut")):
        assert "lost" in text and "--resume auto" in text, (number, text)
    assert hosts.names[1] in said(folder, "cut")[0]
    checkpoints = list((folder / "cut" / "checkpoints").glob("*.pth"))
    assert checkpoints and all(load_checkpoint(path)["step"] for path in checkpoints)
    assert not list((folder / "cut").rglob(".tmp-*"))


def test_a_slow_and_lossy_cable_changes_no_number(folder):
    with TwoHosts(delay=(0.005, 0.015), loss=0.02) as hosts:
        assert wait(torchrun(hosts, folder, "lossy"), 400) == [0, 0], said(folder, "lossy")
        assert hosts.cable.lost > 10, (hosts.cable.lost, hosts.cable.carried)
    assert_same(newest(folder / "whole"), newest(folder / "lossy"))
