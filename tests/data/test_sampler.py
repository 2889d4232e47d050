import pytest

from data.sampler import EpochSampler
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
