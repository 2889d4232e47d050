"""Asked to stop under a launcher, and asked again while a step does not end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.mains.runs import assert_same, launched, make_pictures, newest, wait_for_step, write_own_config
from tests.mains.test_launchers import TORCHRUN, clean
from tests.mains.test_two_hosts import CONFIG
from tests.paths import ROOT
from tests.utils.two_ranks import free_port

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """With undisturbed runs, of two processes and of one."""
    folder = tmp_path_factory.mktemp("signals")
    make_pictures(folder)
    write_own_config(folder, CONFIG)
    assert torchrun(folder, "whole").wait(timeout=200) == 0
    assert launched("r2o", folder, "alone").wait(timeout=200) == 0
    return folder


def torchrun(folder: Path, out: str) -> subprocess.Popen:
    """Two processes of this machine; what they say goes to FOLDER/OUT.txt."""
    launcher = [*TORCHRUN, "--master_addr=127.0.0.1", f"--master_port={free_port()}"]
    main = ["r2o_main.py", "--cfg", str(folder / "own.yaml"), "--out", str(folder / out), "--resume", "auto"]
    with open(folder / f"{out}.txt", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *launcher, *main],
            cwd=ROOT,
            env=clean(),
            stderr=log,
            stdout=log,
            # A shell that starts these tests in the background has Ctrl-C ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_torchrun_asked_to_stop_saves_and_the_same_command_goes_on(folder, number):
    """The launcher passes the request on to its processes."""
    out = f"stopped{number}"
    process = torchrun(folder, out)
    wait_for_step(folder / out, 7)
    process.send_signal(number)
    assert process.wait(timeout=60) != 0
    said = (folder / f"{out}.txt").read_text()
    assert "asked to stop: saved at step" in said
    stopped = newest(folder / out)["step"]
    assert 7 <= stopped < newest(folder / "whole")["step"]
    assert torchrun(folder, out).wait(timeout=200) == 0
    assert f"step {stopped}" in (folder / f"{out}.txt").read_text()[len(said) :]
    assert_same(newest(folder / "whole"), newest(folder / out))


def test_a_second_signal_ends_a_run_whose_step_does_not_end(folder):
    process = launched("r2o", folder, "stuck")
    wait_for_step(folder / "stuck", 7)
    try:
        for reader in children(process.pid):
            os.kill(reader, signal.SIGSTOP)
        time.sleep(3)  # until what was read ahead is used up
        process.send_signal(signal.SIGTERM)
        time.sleep(2.5)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=3) == 128 + signal.SIGTERM
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    assert launched("r2o", folder, "stuck", "--resume", "auto").wait(timeout=200) == 0
    assert_same(newest(folder / "alone"), newest(folder / "stuck"))


def children(pid: int) -> list[int]:
    found = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    assert found
    return found
