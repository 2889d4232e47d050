"""Shards as other programs read them, and what becomes of them when the command is stopped or repeated."""

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
from PIL import Image

from data.label_maps import label_map_path, write_label_map
from data.listing import find_images
from data.shard_index import INDEX
from tests.paths import ROOT
from tools.make_shards import main, make_shards
from utils.errors import DataError

# As webdataset's base_plus_ext splits names.
WEBDATASET = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
ODD = ["a.jpg", "a.png", "a.b.jpg", "a%2Eb.jpg", "a.jpg.jpg", "a%-jpg.jpg", "x.1/y z/\u6c49.v2.JPEG", "x.1/\u00e9.jpg"]


@pytest.fixture
def odd(tmp_path):
    """Images of names that WebDataset would cut."""
    for number, name in enumerate([*ODD, "deep/" * 60 + "n" * 150 + ".jpg"]):
        path = tmp_path / "D" / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = "PNG" if name.endswith("png") else "JPEG"
        Image.fromarray(np.full((8, 9, 3), 20 * number, np.uint8)).save(path, format=kind)
        write_label_map(label_map_path(tmp_path / "D" / "masks", "own", "train", name), np.full((8, 9), 0))
    return tmp_path / "D"


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def arguments(folder, output, *more):
    return ["--dataset_dir", str(folder), "--output_dir", str(output), "--workers", "1", *more]


def test_webdatasets_rule_and_tarfile_find_each_sample_whole(odd, tmp_path):
    images = find_images(odd)
    assert main(arguments(odd, tmp_path / "S", "--mask_type", "own", "--images_per_shard", "4")) == 0
    tars = sorted((tmp_path / "S" / "train").glob("*.tar"))
    assert [path.name for path in tars] == [f"train-{number:06d}.tar" for number in range(3)]
    found = {}
    for path in tars:
        samples = {}
        with tarfile.open(path) as tar:
            for entry in tar:
                key, extension = WEBDATASET.match(entry.name).groups()
                # WebDataset begins another sample with every other key.
                assert key not in samples or key == list(samples)[-1]
                samples.setdefault(key, {})[extension.lower()] = tar.extractfile(entry).read()
        for sample in samples.values():
            image, own, note = sample.values()
            assert list(sample)[0] in ("jpg", "jpeg", "png") and list(sample)[1:] == ["own.png", "json"]
            found[json.loads(note)["relative_path"]] = (image, own)
    assert len(found) == len(images)
    for index in range(len(images)):
        map_path = label_map_path(odd / "masks", "own", "train", images.name(index))
        assert found[images.name(index)] == (images.path(index).read_bytes(), map_path.read_bytes())
    assert find_images(tmp_path / "S").listing_hash == images.listing_hash


def test_names_that_are_keys_stay_as_they_are(eight_photos, tmp_path):
    assert main(arguments(eight_photos, tmp_path / "S")) == 0
    with tarfile.open(tmp_path / "S" / "train" / "train-000000.tar") as tar:
        assert sorted(tar.getnames()) == sorted(f"{n}.{extension}" for n in range(8) for extension in ("png", "json"))


def test_names_that_are_no_text_are_packed_too(eight_photos, tmp_path):
    train = os.fsencode(eight_photos / "images" / "train")
    os.rename(train + b"/0.png", train + b"/caf\xe9.png")
    assert main(arguments(eight_photos, tmp_path / "S")) == 0
    assert find_images(tmp_path / "S").listing_hash == find_images(eight_photos).listing_hash


def test_repeated_it_makes_the_same_bytes_and_on_finished_shards_nothing(odd, tmp_path):
    options = ["--mask_type", "own", "--images_per_shard", "2"]
    for name in ("one", "two"):
        assert main(arguments(odd, tmp_path / name, *options)) == 0
    whole = contents(tmp_path / "one")
    assert contents(tmp_path / "two") == whole and len(whole) == 5 + 2
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "one").rglob("*.tar")}
    assert main(arguments(odd, tmp_path / "one", *options)) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "one").rglob("*.tar")} == times
    # As after a kill: shards are missing, one is half written, and there is no index.
    for lost in ("train-000001.tar", INDEX):
        (tmp_path / "one" / "train" / lost).unlink()
    (tmp_path / "one" / "train" / ".tmp-0123abcd-00-train-000001.tar").write_bytes(b"half")
    assert main(arguments(odd, tmp_path / "one", *options)) == 0
    assert {name: data for name, data in contents(tmp_path / "one").items() if ".tmp" not in str(name)} == whole


