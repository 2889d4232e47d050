import os
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

from data.photometric import normalise
from data.ragged import Ragged
from evaluation.features import BoxCrops, embed_chunks
from tests.tools.small_stage import (
    COUNT,
    CPU,
    NO_IMAGE,
    SIZE,
    SMALL,
    TRUNCATED,
    Together,
    make_boxes,
    make_encoder,
    make_images,
    make_neighbours,
    run_stage,
)
from tools import box_pairs
from tools.box_pairs import count_forwards, find_pairs, plan_part
from utils.errors import UserError

SHARE = 0.4
Usage = namedtuple("Usage", "free")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("box_pairs") / "images")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for (module, name), value in SMALL.items():
        monkeypatch.setattr(module, name, value)


def find(images, folder, **changed):
    options = {"share": SHARE, "size": SIZE, "batch_size": 7, "store": "float32", "parts": 1} | CPU | changed
    encoder = options.pop("encoder", None) or make_encoder()
    return find_pairs(encoder, images, make_boxes(), make_neighbours(), folder, **options)


def image_by_image(images):
    """The published procedure: an image's boxes and all its neighbours' are embedded, and all combinations compared."""
    encoder, boxes = make_encoder().double(), make_boxes()
    crops = BoxCrops(images, boxes, size=SIZE)

    def embed(index):
        return [encoder(normalise(crop[None].double() / 255), project=False)[0].double() for crop in crops[index]]

    rows = []
    for index, keys in enumerate(make_neighbours().tolist()):
        for key in keys:
            query, other = embed(index), embed(key) if key >= 0 else []
            combinations = [(-float(a @ b), i, j) for i, a in enumerate(query) for j, b in enumerate(other)]
            best = sorted(combinations)[: max(1, int(SHARE * len(query)))]
            rows.append([[*boxes[index][i], *boxes[key][j]] for _, i, j in best])
    return rows


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_pairs_are_those_of_the_published_procedure_in_their_order(images, tmp_path):
    pairs, expected = find(images, tmp_path), image_by_image(images)
    assert len(pairs) == len(expected) == 3 * COUNT and pairs.values.dtype == np.uint16
    assert set(map(len, expected)) == {0, 1, 2}
    for index, (own, theirs) in enumerate(zip(pairs, expected)):
        assert own.tolist() == np.array(theirs, int).reshape(-1, 8).tolist(), index


def test_an_image_that_cannot_be_read_is_in_no_pair(images, tmp_path):
    lengths = find(images, tmp_path).lengths.reshape(COUNT, 3)
    neighbours = make_neighbours()
    lost = [NO_IMAGE, TRUNCATED]
    assert lengths[lost].sum() == 0 and np.isin(neighbours, lost).sum() > 1
    assert (lengths[np.isin(neighbours, [*lost, -1])] == 0).all() and (lengths > 0).sum() > COUNT


@pytest.mark.parametrize("parts", [2, 3, 9])
def test_pairs_do_not_depend_on_the_number_of_parts(images, tmp_path, parts):
    find(images, tmp_path / "one")
    find(images, tmp_path / "parts", parts=parts)
    assert contents(tmp_path / "parts") == contents(tmp_path / "one")
    assert sorted(contents(tmp_path / "one")) == ["pairs.npy", "pairs_offsets.npy"]


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_find_in_a_whole_stage_what_one_finds(images, tmp_path, monkeypatch, processes):
    encoder = make_encoder()
    run_stage(encoder, images, tmp_path / "alone")
    Together(monkeypatch, processes).run(lambda: run_stage(encoder, images, tmp_path / "together"))
    alone, together = contents(tmp_path / "alone"), contents(tmp_path / "together")
    assert sorted(alone) == ["boxes.npy", "boxes_offsets.npy", "neighbours.npy", "pairs.npy", "pairs_offsets.npy"]
    assert alone == together


@pytest.mark.parametrize("parts", [1, 2, 3, 9])
def test_every_image_is_matched_once_where_what_it_needs_is_embedded(parts):
    boxes, neighbours = make_boxes(), make_neighbours()
    matched, total = [], 0
    for number in range(parts):
        part = plan_part(boxes, neighbours, number=number, parts=parts)
        own = {int(index) for block in part.blocks for index in block}
        embedded = [int(index) for chunk in part.chunks for index in chunk]
        needed = own | {int(key) for index in own for key in neighbours[index] if key >= 0}
        assert sorted(embedded) == sorted(needed)
        counts = [sum(int(boxes.lengths[index]) for index in chunk) for chunk in part.chunks]
        assert sum(counts) == part.num_boxes and max(counts) < 20 + boxes.lengths.max()
        matched, total = matched + sorted(own), total + part.num_boxes
    assert matched == list(range(COUNT))
    assert count_forwards(boxes, neighbours, parts=parts)["boxes_embedded"] == total


