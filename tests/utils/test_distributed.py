from pathlib import Path

import pytest
import torch

from utils import distributed, launch


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    torchrun = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    for name in (*torchrun, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)


def test_alone_everything_works_without_a_group():
    device = launch.launch(None, several=True)
    assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    tensor = torch.ones(2, requires_grad=True)
    assert distributed.all_gather_with_grad(tensor) is tensor
    assert all(torch.equal(f(tensor), tensor) for f in (distributed.all_reduce_sum, distributed.all_reduce_max))
    assert distributed.broadcast_object("x") == "x" and distributed.gather_objects("x") == ["x"]
    with distributed.main_first():
        distributed.barrier()
    launch.shutdown()


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


def test_what_rank_0_shares_is_on_every_rank_and_nobody_may_write_to_it(ranks):
    for r in ranks:
        assert torch.equal(r["shared"]["a"], torch.arange(1000)) and r["shared"]["c"] == "text"
        assert torch.equal(r["shared"]["b"], torch.ones(3, 2, dtype=torch.uint8))
        assert r["may_write"] is False
        assert torch.equal(r["without_shared_memory"], torch.arange(1000))
    assert not list(Path("/dev/shm").glob("pretraining-*"))


def test_gathered_rows_stand_in_rank_order_and_collect_the_gradients_of_all_ranks(ranks):
    coefficients = torch.arange(12.0).view(4, 3)
    for rank, r in enumerate(ranks):
        assert r["rows"][:, 0].tolist() == [1, 1, 2, 2]
        # Rank 0's loss counts once and rank 1's twice.
        assert torch.equal(r["rows_grad"], 3 * coefficients[2 * rank : 2 * rank + 2])


def test_the_main_process_goes_first(ranks):
    assert [r["seen_by_second"] for r in ranks] == [False, True]
