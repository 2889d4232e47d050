import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import correspondence
from benchmarks.correspondence import common_share, main
from data.ragged import Ragged
from models.backbone import make_trunk
from tools.kept_boxes import BoxRule

COUNT = 6


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The command on six small photographs in two splits, with boxes that are small enough for them."""
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        path = tmp_path / "images" / ("train", "val")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.kron(rng.integers(0, 256, (4, 5, 3)), np.ones((12, 12, 1))).astype(np.uint8)).save(path)
    torch.manual_seed(0)
    trunk = make_trunk("resnet_tiny")
    # Statistics of its own, without which all features are nearly parallel.
    trunk(torch.randn(16, 3, 16, 16))
    torch.save(trunk.state_dict(), tmp_path / "backbone.pth")
    monkeypatch.setattr(correspondence, "RULE", BoxRule(min_size=12, max_ratio=3, max_iou=0.5, top_n=25))
    options = {"backbone": "resnet_tiny", "size": 16, "neighbours": 3, "threads": 1, "work_dir": tmp_path / "work"}
    threads = torch.get_num_threads()
    yield [str(tmp_path), *(word for name, value in options.items() for word in (f"--{name}", str(value)))]
    torch.set_num_threads(threads)


def test_both_forms_are_measured_and_compared_and_proposals_are_found_once(command, tmp_path, capsys):
    file = tmp_path / "pairs.json"
    words = ["--checkpoint", str(tmp_path / "backbone.pth"), "--limit", "5", "--json", str(file)]
    assert main([*command, *words]) == 0
    text = capsys.readouterr().out
    assert (
        "resnet_tiny, " in text
        and "size 16, neighbours 3: 5 images" in text
        and "5 images searched" in text
        and "3 neighbours each" in text
    )
    boxes, plain, ratio = re.search(r"embedded: (\d+), baseline (\d+), ratio ([\d.]+)", text).groups()
    assert int(boxes) > 2 * 5 and f"5 images, {boxes} boxes" in text
    # With 3 of 4 other images each, a box is embedded for its own and for about three others.
    assert float(ratio) == pytest.approx(int(plain) / int(boxes), abs=0.1) and 2 < float(ratio) < 6
    assert "float32: 100.00 % of" in text and "for 100.00 % of images" in text
    assert re.search(r"float16: \d+", text) and text.count("seconds: ") == 1 and "the processor's: " in text
    rows = {row["what"]: row for row in json.loads(file.read_text())["rows"]}
    assert rows["boxes embedded"]["ratio"] == pytest.approx(int(plain) / int(boxes)) and rows["seconds"]["ours_ms"] > 0
    assert rows["agreement, float32"]["common_share"] == 1
    assert all(row["size"] == 16 and row["neighbours"] == 3 for row in rows.values())
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["proposals"]
    assert main(command) == 0
    assert "1 images searched" in capsys.readouterr().out


def test_forms_that_disagree_are_told(command, capsys, monkeypatch):
    right = correspondence.find_pairs
    monkeypatch.setattr(
        correspondence, "find_pairs", lambda *inputs, **options: right(*inputs, **options | {"size": 8})
    )
    assert main(command) == 0
    assert "100.00 %" not in capsys.readouterr().out


def test_common_pairs_are_those_with_the_same_image_and_neighbour():
    a, b, c = ([number] * 8 for number in range(3))
    first, second = (Ragged.from_rows(rows, width=8, dtype=np.uint16) for rows in ([[a, b], [c]], [[b, c], []]))
    assert common_share(first, second) == pytest.approx(1 / 3)
    assert common_share(first, first) == 1
