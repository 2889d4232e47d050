import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import data_path
from benchmarks.data_pipelines import METHODS, make_folder, make_pipeline


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Four files of smooth colours."""
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for number in range(4):
        image = Image.fromarray(rng.integers(40, 200, (4, 5, 3)).astype(np.uint8))
        image.resize((120, 96), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=95)
    return folder


@pytest.fixture(scope="module")
def images(photographs, tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("data"), sorted(photographs.iterdir()), longer=None)


@pytest.mark.parametrize("method", METHODS)
def test_the_published_pipeline_makes_what_ours_does(images, method):
    data_path.check_alike(make_pipeline(method, images))


@pytest.mark.parametrize("method, part", [("r2o", "superpixels"), ("cyborgs", "labels"), ("resim", "images")])
def test_pipelines_that_differ_are_not_timed(images, monkeypatch, method, part):
    pipeline = make_pipeline(method, images)
    make = type(pipeline).published

    def mirrored(self, index):
        parts = make(self, index)
        return parts | {part: parts[part].flip(-1)}

    monkeypatch.setattr(type(pipeline), "published", mirrored)
    with pytest.raises(ValueError, match=f"{method}: {part}"):
        data_path.check_alike(pipeline)


def test_photographs_are_resized_to_a_longer_side(photographs, tmp_path):
    images = make_folder(tmp_path, sorted(photographs.iterdir())[:1], longer=60)
    assert Image.open(images.path(0)).size == (60, 48)


def test_photographs_of_that_size_already_stay_as_they_are(photographs, tmp_path):
    source = sorted(photographs.iterdir())[0]
    assert make_folder(tmp_path, [source], longer=120).path(0).read_bytes() == source.read_bytes()


def test_the_command_writes_each_part_of_each_size_and_number_of_workers(photographs, tmp_path):
    options = ["--method", "resim", "--limit", "2", "--repeats", "1", "--workers", "1", "--sweep", "size", "48", "60"]
    assert data_path.main([str(photographs), *options, "--json", str(tmp_path / "a.json")]) == 0
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    parts = {"read", "decode", "draw", "cut views", "all of a worker", "collate", "photometric on cpu"}
    for size in (48, 60):
        found = {row.get("part", row["what"]): row for row in rows if row["size"] == size}
        assert found.keys() == parts | {"published pipeline", "worker", "loader"}
        assert found["worker"]["ratio"] > 0 and found["loader"]["workers"] == 1
