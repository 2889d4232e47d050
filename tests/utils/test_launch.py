import argparse

import pytest
import torch

from utils import launch
from utils.errors import UserError


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    torchrun = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    for name in (*torchrun, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("spelling", ["--local_rank=3", "--local-rank=3"])
def test_both_spellings_of_local_rank_are_taken(spelling):
    parser = argparse.ArgumentParser()
    launch.add_launch_arguments(parser)
    assert parser.parse_args([spelling]).local_rank == 3
    assert parser.parse_args([]).local_rank is None


def test_the_launchers_variables_go_before_the_argument():
    torchrun = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    assert launch.find_place(torchrun, 3) == (5, 1, 8)
    del torchrun["LOCAL_RANK"]
    assert launch.find_place(torchrun, 3) == (5, 3, 8)


def test_an_incomplete_launcher_is_named():
    with pytest.raises(UserError, match="MASTER_ADDR, MASTER_PORT"):
        launch.find_place({"RANK": "0", "WORLD_SIZE": "2"}, None)
    with pytest.raises(UserError, match="RANK"):
        launch.find_place({"WORLD_SIZE": "1"}, None)


def test_srun_gives_rank_address_and_port():
    slurm = {
        "SLURM_PROCID": "9",
        "SLURM_LOCALID": "1",
        "SLURM_STEP_NUM_TASKS": "16",
        "SLURM_STEP_NODELIST": "gpu[007-009,12],big3",
        "SLURM_JOB_ID": "4100001",
    }
    assert launch.find_place(slurm, None) == (9, 1, 16)
    assert (slurm["MASTER_ADDR"], slurm["MASTER_PORT"]) == ("gpu007", "20001")


def test_plain_python_inside_an_sbatch_script_is_one_process():
    assert launch.find_place({"SLURM_PROCID": "0", "SLURM_NTASKS": "16", "SLURM_LOCALID": "0"}, None) == (0, 0, 1)


@pytest.mark.parametrize(
    "nodes, first",
    [("a", "a"), ("a1,b2", "a1"), ("n[3,5-7]", "n3"), ("n[010-020]-ib,m[1-2]", "n010-ib"), ("r[1-2]c[4,9],z", "r1c4")],
)
def test_the_first_host_of_a_slurm_list(nodes, first):
    assert launch.first_host(nodes) == first


def test_a_config_that_is_not_distributed_refuses_several_processes(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="distributed: false"):
        launch.launch(None, several=False)


def test_more_processes_than_gpus_are_refused_unless_slurm_shows_each_its_own(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    with pytest.raises(UserError, match="no GPU: 1 visible"):
        launch.launch(1)
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert launch.launch(1) == torch.device("cuda", 0) == chosen[-1]
