import os

import numpy as np
import pytest
from PIL import Image

from data.derived import is_complete, read_meta
from data.images import read_image
from data.listing import find_images
from data.proposals import proposal_path, read_proposals, selective_search
from tools import make_proposals as tool
from tools.make_proposals import ensure_proposals, main, make_proposals
from utils.errors import StorageError, UserError


@pytest.fixture
def folder(eight_photos):
    return eight_photos


def make(folder, **options):
    return make_proposals(find_images(folder), folder / "proposals", **{"workers": 1, **options})


def path_of(folder, name, type="ss_fast"):
    return proposal_path(folder / "proposals", type, "train", name)


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in (folder / "proposals").glob("**/*.npy")}


def contents(folder):
    return {path.name: path.read_bytes() for path in (folder / "proposals").glob("**/*.npy")}


@pytest.mark.parametrize("workers", [1, 2])
def test_every_image_gets_its_proposals(folder, workers):
    summary = make(folder, workers=workers)
    assert (summary.done, summary.skipped, summary.failures) == (8, 0, [])
    images = find_images(folder)
    for index in range(8):
        found = read_proposals(path_of(folder, images.name(index)))
        assert len(found) > 3 and np.array_equal(found, selective_search(read_image(images.path(index))))
    assert is_complete(path_of(folder, "").parent, images)
    meta = read_meta(folder / "proposals" / "ss_fast" / "train")
    assert meta["parameters"] == {"method": "fast", "max_side": None} and "cv2" in meta["versions"]


def test_shrunk_images_have_a_folder_of_their_own(folder):
    make(folder, max_side=15)
    boxes = read_proposals(path_of(folder, "0.png", "ss_fast_15"))
    assert np.array_equal(boxes, selective_search(read_image(folder / "images/train/0.png"), max_side=15))
    assert not (folder / "proposals" / "ss_fast").exists()


def test_files_that_are_there_are_never_touched(folder):
    make(folder, shard=(0, 2))
    assert not is_complete(path_of(folder, "").parent, find_images(folder))
    # Whatever the order is, it is theirs.
    np.save(path_of(folder, "0.png"), read_proposals(path_of(folder, "0.png"))[::-1])
    before = stamps(folder), contents(folder)
    summary = make(folder)
    assert (summary.done, summary.skipped) == (4, 4)
    assert before[0].items() <= stamps(folder).items() and before[1].items() <= contents(folder).items()


def test_only_what_is_missing_is_handed_to_the_workers(folder, monkeypatch):
    make(folder, shard=(0, 2))
    items, run = [], tool.run_job
    monkeypatch.setattr(tool, "run_job", lambda make, todo, **options: items.extend(todo) or run(make, todo, **options))
    make(folder)
    assert items == [1, 3, 5, 7]


def test_shards_together_make_what_one_process_makes(folder):
    make(folder)
    whole = contents(folder)
    for path in stamps(folder):
        path.unlink()
    (path_of(folder, "").parent / "meta.json").unlink()
    assert [make(folder, shard=(part, 3)).done for part in range(3)] == [3, 3, 2]
    assert is_complete(path_of(folder, "").parent, find_images(folder)) and contents(folder) == whole


def test_an_unreadable_image_is_a_named_failure_without_a_file(folder):
    (folder / "images" / "train" / "3.png").write_bytes(b"text")
    for _ in range(2):
        summary = make(folder)
        [(path, reason)] = summary.failures
        assert path.endswith("3.png") and reason == "no known image format"
    assert not path_of(folder, "3.png").exists() and summary.skipped == 7
    assert is_complete(path_of(folder, "").parent, find_images(folder))


def test_an_image_that_the_search_refuses_stops_no_other(folder):
    Image.new("RGB", (65536, 1)).save(folder / "images" / "train" / "9.png")
    summary = make(folder)
    assert summary.done == 8 and "9.png" in summary.failures[0][0] and "65535" in summary.failures[0][1]
    assert not is_complete(path_of(folder, "").parent, find_images(folder))


def test_a_turned_photo_has_the_boxes_of_the_upright_one(folder):
    exif = Image.Exif()
    exif[0x112] = 6
    Image.new("RGB", (40, 20)).save(folder / "images" / "train" / "turned.jpg", exif=exif)
    make(folder)
    assert read_proposals(path_of(folder, "turned.jpg")).tolist() == [[0, 0, 20, 40]]


def test_repair_makes_exactly_the_damaged_files_again(folder, caplog):
    make(folder)
    before = contents(folder)
    path_of(folder, "1.png").write_bytes(before["1.png.npy"][:-2])
    np.save(path_of(folder, "2.png"), np.full((1, 4), 999, np.uint16))
    path_of(folder, "3.png").unlink()
    untouched = {path: stamp for path, stamp in stamps(folder).items() if path.name[0] not in "12"}
    assert make(folder, repair=True).done == 3
    assert contents(folder) == before and untouched.items() <= stamps(folder).items()
    assert "1.png.npy: no complete .npy file: made again" in caplog.text
    assert "2.png.npy: a box is empty or outside the 30 x 24 pixels" in caplog.text


def test_a_folder_that_cannot_be_written_to_is_named_before_the_first_search(folder, monkeypatch):
    monkeypatch.setattr(tool, "run_job", lambda *arguments, **options: pytest.fail("searched"))
    (folder / "proposals").write_bytes(b"")
    with pytest.raises(UserError, match=r"proposals.*: (Not a directory|File exists): .*--output_dir"):
        make(folder)
    if os.geteuid() != 0:
        (folder / "proposals").unlink()
        (folder / "proposals").mkdir(mode=0o555)
        with pytest.raises(UserError, match=r"Permission denied: .*--output_dir"):
            make(folder)


def test_a_full_disk_is_told_with_the_file(folder, monkeypatch):
    def full(path, boxes):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tool, "write_proposals", full)
    with pytest.raises(StorageError, match=r"0\.png\.npy: No space left on device: make room"):
        make(folder)


def test_a_run_makes_what_it_lacks_and_trusts_the_note(folder, monkeypatch, caplog):
    (folder / "images" / "train" / "3.png").write_bytes(b"text")
    images = find_images(folder)
    ensure_proposals(images, folder / "proposals", max_side=20)
    assert len(list((folder / "proposals" / "ss_fast_20" / "train").glob("*.npy"))) == 7
    assert "3.png: no proposals: no known image format" in caplog.text
    monkeypatch.setattr(tool, "missing_files", lambda *arguments, **options: pytest.fail("looked"))
    ensure_proposals(images, folder / "proposals", max_side=20)


def test_the_command_fails_where_an_image_has_none(folder, capsys):
    options = ["--dataset_dir", str(folder), "--workers", "1", "--max_side", "20"]
    assert main(options) == 0
    assert "ss_fast_20, train: 8 made, 0 there already, 0 failed" in capsys.readouterr().out
    (folder / "images" / "train" / "bad.jpg").write_bytes(b"text")
    path_of(folder, "4.png", "ss_fast_20").write_bytes(b"")
    assert main([*options, "--repair"]) == 3
    assert "ss_fast_20, train: 1 made, 7 there already, 1 failed\n  " in capsys.readouterr().out
    assert main([*options, "--output_dir", str(folder / "other"), "--shard", "1/4"]) == 0
    assert len(list((folder / "other" / "ss_fast_20" / "train").glob("*.npy"))) == 2
