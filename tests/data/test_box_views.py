import pickle

import numpy as np
import pytest
import torch

from data.box_views import BoxViews, count_unmatched
from data.boxes import Jitter, overlaps
from data.correspondence import Correspondence
from data.geometry import Crop, cut_image
from data.images import read_image
from data.listing import find_images
from data.photometric import Parameter
from data.ragged import Ragged
from data.views import ViewSpec, collate
from utils.errors import DataError

SPEC = ViewSpec(size=16)
# Images of 48 x 40 pixels.
BOXES = [(4, 3, 20, 16), (24, 8, 24, 24), (0, 0, 48, 40)]


def found(images, *, boxes=BOXES, neighbours=None, pairs=None) -> Correspondence:
    """Every image has the same boxes; its two neighbours are those after it, with one pair each."""
    N = len(images)
    ring = np.stack([(np.arange(N) + 1) % N, (np.arange(N) + 2) % N], axis=1).astype(np.int32)
    neighbours = ring if neighbours is None else neighbours
    pairs = [[(*BOXES[0], *BOXES[1])], [(*BOXES[1], *BOXES[0])]] * N if pairs is None else pairs
    ragged = {"width": 4, "dtype": np.uint16}
    return Correspondence(
        Ragged.from_rows([boxes] * N, **ragged), neighbours, Ragged.from_rows(pairs, **ragged | {"width": 8})
    )


def views(folder, *, spec=SPEC, **changes) -> BoxViews:
    images = find_images(folder)
    return BoxViews(images, found(images, **changes), spec=spec, patch_size=12, jitter=Jitter(), seed=0)


def cut(image: np.ndarray, box: tuple[int, ...], *, flip: bool = False) -> torch.Tensor:
    x, y, w, h = box
    return cut_image(image, Crop((x / 48, y / 40, (x + w) / 48, (y + h) / 40), flip), size=12)


def box_of(patch: torch.Tensor, image: np.ndarray, candidates) -> tuple[int, ...] | None:
    """Which of the candidates a patch shows, mirrored or not."""
    return next(
        (box for box in candidates for flip in (False, True) if torch.equal(patch, cut(image, box, flip=flip))), None
    )


def test_an_item_has_the_parts_that_orl_needs(folder):
    item = views(folder)[2, 5]
    assert item["images"].shape == (2, 3, 16, 16) and item["photometric"].shape == (2, len(Parameter))
    assert item["patches"].shape == (4, 3, 12, 12) and item["patches"].dtype == torch.uint8
    assert item["patch_photometric"].shape == (4, len(Parameter)) and item["unreadable"] == []
    batch = collate([views(folder)[2, index] for index in range(3)])
    assert batch["patches"].shape == (3, 4, 3, 12, 12)


def test_a_draw_depends_on_seed_epoch_and_image_alone(folder):
    dataset = views(folder)
    other = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(dataset[1, 3]["patches"], other[1, 3]["patches"])
    assert not torch.equal(dataset[1, 3]["patches"], dataset[2, 3]["patches"])


def test_the_first_patch_is_a_box_of_the_image_and_the_second_its_jitter(folder):
    dataset, drawn = views(folder), set()
    image = read_image(dataset.images.path(4))
    cuts = [dataset._draw_jittered(dataset_photo(dataset, 4), np.random.default_rng(seed)) for seed in range(40)]
    for (_, box, _), (_, jittered, _) in cuts:
        assert box in BOXES and overlaps(np.array([jittered]), np.array(box))[0] > 0.5
    assert sum(box != jittered for (_, box, _), (_, jittered, _) in cuts) > 20
    for epoch in range(10):
        drawn.add(box_of(dataset[epoch, 4]["patches"][0], image, BOXES))
    assert drawn == set(BOXES)


def dataset_photo(dataset: BoxViews, index: int):
    return dataset._read((0, index))


def test_the_other_two_are_a_pair_with_a_neighbour(folder):
    dataset, seen = views(folder), set()
    ours, first, second = (read_image(dataset.images.path(index)) for index in (4, 5, 6))
    for epoch in range(12):
        patches = dataset[epoch, 4]["patches"]
        own = box_of(patches[2], ours, BOXES[:2])
        # With the first neighbour box 0 goes with box 1, with the second the other way round.
        neighbour, box = (first, BOXES[1]) if own == BOXES[0] else (second, BOXES[0])
        assert box_of(patches[3], neighbour, [box]) == box
        seen.add(own)
    assert seen == set(BOXES[:2])


def test_patches_are_mirrored_each_on_its_own(folder):
    def mirrored(probability: float) -> list[bool]:
        dataset = views(folder, spec=ViewSpec(size=16, flip_probability=probability), boxes=BOXES[:1])
        plain = cut(read_image(dataset.images.path(4)), BOXES[0])
        return [torch.equal(dataset[epoch, 4]["patches"][0], plain.flip(-1)) for epoch in range(8)]

    assert mirrored(0) == [False] * 8 and mirrored(1) == [True] * 8
    assert 0 < sum(mirrored(0.5)) < 8


def test_patches_are_coloured_like_the_views(folder):
    """The first of a pair as the first view is, always blurred; the second rarely."""
    blur = Parameter.BLUR_SIGMA
    drawn = torch.stack([views(folder)[epoch, 4]["patch_photometric"][:, blur] for epoch in range(30)]) > 0
    assert drawn[:, [0, 2]].all() and drawn[:, [1, 3]].float().mean() < 0.4


def test_an_image_without_pairs_gives_another_box_and_its_jitter(folder):
    N = len(find_images(folder))
    dataset = views(folder, pairs=[[]] * (2 * N))
    assert count_unmatched(dataset.correspondence) == N
    image = read_image(dataset.images.path(4))
    item = dataset[0, 4]
    assert box_of(item["patches"][2], image, BOXES) in BOXES and item["unreadable"] == []


def test_a_neighbour_without_pairs_is_passed_over(folder):
    N = len(find_images(folder))
    dataset = views(folder, pairs=[[], [(*BOXES[1], *BOXES[0])]] * N)
    assert count_unmatched(dataset.correspondence) == 0
    second = read_image(dataset.images.path(6))
    for epoch in range(6):
        assert box_of(dataset[epoch, 4]["patches"][3], second, [BOXES[0]]) == BOXES[0]


def test_a_neighbour_that_cannot_be_read_is_passed_over_and_named(folder):
    dataset = views(folder)
    damaged, second = dataset.images.path(5), read_image(dataset.images.path(6))
    damaged.write_bytes(b"no image")
    items = [dataset[epoch, 4] for epoch in range(8)]
    assert all(box_of(item["patches"][3], second, [BOXES[0]]) == BOXES[0] for item in items)
    named = [name for item in items for name, _ in item["unreadable"]]
    assert 0 < len(named) < 8 and set(named) == {dataset.images.name(5)}


def test_an_image_without_boxes_is_its_own_box(folder):
    dataset = views(folder, boxes=[])
    assert box_of(dataset[0, 4]["patches"][0], read_image(dataset.images.path(4)), [BOXES[2]]) == BOXES[2]


def test_boxes_of_other_images_are_refused_by_name(folder):
    dataset = views(folder, boxes=[(40, 0, 20, 20)])
    with pytest.raises(DataError, match=r"48 x 40 pixels, but its box is \[40, 0, 20, 20\].*--stage 2"):
        dataset[0, 4]
