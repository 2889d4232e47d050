import json
import logging
import math
import os

import numpy as np
import pytest
from PIL import Image

from data.label_maps import LabelMapError, write_label_map
from data.listing import find_images
from evaluation.map_scores import MaskQuality, score_map, summarise
from evaluation.mask_quality import MissingMaps, format_scores, main, score_masks, score_types
from evaluation.truths import HumanSegments, find_truth
from utils.errors import UserError

NUMBER = 17


def truths_of(number: int) -> list[np.ndarray]:
    """Two people's halves of an image of 6 x 8 pixels, each image's elsewhere."""
    return [np.repeat([np.arange(8) > (number + person) % 7], 6, axis=0).astype(np.uint8) for person in (0, 1)]


def labels_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(3, size=(6, 8)).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Seventeen images, their maps of two types, and two people's segmentations of each."""
    for number in range(NUMBER):
        name = f"{number:02d}"
        (tmp_path / "images" / "train").mkdir(parents=True, exist_ok=True)
        (tmp_path / "segments" / "train").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(tmp_path / "images" / "train" / f"{name}.png")
        write_label_map(tmp_path / "masks" / "random" / "train" / f"{name}.png.png", labels_of(number))
        write_label_map(tmp_path / "masks" / "people" / "train" / f"{name}.png.png", truths_of(number)[0])
        for person, truth in enumerate(truths_of(number)):
            Image.fromarray(truth).save(tmp_path / "segments" / "train" / f"{name}_{person}.png")
    return tmp_path


@pytest.fixture
def truth(folder) -> HumanSegments:
    return find_truth(folder, "train")


def expected(numbers) -> MaskQuality:
    return summarise([score_map(labels_of(number), truths_of(number), background=False) for number in numbers])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_folder_scores_what_its_maps_do_on_any_number_of_processes(folder, truth, workers):
    images = find_images(folder)
    quality = score_masks(images, folder / "masks", "random", truth, workers=workers)
    assert quality == expected(range(NUMBER)) and quality.images == NUMBER


def test_only_the_images_asked_for_count(folder, truth):
    quality = score_masks(find_images(folder), folder / "masks", "random", truth, indices=np.array([3, 11]))
    assert quality == expected([3, 11])


def test_an_image_that_cannot_be_read_has_no_map_and_is_left_out(folder, truth):
    (folder / "images" / "train" / "05.png").write_bytes(b"no image")
    (folder / "masks" / "random" / "train" / "05.png.png").unlink()
    quality = score_masks(find_images(folder), folder / "masks", "random", truth, workers=1)
    assert quality == expected(set(range(NUMBER)) - {5})
    with pytest.raises(MissingMaps, match="none of the 1 images"):
        score_masks(find_images(folder), folder / "masks", "random", truth, indices=[5])


def test_a_missing_map_is_refused_where_its_type_is_asked_for_and_else_left_out(folder, truth, caplog):
    (folder / "masks" / "random" / "train" / "05.png.png").unlink()
    images, options = find_images(folder), {"workers": 1, "indices": range(4, 7)}
    with pytest.raises(MissingMaps, match=r"random.train: 1 of 3 images have no label map there, such as 05\.png"):
        score_types(images, folder / "masks", ["random"], truth, **options)
    with caplog.at_level(logging.WARNING):
        assert list(score_types(images, folder / "masks", [], truth, **options)) == ["people"]
    assert "left out" in caplog.text and "05.png" in caplog.text
    # Not among the images that are scored, it is not missed.
    assert list(score_types(images, folder / "masks", [], truth, workers=1, indices=[0])) == ["people", "random"]


def test_a_map_of_another_size_than_the_truth_is_refused_by_name(folder, truth):
    write_label_map(folder / "masks" / "random" / "train" / "05.png.png", labels_of(5)[:, :4])
    with pytest.raises(LabelMapError, match=r"05\.png\.png: 4 x 6 pixels where the truth of 05\.png has 8 x 6"):
        score_masks(find_images(folder), folder / "masks", "random", truth)


