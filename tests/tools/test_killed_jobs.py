import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.derived import missing_files
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


MASKS = ["tools.make_masks", "--mask_type", "fh", "--scales", "100", "400", "--min_sizes", "50"]
PROPOSALS = ["tools.make_proposals", "--max_side", "100"]


def start(pictures, output, tool=MASKS):
    """The command as a group of its own, with two workers."""
    command = [sys.executable, "-m", *tool, "--dataset_dir", str(pictures), "--output_dir", str(output)]
    return subprocess.Popen(
        [*command, "--workers", "2"],
        cwd=ROOT,
        start_new_session=True,
        # A shell's background jobs ignore Ctrl-C, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def wait_for_files(output, count, process):
    deadline = time.monotonic() + 120
    while sum(path.name != "meta.json" for path in files(output)) < count:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def files(output):
    return [path for path in output.glob("**/[!.]*.*") if path.is_file()]


def contents(output):
    return {path.relative_to(output): path.read_bytes() for path in files(output)}


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
@pytest.mark.parametrize(
    ("tool", "types", "suffix"),
    [(MASKS, ["fh_s100_m50", "fh_s400_m50"], ".png"), (PROPOSALS, ["ss_fast_100"], ".npy")],
    ids=["masks", "proposals"],
)
def test_a_job_killed_twice_ends_with_the_bytes_of_one_that_was_not(pictures, tmp_path, tool, types, suffix):
    finish(start(pictures, tmp_path / "whole", tool))
    for count in (len(types) * COUNT // 6, len(types) * COUNT // 2):
        process = start(pictures, tmp_path / "killed", tool)
        wait_for_files(tmp_path / "killed", count, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    # A leftover of the kill counts for no file.
    folder, images = tmp_path / "killed" / types[0] / "train", find_images(pictures)
    (folder / "class0" / f".tmp-0123abcd-00.png{suffix}").write_bytes(b"half")
    assert len(missing_files(folder, images, suffix=suffix)) > 0
    assert f"{', '.join(types)}, train: " in finish(start(pictures, tmp_path / "killed", tool))
    whole = contents(tmp_path / "whole")
    assert len(whole) == len(types) * (COUNT + 1) and contents(tmp_path / "killed") == whole


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_workers_end_with_the_first_process(pictures, tmp_path):
    process = start(pictures, tmp_path)
    wait_for_files(tmp_path, 4, process)
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
    wait_for_files(tmp_path, 4, command)
    os.killpg(command.pid, signal.SIGINT)
    command.communicate(timeout=20)
    assert command.returncode == 130
