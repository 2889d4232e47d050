"""Every way of starting two processes trains the same network."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mains.runs import assert_same, make_pictures, newest, wait_for_step, write_own_config
from tests.mains.test_two_hosts import CONFIG
from tests.paths import ROOT
from tests.utils.two_ranks import free_port

pytestmark = pytest.mark.slow
MAIN = ["r2o_main.py", "--max_steps", "4"]
TORCHRUN = ["torch.distributed.run", "--nproc_per_node=2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("launchers")
    make_pictures(folder)
    write_own_config(folder, CONFIG)
    run_all(folder, "static", [*TORCHRUN, "--master_addr=127.0.0.1", f"--master_port={free_port()}"])
    return folder


def clean() -> dict[str, str]:
    """An environment without a launcher."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "MASTER_"))}
    return kept | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def run_all(folder: Path, out: str, launcher: list[str], main: list[str] = MAIN) -> None:
    command = [sys.executable, "-m", *launcher, *main, "--cfg", str(folder / "own.yaml"), "--out", str(folder / out)]
    done = subprocess.run(command, cwd=ROOT, env=clean(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


def test_elastic_torchrun(folder):
    launcher = [*TORCHRUN, "--nnodes=1:2", "--max_restarts=1", "--rdzv_backend=c10d"]
    run_all(folder, "elastic", [*launcher, f"--rdzv_endpoint=127.0.0.1:{free_port()}"])
    assert_same(newest(folder / "static"), newest(folder / "elastic"))


def test_the_older_launcher_which_passes_a_local_rank(folder):
    run_all(folder, "older", ["torch.distributed.launch", "--nproc_per_node=2", f"--master_port={free_port()}"])
    assert_same(newest(folder / "static"), newest(folder / "older"))


def test_sruns_variables(folder):
    shared = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": str(free_port() - 20000)}
    command = [sys.executable, *MAIN, "--cfg", str(folder / "own.yaml"), "--out", str(folder / "slurm")]
    tasks = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=clean() | shared | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [task.communicate(timeout=200)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], said
    assert_same(newest(folder / "static"), newest(folder / "slurm"))


# Two tasks of one machine, which get the signals that this gets, as srun's do.
SRUN = """#!/usr/bin/env python3
import os, signal, subprocess, sys
command = sys.argv[1:]
while command[0].startswith("--"):
    command.pop(0)
tasks = []
signal.signal(signal.SIGUSR1, lambda number, frame: [task.send_signal(number) for task in tasks])
shared = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost"}
for rank in "01":
    tasks.append(subprocess.Popen(command, env=os.environ | shared | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank}))
with open(os.environ["SRUN_PID"], "w") as file:
    file.write(str(os.getpid()))
sys.exit(max(task.wait() for task in tasks))
"""


def test_a_job_whose_time_is_up_saves_queues_itself_again_and_goes_on(tmp_path):
    """The batch script twice, as SLURM would start it, the first time with a warning."""
    make_pictures(tmp_path)
    (tmp_path / "r2o").mkdir()
    write_own_config(tmp_path, CONFIG, name="r2o/own")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "r2o_main.py").symlink_to(ROOT / "r2o_main.py")
    asked = tmp_path / "asked"
    write_program(tmp_path / "bin" / "srun", SRUN)
    write_program(tmp_path / "bin" / "scontrol", f'#!/bin/sh\necho "$@" > {asked}\n')
    environment = clean() | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SRUN_PID": str(tmp_path / "pid")}
    environment |= {"SLURM_JOB_ID": str(free_port() - 20000), "SLURM_CPUS_PER_TASK": "1"}

    def start(out: str) -> subprocess.Popen:
        command = ["bash", ROOT / "scripts" / "slurm.sbatch", "r2o/own.yaml"]
        return subprocess.Popen(command, cwd=tmp_path, env=environment | {"OUT": out}, stderr=subprocess.DEVNULL)

    assert start("whole").wait(timeout=200) == 0 and not asked.exists()
    job = start("warned")
    wait_for_step(tmp_path / "warned", 7)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGUSR1)
    assert job.wait(timeout=60) == 75
    assert asked.read_text() == f"requeue {environment['SLURM_JOB_ID']}\n"
    assert newest(tmp_path / "warned")["step"] < newest(tmp_path / "whole")["step"]
    assert start("warned").wait(timeout=200) == 0
    assert_same(newest(tmp_path / "whole"), newest(tmp_path / "warned"))


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def test_a_job_that_was_stopped_queues_itself_again_and_one_that_failed_does_not(tmp_path):
    """The batch script, with an srun and a scontrol that note what they were asked."""
    for name, body in {"srun": "exit $CODE", "scontrol": f'echo "$@" > {tmp_path}/asked'}.items():
        write_program(tmp_path / name, f"#!/bin/sh\n{body}\n")
    for code, again in ((0, False), (2, False), (4, False), (6, False), (5, True), (75, True), (137, True)):
        (tmp_path / "asked").unlink(missing_ok=True)
        environment = clean() | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CODE": str(code)}
        environment |= {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "1"}
        done = subprocess.run(["bash", "scripts/slurm.sbatch", "r2o/demo"], cwd=ROOT, env=environment)
        assert done.returncode == code
        assert (tmp_path / "asked").exists() == again
    assert (tmp_path / "asked").read_text() == "requeue 7\n"