def test_parts_together_are_the_whole(odd, tmp_path):
    assert main(arguments(odd, tmp_path / "one", "--images_per_shard", "2")) == 0
    for part in ("1/2", "0/2"):
        assert not (tmp_path / "two" / "train" / INDEX).exists()
        if part == "0/2":
            with pytest.raises(DataError, match="not all of its shards .* on all parts; or delete .*meta.json"):
                find_images(tmp_path / "two")
            assert not (tmp_path / "two" / "train" / INDEX).exists()
        assert main(arguments(odd, tmp_path / "two", "--images_per_shard", "2", "--part", part)) == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_tars_of_a_packing_given_up_count_as_they_are(odd, tmp_path):
    assert main(arguments(odd, tmp_path / "S", "--images_per_shard", "2", "--part", "0/2")) == 0
    (tmp_path / "S" / "train" / "meta.json").unlink()
    assert len(find_images(tmp_path / "S")) == 5


def test_shards_of_shards_with_maps_made_since_are_those_of_the_folder(odd, tmp_path):
    """Masks are made of shards into a folder beside them, and packed by making the shards again."""
    assert main(arguments(odd, tmp_path / "bare")) == 0
    (odd / "masks").rename(tmp_path / "bare" / "masks")
    assert main(arguments(tmp_path / "bare", tmp_path / "one", "--mask_type", "own")) == 0
    assert main(arguments(tmp_path / "one", tmp_path / "two", "--mask_type", "own")) == 0
    (tmp_path / "bare" / "masks").rename(odd / "masks")
    assert main(arguments(odd, tmp_path / "three", "--mask_type", "own")) == 0
    tars = [(tmp_path / name / "train" / "train-000000.tar").read_bytes() for name in ("one", "two", "three")]
    assert tars[0] == tars[1] == tars[2]


def test_megabytes_choose_the_number_of_images(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(30):
        path = tmp_path / "D" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (200, 200, 3), dtype=np.uint8)).save(path)
    assert main(arguments(tmp_path / "D", tmp_path / "S", "--shard_mb", "1")) == 0
    sizes = [path.stat().st_size for path in sorted((tmp_path / "S" / "train").glob("*.tar"))]
    assert len(sizes) > 2 and all(0.8e6 < size < 1.2e6 for size in sizes[:-1])


def test_a_window_is_no_single_class(tmp_path):
    for number in range(60):
        path = tmp_path / "D" / f"class{number // 10}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(path)
    assert main(arguments(tmp_path / "D", tmp_path / "S", "--images_per_shard", "20")) == 0
    images = find_images(tmp_path / "S")
    for shard in range(3):
        assert len({images.class_name(index) for index in np.flatnonzero(images.shard_of == shard)}) >= 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--images_per_shard", "3"], "other images, maps or sizes .asked; .*another --output_dir"),
        (["--mask_type", "own"], "other images, maps or sizes .masks; "),
        (["--seed", "1"], "other images, maps or sizes .seed; "),
        (["--mask_type", "fh"], "9 of 9 images have no label map there, .*make_masks"),
        (["--split", "val"], "no split 'val' there"),
    ],
)
def test_what_does_not_fit_what_is_there_is_refused(odd, tmp_path, caplog, changes, message):
    assert main(arguments(odd, tmp_path / "S")) == 0
    assert main(arguments(odd, tmp_path / "S", *changes)) in (2, 3)
    assert re.search(message, caplog.text)


def test_other_tars_and_the_images_own_folder_are_left_alone(odd, tmp_path, caplog):
    assert main(arguments(odd, odd)) == 2 and "lies where the images lie" in caplog.text
    (tmp_path / "S" / "train").mkdir(parents=True)
    (tmp_path / "S" / "train" / "backup.tar").write_bytes(b"")
    assert main(arguments(odd, tmp_path / "S")) == 2 and "tars that this tool did not make" in caplog.text


def test_a_file_that_goes_away_is_a_failure_that_leaves_no_index(odd, tmp_path):
    images = find_images(odd)
    (odd / "train" / "a.jpg").unlink()
    summary = make_shards(images, tmp_path / "S", {}, images_per_shard=5, workers=1)
    assert [path for path, _ in summary.failures] == [str(odd / "train" / "a.jpg")] and summary.done == 1
    assert not (tmp_path / "S" / "train" / INDEX).exists()


@pytest.mark.slow
def test_killed_twice_it_ends_with_the_bytes_of_one_that_was_not(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(300):
        path = tmp_path / "D" / f"class{number % 3}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(rng.integers(0, 256, (100, 100, 3), dtype=np.uint8)).save(path)

    def start(output):
        command = [sys.executable, "-m", "tools.make_shards", "--dataset_dir", str(tmp_path / "D")]
        command += ["--output_dir", str(output), "--images_per_shard", "2", "--workers", "2"]
        return subprocess.Popen(command, cwd=ROOT, start_new_session=True)

    assert start(tmp_path / "whole").wait(timeout=120) == 0
    for count in (30, 90):
        process, deadline = start(tmp_path / "killed"), time.monotonic() + 60
        while len(list((tmp_path / "killed").glob("train/*.tar"))) < count:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "killed" / "train" / INDEX).exists()
    assert start(tmp_path / "killed").wait(timeout=120) == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
