import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.label_maps import missing_label_maps
from data.listing import find_images
from tests.paths import ROOT

COUNT = 60


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        path = folder / "train" / f"class{number % 3}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        blocks = rng.integers(0, 256, (9, 12, 3)).astype(np.uint8)
        noise = rng.integers(-9, 10, (180, 240, 3))
        Image.fromarray((np.kron(blocks, np.ones((20, 20, 1))) + noise).clip(0, 255).astype(np.uint8)).save(path)
    return folder


def start(pictures, output):
    """The command as a group of its own, with two workers."""
    command = [sys.executable, "-m", "tools.make_masks", "--mask_type", "fh", "--scales", "100", "400"]
    command += ["--dataset_dir", str(pictures), "--output_dir", str(output), "--workers", "2", "--min_sizes", "50"]
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.PIPE, text=True)


def finish(process):
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def wait_for_maps(output, count, process):
    deadline = time.monotonic() + 120
    while len(list(output.glob("**/[!.]*.png"))) < count:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def maps(output):
    return {path.relative_to(output): path.read_bytes() for path in output.glob("**/[!.]*.*") if path.is_file()}


def living(group):
    """Processes of a group that have not ended."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(status.parent.name)
    return found


@pytest.mark.slow
def test_a_job_killed_twice_ends_with_the_bytes_of_one_that_was_not(pictures, tmp_path):
    finish(start(pictures, tmp_path / "whole"))
    for count in (COUNT // 3, COUNT):
        process = start(pictures, tmp_path / "killed")
        wait_for_maps(tmp_path / "killed", count, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    # A leftover of the kill counts for no map.
    folder, images = tmp_path / "killed" / "fh_s100_m50" / "train", find_images(pictures)
    (folder / "class0" / ".tmp-0123abcd-00.png.png").write_bytes(b"half")
    assert len(missing_label_maps(folder, images)) > 0
    assert "fh_s100_m50, fh_s400_m50, train: " in finish(start(pictures, tmp_path / "killed"))
    whole = maps(tmp_path / "whole")
    assert len(whole) == 2 * COUNT + 2 and maps(tmp_path / "killed") == whole


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_workers_end_with_the_first_process(pictures, tmp_path):
    process = start(pictures, tmp_path)
    wait_for_maps(tmp_path, 4, process)
    assert len(living(process.pid)) >= 3
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while living(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_ctrl_c_ends_all_at_once_with_a_word(pictures, tmp_path):
    command = start(pictures, tmp_path)
    wait_for_maps(tmp_path, 4, command)
    os.killpg(command.pid, signal.SIGINT)
    command.communicate(timeout=20)
    assert command.returncode == 130
