import re

import pytest
import torch

from models.queue import KeyQueue, check_queue


def numbered(first: int, last: int) -> torch.Tensor:
    """Keys that say which they are: (last - first, 3)."""
    return torch.arange(first, last)[:, None].expand(-1, 3).double()


def test_a_queue_begins_with_unit_vectors_none_like_another():
    keys = KeyQueue(6, dim=4).keys
    assert torch.allclose(keys.norm(dim=1), torch.ones(6))
    assert len(keys.unique(dim=0)) == 6


def test_keys_stand_in_order_and_replace_the_oldest_also_around_the_end():
    queue = KeyQueue(8, dim=3)
    start = queue.keys.clone()
    queue.push(numbered(0, 5))
    assert torch.equal(queue.keys, torch.cat([numbered(0, 5).float(), start[5:]]))
    queue.push(numbered(5, 10))
    assert queue.keys[:, 0].tolist() == [8, 9, 2, 3, 4, 5, 6, 7]
    queue.push(numbered(10, 18))
    assert queue.keys[:, 0].tolist() == [16, 17, 10, 11, 12, 13, 14, 15]


def test_keys_are_kept_without_their_graph_in_the_queues_type():
    queue = KeyQueue(4, dim=3)
    queue.push(torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True))
    assert not queue.keys.requires_grad and queue.keys.dtype == torch.float32


def test_more_keys_than_it_holds_are_refused():
    with pytest.raises(AssertionError, match="5 keys in a queue of 4"):
        KeyQueue(4, dim=3).push(numbered(0, 5))


def test_a_queue_from_a_state_dict_goes_on_where_it_stopped():
    queue, resumed = KeyQueue(8, dim=3), KeyQueue(8, dim=3)
    queue.push(numbered(0, 6))
    resumed.load_state_dict(queue.state_dict())
    for one in (queue, resumed):
        one.push(numbered(6, 11))
    assert torch.equal(resumed.keys, queue.keys) and resumed.keys[:, 0].tolist() == [8, 9, 10, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(("size", "batch", "processes"), [(65536, 32, 8), (65536, 256, 1), (96, 32, 3), (8, 8, 1)])
def test_queues_that_steps_fill_evenly_pass(size, batch, processes):
    check_queue(size, batch=batch, processes=processes)


def offered(message: str, key: str) -> list[int]:
    """The numbers that a message names as ones that would do."""
    found = re.search(rf"{re.escape(key)} (?:may be )?(\d+(?:(?:, | or )\d+)*)$", message.replace("; or ", "\n"), re.M)
    return [int(number) for number in re.findall(r"\d+", found[1])] if found else []


@pytest.mark.parametrize(
    ("size", "batch", "processes"),
    [(65536, 48, 8), (65536, 31, 1), (1000, 7, 4), (65536, 100, 16), (4, 6, 1), (12, 7, 3)],
)
def test_a_queue_that_does_not_fit_is_refused_with_batches_and_queues_that_do(size, batch, processes):
    with pytest.raises(ValueError, match=f"model.queue_size: {size} .* {batch * processes} keys") as refusal:
        check_queue(size, batch=batch, processes=processes)
    batches = offered(str(refusal.value), "data.train_batch_size")
    queues = offered(str(refusal.value), "model.queue_size")
    assert batches and batches == sorted(batches)
    for fitting in batches:
        check_queue(size, batch=fitting, processes=processes)
    # The nearest ones below and above.
    assert len(queues) == (2 if size > batch * processes else 1)
    assert all(abs(fitting - size) < batch * processes for fitting in queues)
    for fitting in queues:
        check_queue(fitting, batch=batch, processes=processes)


def test_the_batches_offered_are_the_nearest_that_fit():
    with pytest.raises(ValueError, match="train_batch_size may be 8, 16, 32, 64, 128, 256; or"):
        check_queue(65536, batch=45, processes=8)


def test_three_processes_fill_no_power_of_two_and_only_queues_are_offered():
    with pytest.raises(ValueError, match="With 3 processes, model.queue_size 65472 or 65568$") as refusal:
        check_queue(65536, batch=32, processes=3)
    assert offered(str(refusal.value), "data.train_batch_size") == []
