import numpy as np
import pytest
import torch

from data.photometric import normalise
from evaluation.features import CentreCrops
from models.nearest import nearest
from tests.tools.small_stage import COUNT, CPU, NO_IMAGE, SIZE, TRUNCATED, make_encoder, make_images
from tools import neighbours
from tools.neighbours import find_neighbours
from utils.errors import UserError


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("neighbours") / "images")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(neighbours, "_IMAGES_A_CHUNK", 4)
    monkeypatch.setattr(neighbours, "_QUERIES", 3)


def find(images, folder, **changed):
    options = {"size": SIZE, "count": 3, "batch_size": 4, "memory_mb": 16} | CPU | changed
    return find_neighbours(options.pop("encoder", make_encoder()), images, folder, **options)


def one_by_one(images, count):
    """Each image's neighbours, by the cosine in float64 of projections that are made alone."""
    encoder, rows = make_encoder().double(), {}
    for index, crop in enumerate(CentreCrops(images, size=SIZE)[index] for index in range(COUNT)):
        if len(crop):
            rows[index] = encoder(normalise(crop.double() / 255), project=True)[0].double()
    found = np.full((COUNT, count), -1)
    for index, own in rows.items():
        others = [(-float(own @ row), other) for other, row in rows.items() if other != index]
        found[index] = [other for _, other in sorted(others)[:count]]
    return found


@pytest.mark.parametrize("count", [1, 3, 8])
def test_neighbours_are_those_of_a_search_one_by_one(images, tmp_path, count):
    found = find(images, tmp_path, count=count)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, one_by_one(images, count))


def test_an_image_that_cannot_be_read_has_no_neighbour_and_is_nobodys(images, tmp_path):
    found = find(images, tmp_path, count=10)
    lost = [NO_IMAGE, TRUNCATED]
    assert (found[lost] == -1).all() and not np.isin(found, lost).any()
    # The eight others that can be read, and no more.
    assert (np.delete(found, lost, axis=0)[:, 8:] == -1).all() and (np.delete(found, lost, axis=0)[:, :8] >= 0).all()


def test_more_neighbours_than_images_are_refused_by_the_name_of_the_setting(images, tmp_path):
    with pytest.raises(UserError, match=f"neighbours.count: {COUNT}.* only {COUNT - 1} other"):
        find(images, tmp_path, count=COUNT)


def test_neither_memory_nor_blocks_nor_batches_change_anything(images, tmp_path, monkeypatch):
    expected = find(images, tmp_path / "expected")
    # No memory at all: one row of the bank at a time.
    np.testing.assert_array_equal(find(images, tmp_path / "memory", memory_mb=0), expected)
    np.testing.assert_array_equal(find(images, tmp_path / "batch", batch_size=3), expected)
    monkeypatch.setattr(neighbours, "_QUERIES", 1024)
    monkeypatch.setattr(neighbours, "_IMAGES_A_CHUNK", 1)
    np.testing.assert_array_equal(find(images, tmp_path / "blocks"), expected)


@pytest.mark.parametrize("memory_mb", [16, 1024])
def test_similarities_and_what_sorts_them_fit_in_the_memory_given(images, tmp_path, monkeypatch, memory_mb):
    seen = []

    def watched(queries, bank, **options):
        seen.append(2 * 4 * (1024 + bank.shape[1]) * options["block"])
        return nearest(queries, bank, **options)

    monkeypatch.setattr(neighbours, "_QUERIES", 1024)
    monkeypatch.setattr(neighbours, "nearest", watched)
    find(images, tmp_path, memory_mb=memory_mb)
    assert len(seen) == 1 and 0.999 * memory_mb * 2**20 < seen[0] <= memory_mb * 2**20


class Stopped(Exception):
    pass


def stopping_after(blocks):
    """`nearest`, which stops the job after so many blocks."""

    def search(*arguments, **options):
        nonlocal blocks
        if blocks == 0:
            raise Stopped
        blocks -= 1
        return nearest(*arguments, **options)

    return search


def test_a_stopped_job_goes_on_and_leaves_nothing_but_the_neighbours(images, tmp_path, monkeypatch):
    expected = find(images, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(neighbours, "nearest", stopping_after(3))
        find(images, tmp_path / "stopped")
    assert len(list((tmp_path / "stopped").glob("*/*.npy"))) == 3 + 3
    # What was embedded, and three of four blocks, are not made again.
    monkeypatch.setattr(neighbours, "nearest", stopping_after(1))
    with torch.no_grad():
        broken = make_encoder()
        broken.backbone.conv1.weight.fill_(torch.nan)
    np.testing.assert_array_equal(find(images, tmp_path / "stopped", encoder=broken), expected)
    for name in ("whole", "stopped"):
        assert [path.name for path in (tmp_path / name).iterdir()] == ["neighbours.npy"]


def test_neighbours_that_are_there_are_not_looked_for_again(images, tmp_path):
    kept = np.full((COUNT, 3), 7, np.int32)
    np.save(tmp_path / "neighbours.npy", kept)
    (tmp_path / "features").mkdir()
    np.testing.assert_array_equal(find(images, tmp_path, encoder=None), kept)
    assert [path.name for path in tmp_path.iterdir()] == ["neighbours.npy"]