def test_a_damaged_map_is_refused_by_name(folder, truth):
    (folder / "masks" / "random" / "train" / "05.png.png").write_bytes(b"no image")
    with pytest.raises(LabelMapError, match=r"05\.png\.png: no complete PNG"):
        score_masks(find_images(folder), folder / "masks", "random", truth, workers=1)


def test_a_type_that_states_its_size_is_resized_to_the_truths(folder, truth):
    small = np.arange(9, dtype=np.uint8).reshape(3, 3)
    write_label_map(folder / "masks" / "slic9_3" / "train" / "04.png.png", small)
    quality = score_masks(find_images(folder), folder / "masks", "slic9_3", truth, indices=[4])
    large = np.asarray(Image.fromarray(small).resize((8, 6), Image.Resampling.NEAREST))
    assert quality == summarise([score_map(large, truths_of(4), background=False)])


def test_a_generations_maps_have_the_images_size(folder, truth):
    for number in range(2):
        write_label_map(folder / "masks" / "gen_0002" / "train" / f"{number:02d}.png.png", labels_of(number))
    assert score_masks(find_images(folder), folder / "masks", "gen_0002", truth, indices=[0, 1]) == expected([0, 1])


class KilledReader:
    """Ends its process as the system does where memory is short."""

    background = False

    def __call__(self, name):
        os._exit(9)


def test_a_killed_worker_is_said(folder):
    with pytest.raises(UserError, match="let fewer work at once"):
        score_masks(find_images(folder), folder / "masks", "random", KilledReader(), workers=2)


def test_a_folder_without_types_is_refused(folder, truth):
    with pytest.raises(UserError, match="no folder TYPE/train"):
        score_types(find_images(folder), folder / "segments", [], truth)


def test_the_table_has_a_row_a_type():
    fh, grid = MaskQuality(0.5, 0.25, -0.125, 8.25, 300), MaskQuality(math.nan, 1, 1, 9, 1)
    header, first, second = format_scores({"fh": fh, "grid3x3": grid}).splitlines()
    assert first.split() == ["fh", "0.500", "0.250", "-0.125", "8.2", "300"]
    assert second.split()[:2] == ["grid3x3", "nan"]
    assert len({len(row) for row in (header, first, second)}) == 1


def test_the_command_prints_and_writes_the_scores_of_images_from_the_whole_listing(folder, capsys):
    arguments = ["--dataset_dir", str(folder), "--limit", "3", "--workers", "1", "--json", str(folder / "scores.json")]
    assert main(arguments) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["masks", "people", "random"]
    assert json.loads((folder / "scores.json").read_text())["random"] == expected([0, 8, 16])._asdict()
    assert main([*arguments, "--masks", str(folder / "masks"), "random"]) == 0
    assert list(json.loads((folder / "scores.json").read_text())) == ["random"]


def test_a_score_that_does_not_exist_is_null_in_json(folder):
    content = {
        "images": [{"id": 1, "file_name": "00.png", "height": 6, "width": 8}],
        "categories": [],
        "annotations": [],
    }
    (folder / "objects.json").write_text(json.dumps(content))
    options = ["--annotations", str(folder / "objects.json"), "--limit", "1", "--json", str(folder / "scores.json")]
    assert main(["--dataset_dir", str(folder), *options, "random"]) == 0
    assert json.loads((folder / "scores.json").read_text())["random"]["best_iou"] is None


def test_the_command_says_what_is_wrong_and_returns_its_exit_code(folder, caplog):
    assert main(["nosuch", "--dataset_dir", str(folder)]) == 3
    assert "nosuch" in caplog.text
    assert main(["--dataset_dir", str(folder), "--masks", str(folder / "images")]) == 2
    (folder / "segments").rename(folder / "elsewhere")
    assert main(["--dataset_dir", str(folder)]) == 3
    assert "nor segments/train there; give --annotations or --segments" in caplog.text
