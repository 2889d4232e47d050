import numpy as np
import pytest
import torch

from data.demo_scenes import LIGHTNESS, PAPER_OVER_INK, draw_colours, draw_object, draw_scene
from data.demo_shapes import CATEGORIES, CATEGORY_NAMES
from evaluation.probes import fit_linear


def scenes(count: int, *, size: int = 48):
    return [draw_scene(np.random.default_rng([5, index]), size=size) for index in range(count)]


def test_equal_generators_draw_equal_scenes_and_others_do_not():
    first, again, other = (draw_scene(np.random.default_rng(seed), size=48) for seed in (1, 1, 2))
    for one, two in zip(first, again):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(first.image, other.image)


def test_every_object_keeps_much_of_itself_visible():
    for scene in scenes(30):
        areas = np.bincount(scene.instances.ravel(), minlength=len(scene.categories) + 1)[1:]
        assert len(areas) == len(scene.categories) and areas.min() > 0.015 * scene.instances.size


def test_scenes_hold_few_large_objects_of_all_categories():
    drawn = scenes(60)
    counts = [len(scene.categories) for scene in drawn]
    assert min(counts) >= 1 and max(counts) == 3 and np.mean(counts) > 2
    assert 0.3 < np.mean([np.mean(scene.instances > 0) for scene in drawn]) < 0.7
    assert set(np.concatenate([scene.categories for scene in drawn])) == set(range(1, 11))


def test_segmentation_gives_each_object_its_category():
    scene = scenes(1)[0]
    assert set(np.unique(scene.segmentation)) == {0, *scene.categories}
    for place, category in enumerate(scene.categories, start=1):
        assert np.all(scene.segmentation[scene.instances == place] == category)


def test_ground_truth_lies_where_the_object_was_painted():
    colour, alpha = draw_object(np.random.default_rng(0), category=3, centre=(20.0, 30.0), radius=12.0, size=48)
    rows, columns = np.nonzero(alpha > 0.5)
    assert abs(columns.mean() - 19.5) < 2 and abs(rows.mean() - 29.5) < 2
    assert np.all(colour[alpha == 0] == 0)
    assert np.pi * 9**2 < len(rows) < np.pi * 13**2


@pytest.mark.parametrize("category", range(len(CATEGORIES)), ids=CATEGORY_NAMES)
def test_outlines_lie_within_the_unit_square_and_textures_hold_both_colours(category):
    axis = np.linspace(-1.5, 1.5, 181, dtype=np.float32)
    u, v = np.meshgrid(axis, axis)
    outline, texture = CATEGORIES[category](u, v, np.random.default_rng(3))
    assert not np.any(outline[(np.abs(u) > 1.01) | (np.abs(v) > 1.01)])
    texture = np.broadcast_to(np.asarray(texture, np.float32), outline.shape)[outline]
    assert texture.min() >= 0 and texture.max() <= 1
    assert 0.15 < np.mean(texture > 0.5) < 0.85


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_colours_differ_by_a_fixed_lightness_around_a_mean_that_the_share_does_not_move(share):
    pairs = [draw_colours(np.random.default_rng(seed), paper_share=share) for seed in range(300)]
    lightness = np.array([[LIGHTNESS @ colour for colour in pair] for pair in pairs])
    np.testing.assert_allclose(lightness[:, 0] - lightness[:, 1], PAPER_OVER_INK, atol=1e-5)
    mean = share * lightness[:, 0] + (1 - share) * lightness[:, 1]
    assert mean.min() >= 0.4 and mean.max() <= 0.6 and abs(mean.mean() - 0.5) < 0.02


def test_a_linear_model_cannot_tell_categories_by_the_mean_colour_of_their_true_regions():
    colours, classes = [], []
    for scene in scenes(500, size=32):
        for place, category in enumerate(scene.categories, start=1):
            colours.append(scene.image[scene.instances == place].mean(0))
            classes.append(category - 1)
    colours, classes = torch.tensor(np.array(colours), dtype=torch.float32), torch.tensor(classes, dtype=torch.int64)
    half = len(classes) // 2
    classifier = fit_linear(colours[:half], classes[:half], num_classes=10, ridge=1e-3)
    accuracy = (classifier(colours[half:]).argmax(1) == classes[half:]).float().mean().item()
    assert accuracy < 0.18


def test_a_scene_too_small_to_show_textures_is_refused():
    with pytest.raises(ValueError, match="size is 31"):
        draw_scene(np.random.default_rng(0), size=31)


@pytest.mark.parametrize("wrong", [(0, 2), (3, 2), (2, 5)])
def test_numbers_of_objects_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="num_objects"):
        draw_scene(np.random.default_rng(0), size=32, num_objects=wrong)
