import logging
import subprocess
import sys

import pytest
import torch

from benchmarks.data_path import images_per_second, worker_milliseconds
from data.listing import find_images
from data.loader import HOST_KEYS, Loader
from data.sampler import EpochSampler
from data.views import TwoViews, ViewSpec
from tests.paths import ROOT
from utils.errors import DataError


def loader(folder, *, workers=0, device="cpu", rank=0, world_size=1, seed=0):
    images = find_images(folder)
    sampler = EpochSampler(len(images), batch_size=3, world_size=world_size, rank=rank, seed=seed)
    dataset = TwoViews(images, spec=ViewSpec(size=8), seed=seed)
    return Loader(dataset, sampler, workers=workers, device=torch.device(device))


def epoch(one, number=0, start_batch=0):
    one.set_epoch(number, start_batch)
    return list(one)


def assert_equal(one, two):
    assert len(one) == len(two) > 0
    for first, second in zip(one, two):
        assert first.keys() == second.keys()
        for key in first.keys() - {"unreadable"}:
            assert torch.equal(first[key], second[key]), key


def test_batches_are_the_same_whatever_the_number_of_workers(folder):
    alone = loader(folder)
    with_workers = loader(folder, workers=2)
    for number in range(2):
        assert_equal(epoch(alone, number), epoch(with_workers, number))
    assert_equal(epoch(alone, 1, start_batch=2), epoch(with_workers, 1)[2:])


def test_workers_use_one_thread_each(folder):
    class Threads(TwoViews):
        def __getitem__(self, key):
            return {"threads": torch.tensor(torch.get_num_threads()), "seed": 0, "unreadable": []}

    sampler = EpochSampler(12, batch_size=3, world_size=1, rank=0, seed=0)
    dataset = Threads(find_images(folder), spec=ViewSpec(size=8), seed=0)
    batches = list(Loader(dataset, sampler, workers=1, device=torch.device("cpu")))
    assert torch.cat([batch["threads"] for batch in batches]).unique().tolist() == [1]


def test_ranks_draw_other_images_and_other_augmentations(folder):
    first, second = (epoch(loader(folder, rank=rank, world_size=2)) for rank in range(2))
    seeds = torch.cat([batch["seed"] for batch in first + second])
    boxes = torch.cat([batch["boxes"].flatten(1) for batch in first + second])
    assert len(seeds.unique()) == len(torch.unique(boxes, dim=0)) == 12


def test_ranks_batches_end_to_end_equal_one_process(folder):
    ranks = [epoch(loader(folder, rank=rank, world_size=2)) for rank in range(2)]
    alone = epoch(loader(folder))
    joined = [torch.cat([first["images"], second["images"]]) for first, second in zip(*ranks)]
    assert torch.equal(torch.cat(joined), torch.cat([batch["images"] for batch in alone]))


def test_the_loader_tells_its_sizes(folder):
    one = loader(folder, world_size=2)
    assert (len(one), one.num_images, one.batch_size) == (2, 12, 3)


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_images_are_listed_each_epoch_and_warned_of_once(folder, caplog, workers):
    bad = find_images(folder).path(7)
    bad.write_bytes(b"")
    one = loader(folder, workers=workers)
    with caplog.at_level(logging.WARNING):
        for number in range(2):
            batches = epoch(one, number)
            assert one.unreadable == {f"class1/{bad.name}": "the file is empty"}
            assert all(len(batch["images"]) == 3 for batch in batches)
    assert caplog.text.count("cannot read") == 1
    one.set_epoch(2)
    assert one.unreadable == {}


def test_an_error_in_a_worker_keeps_its_kind(folder):
    for path in folder.rglob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read"):
        epoch(loader(folder, workers=1))


def test_the_benchmark_measures_both_paths(folder):
    one = loader(folder)
    assert 0 < worker_milliseconds(TwoViews(find_images(folder), spec=ViewSpec(size=8), seed=0), num_images=4) < 1000
    assert images_per_second(one, num_batches=2, warm_up=1) > 0
    with pytest.raises(ValueError, match="4 batches, fewer than 2 \\+ 5"):
        images_per_second(one, num_batches=5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_on_a_gpu_equal_those_on_the_cpu_but_for_what_stays(folder):
    on_gpu = epoch(loader(folder, workers=1, device="cuda"))
    tensors = [{key: value for key, value in batch.items() if isinstance(value, torch.Tensor)} for batch in on_gpu]
    for batch in tensors:
        assert {key for key, value in batch.items() if not value.is_cuda} == set(HOST_KEYS)
    moved = [{**{key: value.cpu() for key, value in batch.items()}, "unreadable": []} for batch in tensors]
    assert_equal(moved, epoch(loader(folder)))


def test_an_error_in_the_training_process_does_not_leave_it_hanging_on_its_workers(folder):
    """At exit multiprocessing ends workers by SIGTERM and waits for them."""
    script = f"""
import torch
from data.listing import find_images
from data.loader import Loader
from data.sampler import EpochSampler
from data.views import TwoViews, ViewSpec
images = find_images({str(folder)!r})
sampler = EpochSampler(len(images), batch_size=2, world_size=1, rank=0, seed=0)
loader = Loader(TwoViews(images, spec=ViewSpec(size=32), seed=0), sampler, workers=1, device=torch.device("cpu"))
for batch in loader:
    raise KeyError("stop")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "KeyError: 'stop'" in done.stderr
