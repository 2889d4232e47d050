import threading
from collections.abc import Callable

import pytest
import torch.distributed as dist

from tests.utils.two_ranks import free_port
from utils.errors import LostError
from utils.meeting import meet


@pytest.fixture
def connect() -> Callable[[], dist.Store]:
    port = free_port()
    server = dist.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    yield lambda: dist.TCPStore("127.0.0.1", port, is_master=False)
    del server


def attempt(connect, ranks: list[int], *, world_size: int, seconds: float = 20.0) -> dict[int, str | LostError]:
    """What each rank gets."""
    found: dict[int, str | LostError] = {}

    def take_part(rank: int) -> None:
        try:
            found[rank] = meet(connect(), rank=rank, world_size=world_size, seconds=seconds)
        except LostError as error:
            found[rank] = error

    threads = [threading.Thread(target=take_part, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return found


def test_all_get_one_name_and_every_attempt_another(connect):
    """At the store of the attempt before, in whatever order they come."""
    names = []
    for ranks in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        found = attempt(connect, ranks, world_size=3)
        assert len(set(found.values())) == 1
        names.append(found[0])
    assert len(set(names)) == 3


def test_one_that_was_there_the_last_time_does_not_count_as_there(connect):
    attempt(connect, [0, 1, 2], world_size=3)
    found = attempt(connect, [0, 2], world_size=3, seconds=1)
    for error in found.values():
        assert "rank 1 of 3 did not come within" in str(error) and "here are rank 0 on" in str(error)
        assert ", 2 on " in str(error) and ", 1 on" not in str(error)


def test_another_number_may_meet_the_next_time(connect):
    attempt(connect, [0, 1, 2], world_size=3)
    assert len(set(attempt(connect, [1, 0], world_size=2).values())) == 1
