import pytest

from tests.engine import two_ranks
from tests.utils.two_ranks import run_two_ranks


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return run_two_ranks(two_ranks.__file__, tmp_path_factory.mktemp("two_ranks"))


def test_all_ranks_stop_alike_and_name_the_first_bad_step_of_any(ranks):
    first, second = (r["diverged"] for r in ranks)
    assert first == second
    assert "step 2 on rank 1: byol nan, extra 1.25; learning rate 0.25" in first


def test_every_rank_gets_its_own_statistics_back(ranks):
    assert [r["running_mean"] for r in ranks] == [1.0, 2.0]


def test_rank_0_writes_the_checkpoint_and_all_read_the_same(ranks):
    assert [(r["newest"]["rank"], r["newest"]["step"]) for r in ranks] == [(0, 2), (0, 2)]


def test_damage_stops_every_rank(ranks):
    assert ranks[0]["all_damaged"] == ranks[1]["all_damaged"] and "can be read" in ranks[0]["all_damaged"]
