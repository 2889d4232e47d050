import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import offline
from benchmarks.offline import main, take_images
from benchmarks.offline_table import COCO, IMAGENET, Stage, hours
from utils.errors import UserError

TINY = ["--images", "3", "--size", "16", "--bank", "60", "--width", "8", "--backbone", "resnet_tiny"]
PAGE = "before\n<!-- offline -->\nold\n<!-- end -->\nafter\n"


@pytest.fixture
def photographs(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(5):
        path = tmp_path / "photos" / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.kron(rng.integers(0, 256, (4, 5, 3)), np.ones((12, 12, 1))).astype(np.uint8)).save(path)
    return tmp_path / "photos"


def test_every_stage_is_measured_and_the_page_is_renewed(photographs, tmp_path, capsys):
    page, figures = tmp_path / "page.md", tmp_path / "offline.json"
    page.write_text(PAGE)
    assert main([str(photographs), *TINY, "--json", str(figures), "--write", str(page)]) == 0
    rows = {row["what"]: row for row in json.loads(figures.read_text())["rows"]}
    assert [*rows] == [
        *offline.MAKERS,
        "selective search",
        "features, reading at 16 px",
        "features, resnet_tiny at 16 px",
        "neighbours, 8 numbers",
    ]
    assert all(row["seconds"] > 0 and row["pixels"] == 48 * 60 and row["images"] == 3 for row in rows.values())
    ratio = rows["FH by scikit-image"]["seconds"] / rows["FH"]["seconds"]
    assert rows["FH by scikit-image"]["ratio"] == pytest.approx(ratio)
    text = page.read_text()
    assert text.startswith("before\n<!-- offline -->\n| stage |") and text.endswith("\n<!-- end -->\nafter\n")
    assert "old" not in text and "3 photographs of 0.00 million" in text and max(map(len, text.splitlines())) <= 130
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(rows) and {line.count("|") for line in table} == {6}
    said = capsys.readouterr().out
    assert all(f"{what}: " in said and f"| {what} |" in text for what in rows)
    assert f"takes {ratio:.1f} times as long" in text


def test_hours_are_those_of_64_cores_and_grow_with_the_square_where_pairs_are_compared():
    assert hours(Stage("", 0.1), IMAGENET) == pytest.approx(1_281_167 * 0.1 / 64 / 3600)
    assert hours(Stage("", 1e-9, is_of_pair=True), COCO) == pytest.approx(118_287**2 * 1e-9 / 64 / 3600)
    assert hours(Stage("", 1e-9, is_of_pair=True, on_device=True), COCO) == pytest.approx(118_287**2 * 1e-9 / 3600)


def test_segments_that_are_not_scikit_images_end_the_command(photographs, monkeypatch):
    monkeypatch.setattr(offline, "felzenszwalb", lambda image, **options: np.arange(image[..., 0].size).reshape(48, 60))
    with pytest.raises(UserError, match="not scikit-image's"):
        offline.image_stages(take_images(photographs, 2).images, photographs.parent / "maps")


def test_photographs_are_spread_over_the_folder_and_too_few_are_refused(photographs):
    images, pixels = take_images(photographs, 2)
    assert [images.name(index) for index in range(2)] == ["class0/0.png", "class0/4.png"] and pixels == 48 * 60
    for folder in (photographs, photographs / "none"):
        with pytest.raises(UserError, match="images below it where --images asks for 6"):
            take_images(folder, 6)


@pytest.mark.parametrize("options, reason", [([], "no lines"), (["--sweep", "images"], "--sweep")])
def test_a_page_that_cannot_be_renewed_is_refused_before_anything_is_measured(
    photographs, tmp_path, capfd, monkeypatch, options, reason
):
    monkeypatch.setattr(offline, "measure", None)
    page = tmp_path / "page.md"
    page.write_text(PAGE if options else "no marks")
    assert main([str(photographs), *TINY, *options, "--write", str(page)]) == 2
    assert reason in capfd.readouterr().err
