from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from data.images import UnreadableImage, read_image
from data.listing import find_images
from data.photometric import normalise
from data.ragged import Ragged
from evaluation import features
from evaluation.features import BoxCrops, CentreCrops, RowStore, chunk_path, embed_chunks
from tests.tools.small_stage import COUNT, CPU, NO_IMAGE, SIZE, TRUNCATED, make_boxes, make_encoder, make_images

# Of different sizes, not in order.
CHUNKS = [np.array([0, 3, 8, 1]), np.array([2, 4, 5, 6, 7, 10]), np.array([9])]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("features") / "images")


@pytest.fixture(scope="module")
def encoder():
    return make_encoder()


def embed_boxes(encoder, images, folder, *, boxes=None, chunks=CHUNKS, project=False, **changed):
    boxes = make_boxes() if boxes is None else boxes
    options = {"batch_size": 4, "desc": "boxes"} | CPU | changed
    return embed_chunks(
        partial(encoder, project=project),
        BoxCrops(images, boxes, size=SIZE),
        chunks,
        folder,
        dim=encoder.dim(project=project),
        counts=boxes.lengths,
        **options,
    )


def alone(encoder, image, box, *, project):
    """The features of one box, embedded in float64 as a batch of one."""
    x, y, w, h = map(int, box)
    part = torch.from_numpy(image[y : y + h, x : x + w]).permute(2, 0, 1)[None]
    picture = F.interpolate(part, (SIZE, SIZE), mode="bicubic", antialias=True)
    return encoder.double()(normalise(picture.double() / 255), project=project)[0]


def box_by_box(images, boxes, *, project=False):
    """For each image (n, D), one box at a time; not numbers where it cannot be read."""
    encoder = make_encoder()
    for index, own in enumerate(boxes):
        try:
            image = read_image(images.path(index))
            rows = [alone(encoder, image, box, project=project) for box in own]
        except UnreadableImage:
            rows = [torch.full((encoder.dim(project=project),), torch.nan)] * len(own)
        yield torch.stack(rows).numpy() if rows else np.zeros((0, encoder.dim(project=project)))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("project", [False, True])
def test_every_box_has_the_features_that_it_has_alone_and_those_that_cannot_be_read_shift_none(
    encoder, images, tmp_path, project
):
    boxes = make_boxes()
    assert boxes.lengths[TRUNCATED] > 0 and boxes.lengths[NO_IMAGE] == 0
    embedded = embed_boxes(encoder, images, tmp_path, project=project)
    assert embedded == boxes.lengths.sum() - boxes.lengths[TRUNCATED]
    rows = RowStore(tmp_path, CHUNKS, boxes.lengths)
    for index, expected in enumerate(box_by_box(images, boxes, project=project)):
        np.testing.assert_allclose(rows[index], expected, atol=1e-5)
        assert len(rows[index]) == len(expected)


def test_whole_images_are_embedded_by_their_middle(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    (tmp_path / "train").mkdir()
    Image.fromarray(image).save(tmp_path / "train" / "wide.png")
    Image.fromarray(image.transpose(1, 0, 2)).save(tmp_path / "train" / "tall.png")
    (tmp_path / "train" / "none.png").write_bytes(b"")
    none, tall, wide = (CentreCrops(find_images(tmp_path), size=28)[index] for index in range(3))
    # 28 of 32 pixels are 224 of 256.
    assert torch.equal(wide[0], torch.from_numpy(image[2:30, 10:38]).permute(2, 0, 1))
    assert torch.equal(tall[0], wide[0].mT) and none.shape == (0, 3, 28, 28)


def test_batches_are_full_across_images_and_end_with_their_chunk(encoder, images, tmp_path):
    sizes = []
    handle = encoder.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    embed_boxes(encoder, images, tmp_path)
    handle.remove()
    # Boxes that can be read: 3 + 5; 7 + 5 + 7 + 0 + 5 + 5; 3.
    assert sizes == [4, 4] + [4] * 7 + [1] + [3]


def test_a_stopped_job_makes_what_is_missing_and_ends_with_the_same_bytes(encoder, images, tmp_path):
    embed_boxes(encoder, images, tmp_path)
    whole, chunk = contents(tmp_path), chunk_path(tmp_path, 1)
    chunk.unlink()
    kept = chunk_path(tmp_path, 0).stat().st_mtime_ns
    assert embed_boxes(encoder, images, tmp_path) == make_boxes().lengths[CHUNKS[1]].sum()
    assert contents(tmp_path) == whole and chunk_path(tmp_path, 0).stat().st_mtime_ns == kept
    assert embed_boxes(encoder, images, tmp_path) == 0


@pytest.mark.parametrize("processes", [2, 5])
def test_files_do_not_depend_on_the_number_of_processes(encoder, images, tmp_path, monkeypatch, processes):
    total = embed_boxes(encoder, images, tmp_path / "one")
    monkeypatch.setattr(features, "world_size", lambda: processes)
    embedded = []
    for rank in range(processes):
        monkeypatch.setattr(features, "rank", lambda: rank)
        embedded.append(embed_boxes(encoder, images, tmp_path / "many"))
    assert contents(tmp_path / "one") == contents(tmp_path / "many")
    assert sum(embedded) == total and max(embedded) < total


def test_files_do_not_depend_on_the_number_of_readers(encoder, images, tmp_path):
    for workers in (0, 2):
        embed_boxes(encoder, images, tmp_path / str(workers), workers=workers)
    assert contents(tmp_path / "0") == contents(tmp_path / "2")


def test_halves_are_the_rounded_numbers(encoder, images, tmp_path):
    for name, dtype in (("half", torch.float16), ("single", torch.float32)):
        embed_boxes(encoder, images, tmp_path / name, dtype=dtype)
    for chunk in range(len(CHUNKS)):
        half, single = (np.load(chunk_path(tmp_path / name, chunk)) for name in ("half", "single"))
        assert half.dtype == np.float16 and single.dtype == np.float32
        np.testing.assert_array_equal(half, single.astype(np.float16))


def test_no_image_at_all_gives_a_file_without_rows(encoder, images, tmp_path):
    boxes = Ragged.from_rows([[]] * COUNT, width=4, dtype=np.uint16)
    chunks = [np.arange(COUNT), np.arange(0)]
    embed_boxes(encoder, images, tmp_path, boxes=boxes, chunks=chunks)
    store = RowStore(tmp_path, chunks, boxes.lengths)
    assert store[4].shape == (0, encoder.dim(project=False))