def test_the_published_procedure_embeds_an_images_boxes_and_those_of_each_neighbour():
    boxes, neighbours = make_boxes(), make_neighbours()
    expected = 0
    for index in range(COUNT):
        expected += len(boxes[index]) + sum(len(boxes[key]) for key in neighbours[index].tolist() if key >= 0)
    counted = count_forwards(boxes, neighbours, parts=1)
    assert counted == {"boxes_embedded": len(boxes.values), "boxes_embedded_as_published": expected}


def test_every_box_that_can_be_read_is_embedded_once(images, tmp_path):
    encoder, pictures = make_encoder(), []
    encoder.register_forward_pre_hook(lambda module, inputs: pictures.append(len(inputs[0])))
    find(images, tmp_path, encoder=encoder)
    boxes = make_boxes()
    assert sum(pictures) == len(boxes.values) - boxes.lengths[TRUNCATED]


def test_a_disk_without_room_is_told_before_anything_is_embedded(images, tmp_path, monkeypatch):
    width = make_encoder().dim(project=False)
    needed = {store: len(make_boxes().values) * width * size for store, size in (("float32", 4), ("float16", 2))}
    monkeypatch.setattr(box_pairs.shutil, "disk_usage", lambda folder: Usage(needed["float32"] - 1))
    with pytest.raises(UserError, match="pairs.parts"):
        find(images, tmp_path / "full")
    assert not list(tmp_path.glob("full/*/*"))
    find(images, tmp_path / "half", store="float16")
    monkeypatch.setattr(box_pairs.shutil, "disk_usage", lambda folder: Usage(needed["float32"]))
    find(images, tmp_path / "full")


class Stopped(Exception):
    pass


def stop(*arguments, **options):
    raise Stopped


def test_features_of_a_stopped_job_take_no_room_twice_and_are_not_made_again(images, tmp_path, monkeypatch):
    find(images, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(box_pairs, "_match", stop)
        find(images, tmp_path / "stopped")
    monkeypatch.setattr(box_pairs.shutil, "disk_usage", lambda folder: Usage(0))
    broken = make_encoder()
    broken.backbone.conv1.weight.fill_(torch.nan)
    find(images, tmp_path / "stopped", encoder=broken)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


@pytest.mark.parametrize("parts", [1, 2])
def test_a_job_stopped_while_it_matched_goes_on_with_any_parts_and_leaves_nothing(images, tmp_path, monkeypatch, parts):
    find(images, tmp_path / "whole")
    match_boxes, left = box_pairs.match_boxes, [5]

    def match_some(*arguments, **options):
        left[0] -= 1
        return match_boxes(*arguments, **options) if left[0] >= 0 else stop()

    monkeypatch.setattr(box_pairs, "match_boxes", match_some)
    with pytest.raises(Stopped):
        find(images, tmp_path / "stopped", parts=2)
    # Two blocks of two images; the fifth image was in vain.
    assert len(list(tmp_path.glob("stopped/pair_blocks/*_offsets.npy"))) == 2
    left[0] = COUNT - 4
    find(images, tmp_path / "stopped", parts=parts)
    assert left == [0] and contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_a_part_that_was_matched_before_a_stop_is_not_embedded_again(images, tmp_path, monkeypatch):
    folders = []

    def watched(encoder, crops, chunks, folder, **options):
        folders.append(folder.name)
        if len(folders) == 2:
            stop()
        return embed_chunks(encoder, crops, chunks, folder, **options)

    monkeypatch.setattr(box_pairs, "embed_chunks", watched)
    with pytest.raises(Stopped):
        find(images, tmp_path, parts=2)
    find(images, tmp_path, parts=2)
    assert folders == ["box_features_0of2", "box_features_1of2", "box_features_1of2"]


def test_features_of_a_part_are_deleted_before_the_next_begins(images, tmp_path, monkeypatch):
    seen = []

    def watched(encoder, crops, chunks, folder, **options):
        seen.append([path.name for path in tmp_path.glob("box_features*")])
        # A deleted file takes disk as long as it is mapped.
        if sys.platform == "linux":
            assert "box_features" not in Path("/proc/self/maps").read_text()
        return embed_chunks(encoder, crops, chunks, folder, **options)

    monkeypatch.setattr(box_pairs, "embed_chunks", watched)
    (tmp_path / "box_features_0of1").mkdir()
    find(images, tmp_path, parts=2)
    assert seen == [["box_features_0of2"], ["box_features_1of2"]]


def test_pairs_that_are_there_are_not_looked_for_again_and_leftovers_go(images, tmp_path):
    kept = Ragged.from_rows([[range(8)]] * 3 * COUNT, width=8, dtype=np.uint16)
    kept.save(tmp_path / "pairs")
    for leftover in ("box_features_0of1", "pair_blocks"):
        os.mkdir(tmp_path / leftover)
    broken = make_encoder()
    del broken.backbone.conv1
    assert find(images, tmp_path, encoder=broken)[4].tolist() == [list(range(8))]
    assert sorted(contents(tmp_path)) == ["pairs.npy", "pairs_offsets.npy"]
