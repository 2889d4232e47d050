import numpy as np
import pytest

from utils.seeding import derive_seed, numpy_generator, torch_generator


def test_seeds_never_change_between_versions_or_machines():
    assert derive_seed(0) == 4761921975702974394
    assert derive_seed(1, 2, 3) == 8149998584550362645


def test_order_and_grouping_of_the_parts_matter():
    seeds = {derive_seed(*parts) for parts in [(1, 2), (2, 1), (12,), (1, 2, 0), (-1, 2), (112,), (11, 2), (1, 12)]}
    assert len(seeds) == 8


def test_seeds_fit_63_bits_and_do_not_collide_in_32():
    seeds = [derive_seed(0, epoch, index) for epoch in range(20) for index in range(100)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62
    # PyTorch's CPU generator reads the low 32 bits alone.
    assert len({seed % 2**32 for seed in seeds}) == len(seeds)


def test_numpy_integers_count_as_the_same_numbers_and_fractions_are_refused():
    assert derive_seed(np.int64(3), np.uint8(4)) == derive_seed(3, 4)
    with pytest.raises(TypeError):
        derive_seed(1.0)
    with pytest.raises(TypeError):
        derive_seed()


def test_generators_repeat_and_differ_by_part():
    assert numpy_generator(1, 2).random() == numpy_generator(1, 2).random() != numpy_generator(1, 3).random()
    first, again, other = (torch_generator(*parts).initial_seed() for parts in [(1, 2), (1, 2), (1, 3)])
    assert first == again == derive_seed(1, 2) != other
