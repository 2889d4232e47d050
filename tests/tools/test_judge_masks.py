"""Generations of a run beside the objects of its images."""

import numpy as np
import pytest
import yaml
from PIL import Image

from data.label_maps import label_map_path, write_label_map
from tools.judge_masks import judge_masks, main
from utils.files import read_json


@pytest.fixture
def run(tmp_path):
    """Four photographs that people cut in halves, whose first masks are quarters and whose generations are whole, then right."""
    truth = np.repeat([[0, 1]], 20, axis=0).repeat(15, axis=1)
    for number in range(4):
        photo = tmp_path / f"photos/images/train/{number}.png"
        segments = tmp_path / f"photos/segments/train/{number}_1.png"
        for path, picture in ((photo, np.zeros((20, 30, 3), np.uint8)), (segments, truth.astype(np.uint8))):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
        rows, columns = np.indices((20, 30))
        maps = {"photos/masks/own": 2 * (rows // 10) + columns // 15, "run/masks/gen_0001": 0 * rows}
        for folder, labels in (maps | {"run/masks/gen_0002": truth}).items():
            mask_dir, mask_type = (tmp_path / folder).parent, folder.rpartition("/")[2]
            write_label_map(label_map_path(mask_dir, mask_type, "train", f"{number}.png"), labels)
    data = {"image_dir": str(tmp_path / "photos"), "split": "train", "subset": "", "mask_dir": None, "mask_type": "own"}
    (tmp_path / "run/config.yaml").write_text(yaml.safe_dump({"data": data}))
    return tmp_path / "run"


def test_each_generation_is_scored_from_the_first_on(run):
    scores = judge_masks(run)
    assert list(scores) == ["own", "gen_0001", "gen_0002"]
    assert [round(one.best_iou, 6) for one in scores.values()] == [0.5, 0.5, 1]
    assert scores["gen_0001"].ari == 0 < scores["own"].ari < scores["gen_0002"].ari == 1
    assert {one.images for one in judge_masks(run, limit=3).values()} == {3}


def test_a_generation_that_is_not_complete_is_left_out(run):
    label_map_path(run / "masks", "gen_0001", "train", "2.png").unlink()
    assert list(judge_masks(run)) == ["own", "gen_0002"]


def test_the_command_prints_a_row_a_generation_and_keeps_it(run, capsys):
    assert main([str(run)]) == 0
    assert read_json(run / "mask_quality.json")["gen_0002"]["ari"] == 1
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "masks",
        "own",
        "gen_0001",
        "gen_0002",
    ]


def test_where_no_truth_is_found_the_options_that_name_one_are(run, capsys):
    (run.parent / "photos/segments").rename(run.parent / "elsewhere")
    assert main([str(run)]) == 3
    assert "give --annotations or --segments" in capsys.readouterr().err


def test_what_is_no_run_is_refused(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "config.yaml" in capsys.readouterr().err
