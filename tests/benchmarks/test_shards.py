import json
import os
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks import shards
from benchmarks.storage import OpenedFiles, evict

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what it reads")
SMALL = ["--images", "24", "--shard", "4", "--window", "2", "--readers", "2", "--repeats", "1"]


@pytest.fixture
def pictures(tmp_path):
    for number in range(3):
        path = tmp_path / "D" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((30, 20, 3), number, np.uint8)).save(path)
    return tmp_path / "D"


def test_the_command_measures_three_forms_warm_and_cold_and_leaves_nothing(pictures, tmp_path, capsys):
    (tmp_path / "scratch").mkdir()
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- shards -->\noutdated\n<!-- end -->\nafter\n")
    options = ["--scratch", str(tmp_path / "scratch"), "--json", str(tmp_path / "a.json"), "--write", str(page)]
    assert shards.main([str(pictures), *SMALL, *options]) == 0
    assert not any((tmp_path / "scratch").iterdir())
    listing, *rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert listing["what"] == "listing" and listing["headers_seconds"] > 0
    forms = ["folder", "shards, shuffled", "shards, windows"]
    assert [(row["cache"], row["what"]) for row in rows] == [
        (cache, form) for cache in ("warm", "cold (posix_fadvise)") for form in forms
    ]
    assert [row["opened"] for row in rows] == 2 * [48, 6, 6]
    text = page.read_text()
    assert (
        text.startswith("before\n") and text.endswith("after\n") and text.count("\n| ") == 7 and "outdated" not in text
    )
    assert "cold (posix_fadvise), shards, windows: " in capsys.readouterr().out


def test_forms_that_read_something_else_are_not_timed(pictures, tmp_path):
    folder = shards.lay_out(pictures, tmp_path / "S", count=24)
    forms = shards.make_forms(folder, tmp_path / "S", shard=4, window=2)
    shards.check(forms)
    folder.path(3).write_bytes(b"another")
    with pytest.raises(AssertionError, match="do not hold the same"):
        shards.check(forms)


def test_orders_are_those_of_training(pictures, tmp_path):
    folder = shards.lay_out(pictures, tmp_path / "S", count=24)
    plain, shuffled, windows = shards.make_forms(folder, tmp_path / "S", shard=4, window=2)
    assert plain.order == shuffled.order != windows.order and sorted(windows.order) == list(range(24))
    assert len(set(windows.images.shard_of[windows.order[:8]])) == 2


def test_what_is_evicted_comes_from_the_disk_again(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bytes(1 << 20))
    os.sync()

    def is_in_memory():
        with open(path, "rb") as file:
            try:
                return os.preadv(file.fileno(), [bytearray(9)], 0, os.RWF_NOWAIT) == 9
            except BlockingIOError:
                return False
            except OSError as error:
                pytest.skip(f"this file system does not tell: {error}")

    assert is_in_memory()
    evict([path], everything=False)
    assert not is_in_memory()


def test_opened_files_are_counted_below_the_folder_and_while_it_is_asked(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("a/1", "a/2", "3"):
        (tmp_path / name).write_text("")
    files = OpenedFiles(tmp_path / "a")
    (tmp_path / "a/1").read_text()
    with files.counting():
        for name in ("a/1", "a/2", "a/2", "3"):
            (tmp_path / name).read_text()
    (tmp_path / "a/1").read_text()
    assert files.opened == 3


def test_what_cannot_be_measured_is_refused_at_once(pictures, tmp_path, monkeypatch, caplog):
    page = tmp_path / "page.md"
    page.write_text("no marks")
    assert shards.main([str(pictures), *SMALL, "--write", str(page)]) == 2 and "no lines <!-- shards -->" in caplog.text
    monkeypatch.setattr(shards, "DROP_CACHES", tmp_path / "none")
    assert shards.main([str(pictures), *SMALL, "--drop_caches"]) == 2 and "may not be written to" in caplog.text
