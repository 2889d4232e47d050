import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from models import shuffle as module
from models.shuffle import Shuffle
from tests.models.two_ranks import COUNT, SEEDS, SHAPES
from utils.distributed import all_to_all_rows

CASES = [f"{name} {dtype}" for name in SHAPES for dtype in (torch.float32, torch.bfloat16)]


def exchanged(ranks: list, case: str, part: str, seed: int) -> torch.Tensor:
    """(2 COUNT, ...) of both ranks."""
    return torch.cat([rank["exchanged"][f"{case} {seed}"][part] for rank in ranks])


def moved(ranks: list, seed: int) -> list[int]:
    """Which of all rows each place got."""
    own, sent = (exchanged(ranks, "numbers torch.float32", part, seed).tolist() for part in ("own", "sent"))
    return [own.index(row) for row in sent]


@pytest.mark.parametrize("case", CASES)
def test_what_became_of_each_row_comes_back_to_its_place(model_ranks, case):
    for seed in range(SEEDS):
        assert torch.equal(
            exchanged(model_ranks, case, "restored", seed), 2 * exchanged(model_ranks, case, "own", seed)
        )


@pytest.mark.parametrize("case", CASES)
def test_rows_of_any_shape_and_type_go_whole_where_the_seed_says(model_ranks, case):
    for seed in range(SEEDS):
        own, sent = (exchanged(model_ranks, case, part, seed) for part in ("own", "sent"))
        assert sent.dtype == own.dtype and torch.equal(sent, own[moved(model_ranks, seed)])
        assert sorted(moved(model_ranks, seed)) == list(range(2 * COUNT))


def test_the_same_generator_gives_every_process_the_same_draw(model_ranks):
    for seed in range(SEEDS):
        drawn = torch.randperm(2 * COUNT, generator=torch.Generator().manual_seed(seed)).tolist()
        # Those drawn for a process arrive there, rank 0's before rank 1's.
        arrived = [sorted(part, key=lambda row: row >= COUNT) for part in (drawn[:COUNT], drawn[COUNT:])]
        assert moved(model_ranks, seed) == sum(arrived, [])


def test_seeds_mix_rows_between_processes_and_differ(model_ranks):
    orders = [moved(model_ranks, seed) for seed in range(SEEDS)]
    assert len(set(map(tuple, orders))) == SEEDS
    assert all(any(row >= COUNT for row in order[:COUNT]) for order in orders)


def test_three_processes_that_send_each_other_unequal_numbers_of_rows_get_them_back(monkeypatch):
    """As threads: with two processes as many rows go as come."""
    this, meeting, posts = threading.local(), threading.Barrier(3, timeout=20), [None] * 3
    send_is_receive = set()

    def exchange(tensor, send, receive):
        posts[this.rank] = tensor.split(send)
        meeting.wait()
        parts = [posts[source][this.rank] for source in range(3)]
        assert [len(part) for part in parts] == receive
        send_is_receive.add(send == receive)
        meeting.wait()
        return torch.cat(parts)

    monkeypatch.setattr(module, "rank", lambda: this.rank)
    monkeypatch.setattr(module, "world_size", lambda: 3)
    monkeypatch.setattr(module, "all_to_all_rows", exchange)

    def process(rank):
        this.rank = rank
        shuffle = Shuffle(COUNT, torch.Generator().manual_seed(7))
        rows = torch.arange(COUNT) + COUNT * rank
        sent = shuffle.send(rows)
        return rows, sent, shuffle.restore(2 * sent)

    with ThreadPoolExecutor(3) as threads:
        rows, sent, restored = (torch.cat(parts) for parts in zip(*threads.map(process, range(3))))
    # Else this would say no more than two processes do.
    assert False in send_is_receive
    assert torch.equal(sent.sort().values, rows) and torch.equal(restored, 2 * rows)


def test_alone_every_row_stays_where_it_is():
    rows = torch.randn(5, 2)
    shuffle = Shuffle(5, torch.Generator().manual_seed(1))
    restored = shuffle.restore(2 * shuffle.send(rows))
    assert torch.equal(restored, 2 * rows)


def test_unequal_numbers_of_rows_are_handed_out_without_gradient(model_ranks):
    first, second = (rank["handed_out"] for rank in model_ranks)
    assert first.tolist() == [[0, 1], [8, 9], [10, 11]]
    assert second.tolist() == [[2, 3], [4, 5], [6, 7]]
    assert not first.requires_grad
    alone = torch.ones(2, 3, requires_grad=True)
    assert torch.equal(all_to_all_rows(alone, [2], [2]), alone) and not all_to_all_rows(alone, [2], [2]).requires_grad


def test_keys_are_normalised_among_other_images_than_their_queries_and_among_others_at_every_step(model_ranks):
    first, second = (rank["key_statistics"] for rank in model_ranks)
    # Left in place, the second process' images are all brighter than the first's, whatever the step.
    apart = [(second[f"None {step}"] - first[f"None {step}"]).abs() for step in range(3)]
    mixed = [(second[f"0 {step}"] - first[f"0 {step}"]).abs() for step in range(3)]
    assert torch.equal(apart[0], apart[1]) and torch.equal(apart[0], apart[2])
    assert all((near < 0.9 * far).all() for near, far in zip(mixed, apart))
    assert len({tuple(first[f"0 {step}"].tolist()) for step in range(3)}) == 3
