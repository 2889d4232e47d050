import argparse

import pytest
import torch

from utils import distributed
from utils.errors import UserError


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    torchrun = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    for name in (*torchrun, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("spelling", ["--local_rank=3", "--local-rank=3"])
def test_both_spellings_of_local_rank_are_taken(spelling):
    parser = argparse.ArgumentParser()
    distributed.add_launch_arguments(parser)
    assert parser.parse_args([spelling]).local_rank == 3
    assert parser.parse_args([]).local_rank is None


def test_alone_everything_works_without_a_group():
    device = distributed.launch(None, distributed=True)
    assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    tensor = torch.ones(2, requires_grad=True)
    assert distributed.all_gather_with_grad(tensor) is tensor
    assert all(torch.equal(f(tensor), tensor) for f in (distributed.all_reduce_sum, distributed.all_reduce_max))
    assert distributed.broadcast_object("x") == "x" and distributed.gather_objects("x") == ["x"]
    with distributed.main_first():
        distributed.barrier()
    distributed.shutdown()


def test_the_launchers_variables_go_before_the_argument():
    torchrun = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    assert distributed._place(torchrun, 3) == (5, 1, 8)
    del torchrun["LOCAL_RANK"]
    assert distributed._place(torchrun, 3) == (5, 3, 8)


def test_an_incomplete_launcher_is_named():
    with pytest.raises(UserError, match="MASTER_ADDR, MASTER_PORT"):
        distributed._place({"RANK": "0", "WORLD_SIZE": "2"}, None)
    with pytest.raises(UserError, match="RANK"):
        distributed._place({"WORLD_SIZE": "1"}, None)


def test_srun_gives_rank_address_and_port():
    slurm = {
        "SLURM_PROCID": "9",
        "SLURM_LOCALID": "1",
        "SLURM_STEP_NUM_TASKS": "16",
        "SLURM_STEP_NODELIST": "gpu[007-009,12],big3",
        "SLURM_JOB_ID": "4100001",
    }
    assert distributed._place(slurm, None) == (9, 1, 16)
    assert (slurm["MASTER_ADDR"], slurm["MASTER_PORT"]) == ("gpu007", "20001")


def test_plain_python_inside_an_sbatch_script_is_one_process():
    assert distributed._place({"SLURM_PROCID": "0", "SLURM_NTASKS": "16", "SLURM_LOCALID": "0"}, None) == (0, 0, 1)


@pytest.mark.parametrize(
    "nodes, first",
    [("a", "a"), ("a1,b2", "a1"), ("n[3,5-7]", "n3"), ("n[010-020]-ib,m[1-2]", "n010-ib"), ("r[1-2]c[4,9],z", "r1c4")],
)
def test_the_first_host_of_a_slurm_list(nodes, first):
    assert distributed._first_host(nodes) == first


def test_a_config_that_is_not_distributed_refuses_several_processes(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="distributed: false"):
        distributed.launch(None, distributed=False)


def test_more_processes_than_gpus_are_refused_unless_slurm_shows_each_its_own(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    with pytest.raises(UserError, match="no GPU: 1 visible"):
        distributed.launch(1)
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert distributed.launch(1) == torch.device("cuda", 0) == chosen[-1]


def test_two_processes_know_who_they_are(ranks):
    assert [r["who"] for r in ranks] == [(0, 2, True), (1, 2, False)]
    assert [r["device"] for r in ranks] == ["cpu", "cpu"]


def test_reductions_give_every_rank_the_same_and_leave_the_input(ranks):
    for r in ranks:
        assert r["sum"].tolist() == [3.0, 0.0] and r["max"].tolist() == [2.0, 5.0]
    assert [r["mine"].tolist() for r in ranks] == [[1.0, 5.0], [2.0, -5.0]]


def test_objects_come_from_rank_0_and_from_all_in_rank_order(ranks):
    for r in ranks:
        assert r["broadcast"] == {"from": 0}
        assert r["gathered"] == [{"from": 0}, {"from": 1}]


def test_gathered_rows_stand_in_rank_order_and_collect_the_gradients_of_all_ranks(ranks):
    coefficients = torch.arange(12.0).view(4, 3)
    for rank, r in enumerate(ranks):
        assert r["rows"][:, 0].tolist() == [1, 1, 2, 2]
        # Rank 0's loss counts once and rank 1's twice.
        assert torch.equal(r["rows_grad"], 3 * coefficients[2 * rank : 2 * rank + 2])


def test_the_main_process_goes_first(ranks):
    assert [r["seen_by_second"] for r in ranks] == [False, True]
