import numpy as np
import pytest
from PIL import Image

from data.images import read_image
from data.label_maps import is_complete, label_map_path, read_label_map
from data.listing import find_images
from data.superpixels import slic_labels
from tools import make_superpixels as tool
from tools.make_superpixels import main, make_superpixels


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(8):
        path = tmp_path / "images" / "train" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.kron(rng.integers(0, 256, (4, 5, 3)), np.ones((6, 6, 1))).astype(np.uint8)).save(path)
    return tmp_path


def make(folder, **changes):
    options = {"size": 20, "segments": 8, "workers": 1}
    return make_superpixels(find_images(folder), folder / "masks", **{**options, **changes})


def map_path(folder, name):
    return label_map_path(folder / "masks", "slic8_20", "train", name)


@pytest.mark.parametrize("workers", [1, 2])
def test_every_image_gets_the_map_that_online_slic_gives(folder, workers):
    summary = make(folder, workers=workers)
    assert (summary.done, summary.skipped, summary.failures) == (8, 0, [])
    images = find_images(folder)
    for index in range(8):
        expected = slic_labels(read_image(images.path(index)), size=20, segments=8)
        assert np.array_equal(read_label_map(map_path(folder, images.name(index))), expected)
    assert is_complete(map_path(folder, "0.png").parent, images)


def test_a_stopped_job_goes_on_with_what_is_missing(folder):
    make(folder, shard=(0, 2))
    assert not is_complete(map_path(folder, "0.png").parent, find_images(folder))
    stamps = {name: map_path(folder, name).stat().st_mtime_ns for name in ("0.png", "2.png", "4.png", "6.png")}
    summary = make(folder)
    assert (summary.done, summary.skipped) == (4, 4)
    assert {name: map_path(folder, name).stat().st_mtime_ns for name in stamps} == stamps


def test_shards_share_the_work_and_the_last_one_notes_that_it_is_complete(folder):
    folders = [make(folder, shard=(part, 3)).done for part in range(3)]
    assert folders == [3, 3, 2]
    assert is_complete(map_path(folder, "0.png").parent, find_images(folder))


def test_a_complete_note_spares_looking_at_the_maps(folder, monkeypatch):
    make(folder)
    monkeypatch.setattr(tool, "missing_label_maps", lambda *arguments: pytest.fail("looked"))
    assert (make(folder).done, make(folder).skipped) == (0, 8)


def test_more_images_than_noted_are_made(folder):
    make(folder)
    Image.new("RGB", (9, 9)).save(folder / "images" / "train" / "new.png")
    assert make(folder).done == 1


def test_an_unreadable_image_is_listed_and_not_tried_at_every_start(folder):
    (folder / "images" / "train" / "3.png").write_bytes(b"text")
    summary = make(folder)
    assert summary.done == 7
    assert [(path.endswith("3.png"), reason) for path, reason in summary.failures] == [(True, "no known image format")]
    assert make(folder).failures == []


def test_verify_makes_damaged_and_wrong_maps_again(folder, caplog):
    make(folder)
    before = {name: map_path(folder, name).read_bytes() for name in ("1.png", "2.png", "3.png", "4.png")}
    map_path(folder, "1.png").write_bytes(before["1.png"][:40])
    Image.new("L", (3, 3)).save(map_path(folder, "2.png"))
    map_path(folder, "3.png").unlink()
    Image.fromarray(np.eye(20, dtype=np.uint8) * 2).save(map_path(folder, "4.png"))
    assert make(folder).done == 0
    summary = make(folder, verify=True)
    assert (summary.done, summary.skipped) == (4, 4) and "1.png" in caplog.text
    assert {name: map_path(folder, name).read_bytes() for name in before} == before


def test_the_command_makes_maps_and_fails_where_an_image_has_none(folder, capsys):
    command = ["--image_dir", str(folder), "--size", "20", "--segments", "8", "--workers", "1"]
    assert main(command) == 0
    assert "superpixels of 8 images: 8 made, 0 there already, 0 failed" in capsys.readouterr().out
    (folder / "images" / "train" / "bad.jpg").write_bytes(b"text")
    assert main(command) == 3
    assert "bad.jpg: no known image format" in capsys.readouterr().out


def test_the_command_takes_its_shard_from_the_launcher(folder, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert main(["--image_dir", str(folder), "--size", "20", "--workers", "1"]) == 0
    assert "2 made" in capsys.readouterr().out


def test_the_command_names_a_missing_folder(tmp_path, caplog):
    assert main(["--image_dir", str(tmp_path / "nowhere")]) == 3
    assert "nowhere: no such folder" in caplog.text
