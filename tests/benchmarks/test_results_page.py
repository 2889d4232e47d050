"""docs/results.md, its galleries, and the program that makes them."""

import json
import re

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks.results import figures, galleries
from benchmarks.results.page import main, make_page
from benchmarks.results.summary import rows_of
from data.label_maps import label_map_path, write_label_map
from tests.benchmarks.small_results import (
    PHOTOGRAPHS,
    make_history,
    make_regions,
    make_seeds,
    make_untrained,
    write_runs,
)
from tests.paths import ROOT
from tools import visualize_masks
from utils.files import read_json

LARGEST = {"figure": 150_000, "gallery": 400_000}


@pytest.fixture
def coarse(monkeypatch):
    """Figures of few dots, and tiles painted at their own size: a tenth of the time."""
    monkeypatch.setattr(figures, "_DOTS", 25)
    monkeypatch.setattr(visualize_masks, "_FINER", 1)


@pytest.fixture
def run(tmp_path, coarse):
    """A run of R2O on nine photographs, whose objects' halves it finds in the end, but for two."""
    halves = np.repeat([[0, 1]], 20, axis=0).repeat(10, axis=1)
    quarters = halves + 2 * halves.T
    pretrain = tmp_path / "runs/r2o/seed0/pretrain"
    for number in range(9):
        name = f"{number}.png"
        for folder, picture in (("images", np.full((20, 20, 3), 200)), ("segments", halves)):
            path = tmp_path / "photos" / folder / "train" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.astype(np.uint8)).save(path)
        last = {3: 0 * halves, 6: quarters}.get(number, halves)
        for mask_dir, mask_type, labels in (
            (tmp_path / "photos/masks", "slic50_20", quarters),
            (pretrain / "masks", "epoch_0000", quarters),
            (pretrain / "masks", "epoch_0002", last),
        ):
            write_label_map(label_map_path(mask_dir, mask_type, "train", name), labels)
    data = {"image_dir": str(tmp_path / "photos"), "split": "train", "subset": "", "mask_dir": None}
    data |= {"superpixels": "cached", "slic_segments": 50, "superpixel_size": 20}
    (pretrain / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    return pretrain


def test_a_gallery_shows_scenes_of_the_whole_listing_and_the_worst_ones(run, tmp_path):
    even, worst = galleries.draw_galleries(tmp_path / "runs", tmp_path, "cpu")
    assert [scene["image"] for scene in even["scenes"]] == ["0.png", "1.png", "3.png", "4.png", "6.png", "8.png"]
    assert [scene["image"] for scene in worst["scenes"]][:3] == ["3.png", "6.png", "0.png"]
    assert [scene["best IoU"] for scene in worst["scenes"]][:3] == [0.5, 0.5, 1.0]
    assert even["columns"] == ["slic50_20", "epoch_0000", "epoch_0002"] and worst["of"] == 9
    assert read_json(tmp_path / "cpu_galleries.json") == [even, worst]
    # Photo, three maps and the truth beside each other, six scenes below each other.
    with Image.open(tmp_path / even["file"]) as sheet:
        assert (sheet.width // 160, sheet.height // 176) == (5, 6)


def test_a_gallery_without_label_maps_is_removed_and_the_page_says_so(run, tmp_path):
    docs = tmp_path / "docs"
    write_runs(tmp_path / "runs", make_seeds("r2o", 0.3))
    options = ["--size", "cpu", "--runs", str(tmp_path / "runs"), "--docs", str(docs)]
    assert main(options) == 0
    text = (docs / "results.md").read_text()
    assert "results/cpu_r2o_worst.png" in text and "of 9 scenes the 6 whose objects" in text
    assert "No gallery of cyborgs" in text and "No gallery of R2O" not in text
    (run / "config.yaml").unlink()
    assert main(options) == 0
    text = (docs / "results.md").read_text()
    assert "No gallery of R2O" in text and "cpu_r2o_worst.png" not in text
    assert list((docs / "results").glob("cpu_r2o_*.png")) == []


def test_the_page_is_made_of_the_tracked_json_alone(tmp_path, coarse):
    docs, curves = tmp_path / "docs", {"history": make_history(0.1, 0.3), "losses": [[20, 2.0], [40, 1.0]]}
    curves |= {"clusters": [[1.0, 8]], "regions": make_regions(0.1, 0.3)}
    runs = write_runs(tmp_path / "runs", [*make_untrained(0.1, 0.11), *make_seeds("r2o", 0.3, 0.31, **curves)])
    assert main(["--size", "cpu", "--runs", str(runs), "--docs", str(docs)]) == 0
    page = docs / "results.md"
    first = page.read_bytes()
    assert b"`python -m benchmarks.results.page --from_json`" in first.splitlines()[0]
    assert b"## CPU\n" in first and b"## GPU: not measured\n" in first and b"photographs" not in first
    for name in ("scores", "learning", "losses", "regions"):
        assert f"](results/cpu_{name}.png)".encode() in first
    page.unlink()
    assert main(["--from_json", "--docs", str(docs)]) == 0
    assert page.read_bytes() == first

    (docs / "results/findings.md").write_text("It was a bug.\n")
    (docs / "results/bsds500.json").write_text(json.dumps(PHOTOGRAPHS))
    (docs / "results/bsds500_r2o.png").write_bytes((docs / "results/cpu_scores.png").read_bytes())
    assert main(["--from_json", "--docs", str(docs)]) == 0
    text = page.read_text()
    assert "\n## What we found\n\nIt was a bug.\n" in text and "\n## On real photographs\n" in text
    assert "(results/photographs.png)" in text and "(results/bsds500_r2o.png)" in text


def test_a_figure_that_has_nothing_to_show_is_removed(tmp_path):
    path = tmp_path / "figure.png"
    figures.save(figures.score_bars(rows_of(make_seeds("r2o", 0.3))), path)
    assert 1000 < path.stat().st_size < LARGEST["figure"]
    figures.save(None, path)
    assert not path.exists()


def test_a_size_or_from_json_must_be_given(tmp_path, capsys):
    docs = ["--docs", str(tmp_path)]
    assert main(docs) == main([*docs, "--size", "cpu", "--from_json"]) == 2
    assert main([*docs, "--size", "cpu", "--runs", str(tmp_path)]) == 2
    assert "no NAME/seedN/result.json there" in capsys.readouterr().err and not (tmp_path / "results.md").exists()


def test_the_docs_page_is_what_the_tracked_results_make():
    text = (ROOT / "docs" / "results.md").read_text()
    assert make_page(ROOT / "docs") == text, "run python -m benchmarks.results.page --from_json"
    for name in re.findall(r"\]\((results/[^)]+)\)", text):
        kind = "gallery" if re.search(r"_(even|worst)\.png|bsds500_", name) else "figure"
        assert (ROOT / "docs" / name).stat().st_size < LARGEST[kind], name
