import numpy as np
import pytest

from data.sampler import EpochSampler, Windows, order_by_windows
from utils.errors import DataError


def sampler(num_images=50, **changes):
    return EpochSampler(num_images, **{"batch_size": 4, "world_size": 1, "rank": 0, "seed": 3, **changes})


def indices(batches):
    return [[index for _, index in batch] for batch in batches]


def test_each_image_comes_once_an_epoch_with_its_epoch():
    one = sampler(48)
    one.set_epoch(5)
    entries = [entry for batch in one for entry in batch]
    assert {epoch for epoch, _ in entries} == {5}
    assert sorted(index for _, index in entries) == list(range(48))


def test_epochs_and_seeds_have_orders_of_their_own():
    def order(seed, epoch):
        one = sampler(seed=seed)
        one.set_epoch(epoch)
        return indices(one)

    assert order(3, 0) == order(3, 0)
    assert order(3, 0) != order(3, 1) != order(4, 1) != order(4, 0)


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_ranks_batches_end_to_end_are_one_process_batches(world_size):
    alone = indices(sampler(53, batch_size=8))
    ranks = [indices(sampler(53, batch_size=8 // world_size, world_size=world_size, rank=r)) for r in range(world_size)]
    assert [sum(parts, []) for parts in zip(*ranks)] == alone
    assert len(alone) == 6


def test_a_start_within_the_epoch_gives_the_rest_of_the_same_order():
    one = sampler()
    whole = list(one)
    one.set_epoch(0, start_batch=7)
    assert list(one) == whole[7:] and len(one) == 12
    one.set_epoch(0)
    assert list(one) == whole
    one.set_epoch(0, start_batch=12)
    assert list(one) == []


def test_an_epoch_ends_with_a_whole_optimiser_step():
    one = sampler(50, accumulate_steps=5)
    assert len(one) == len(list(one)) == 10
    two = sampler(50, accumulate_steps=5, world_size=2)
    assert len(two) == len(list(two)) == 5


def test_without_shuffling_and_dropping_the_list_is_gone_through_in_order():
    one = sampler(10, shuffle=False, drop_last=False)
    assert indices(one) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]] and len(one) == 3


def test_too_few_images_say_which_keys_to_lower():
    with pytest.raises(DataError, match="7 images .* 8 = data.train_batch_size 4 x 2 processes"):
        sampler(7, world_size=2)
    with pytest.raises(DataError, match="accumulate_steps 2"):
        sampler(7, accumulate_steps=2)


@pytest.mark.parametrize(
    "wrong, word",
    [({"rank": 1}, "rank"), ({"drop_last": False, "world_size": 2}, "drop_last"), ({"rank": -1}, "rank")],
)
def test_impossible_arguments_are_refused(wrong, word):
    with pytest.raises(ValueError, match=word):
        sampler(**wrong)


def test_a_start_beyond_the_epoch_is_refused():
    with pytest.raises(ValueError, match="start_batch"):
        sampler().set_epoch(0, start_batch=13)


def windows_of(rng, images, shards, size):
    return Windows(rng.integers(0, shards, images), size)


@pytest.mark.parametrize(
    ("images", "shards", "size"), [(200, 9, 2), (200, 9, 4), (64, 1, 16), (50, 50, 3), (97, 20, 100)]
)
def test_windows_give_every_image_once_and_keep_to_some_shards_at_a_time(images, shards, size):
    rng = np.random.default_rng(0)
    windows = windows_of(rng, images, shards, size)
    order = order_by_windows(rng, windows)
    assert sorted(order) == list(range(images))
    # A shard's images lie between those of its window's others, and nowhere else.
    visits, seen = windows.shard_of[order], []
    while len(visits):
        window = list(dict.fromkeys(visits))[:size]
        inside = int(np.isin(visits, window).sum())
        assert np.isin(visits[:inside], window).all()
        seen, visits = seen + window, visits[inside:]
    assert len(seen) == len(set(seen)) == len(np.unique(windows.shard_of))


def test_a_window_of_all_shards_shuffles_all_images():
    windows = Windows(np.arange(1000) // 100, 10)
    order = order_by_windows(np.random.default_rng(0), windows)
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.15
    assert len(set(windows.shard_of[order[:100]])) == 10


def test_windows_are_shuffled_by_seed_and_epoch_alone():
    windows = windows_of(np.random.default_rng(0), 96, 7, 2)

    def order(seed, epoch, **changes):
        one = sampler(96, seed=seed, windows=windows, **changes)
        one.set_epoch(epoch)
        return indices(one)

    alone = order(3, 1, batch_size=8)
    assert alone == order(3, 1, batch_size=8) and sum(alone, []) == sum(order(3, 1), [])
    assert alone != order(3, 2, batch_size=8) and alone != order(4, 1, batch_size=8)
    for world_size in (2, 4):
        ranks = [order(3, 1, batch_size=8 // world_size, world_size=world_size, rank=r) for r in range(world_size)]
        assert [sum(parts, []) for parts in zip(*ranks)] == alone


def test_a_start_within_an_epoch_of_windows_gives_the_rest_of_its_order():
    one = sampler(windows=windows_of(np.random.default_rng(0), 50, 7, 2))
    whole = list(one)
    one.set_epoch(0, start_batch=7)
    assert list(one) == whole[7:]
