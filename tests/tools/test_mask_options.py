import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from data.derived import read_meta
from data.label_maps import label_map_path, read_label_map
from tools.make_masks import main


@pytest.fixture
def folder(eight_photos):
    return eight_photos


def map_path(folder, name, mask_type):
    return label_map_path(folder / "masks", mask_type, "train", name)


def command(folder, *options):
    return main(["--dataset_dir", str(folder), "--workers", "1", *options])


def test_the_command_makes_maps_and_fails_where_an_image_has_none(folder, capsys):
    options = "--mask_type", "fh", "--scales", "50", "100", "--min_sizes", "10"
    assert command(folder, *options) == 0
    assert "fh_s50_m10, fh_s100_m10, train: 8 made, 0 there already, 0 failed" in capsys.readouterr().out
    (folder / "images" / "train" / "bad.jpg").write_bytes(b"text")
    for _ in range(2):
        assert command(folder, *options) == 3
        assert "bad.jpg: no known image format" in capsys.readouterr().out
    assert command(folder, *options, "--verify") == 3
    assert "fh_s100_m10, train: 8 sound, 1 not\n  " in capsys.readouterr().out


def test_the_command_takes_several_splits_and_looks_for_all_before_it_starts(folder, capsys, caplog):
    assert command(folder, "--mask_type", "grid2x3", "--split", "train", "val") == 3
    assert "no split 'val'" in caplog.text and not (folder / "masks").exists()
    (folder / "images" / "val").mkdir()
    Image.new("RGB", (9, 9)).save(folder / "images" / "val" / "a.jpg")
    output = folder / "other"
    assert command(folder, "--mask_type", "grid2x3", "--split", "train", "val", "--output_dir", str(output)) == 0
    assert "grid2x3, val: 1 made" in capsys.readouterr().out
    assert (output / "grid2x3" / "val" / "a.jpg.png").exists()


def test_the_command_copies_human_segmentations_and_names_the_missing(folder, capsys):
    for number in range(7):
        path = folder / "human" / "train" / f"{number}_1.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (24, 30) if number else (30, 24)
        Image.fromarray(np.eye(*shape, dtype=np.uint8) * 9).save(path)
    options = ["--mask_type", "ground", "--ground_dir", str(folder / "human"), "--name", "human"]
    assert command(folder, *options, "--ground_name", "{split}/{stem}_1.png") == 3
    output = capsys.readouterr().out
    assert "6 made, 0 there already, 2 failed" in output and "7_1.png: No such file" in output
    assert "0.png: the labels are 24 x 30 pixels where 30 x 24 are needed" in output
    assert np.array_equal(read_label_map(map_path(folder, "1.png", "human")), np.eye(24, 30))


def test_the_command_converts_published_pickles_and_goes_on(folder, capsys):
    pickles = folder / "published" / "train_tf"
    pickles.mkdir(parents=True)
    for number in range(8):
        mask = torch.full((24, 30), number, dtype=torch.int16)
        mask[0, 0] = 300
        (pickles / f"train_{number}_fh.pkl").write_bytes(pickle.dumps(mask, protocol=pickle.HIGHEST_PROTOCOL))
    (pickles / "train_5_fh.pkl").unlink()
    listed = folder / "published" / "train_tf_img_to_fh.pkl"
    listed.write_bytes(pickle.dumps(tuple(f"/far/train_tf/train_{number}_fh.pkl" for number in range(8))))
    assert command(folder, "--mask_type", "fh", "--import_pickles", str(listed)) == 3
    assert "train_5_fh.pkl: not in" in capsys.readouterr().out
    assert command(folder, "--mask_type", "fh", "--import_pickles", str(pickles)) == 3
    assert "0 made, 7 there already, 1 failed" in capsys.readouterr().out
    assert read_label_map(map_path(folder, "2.png", "fh"))[0, :2].tolist() == [1, 0]
    # With nothing to compute, nothing computed is noted.
    note = folder / "masks" / "fh" / "train"
    (folder / "subset.txt").write_text("0.png\n1.png\n")
    assert command(folder, "--mask_type", "fh", "--subset", str(folder / "subset.txt")) == 0
    assert read_meta(note)["parameters"].keys() == {"imported"}
    # What was not published may be computed, and the note still says where the rest is from.
    assert command(folder, "--mask_type", "fh") == 0
    assert "1 made, 7 there already" in capsys.readouterr().out
    assert {"imported", "scale"} <= read_meta(note)["parameters"].keys()
    # The rest of the import may follow too.
    capsys.readouterr()
    assert command(folder, "--mask_type", "fh", "--import_pickles", str(pickles)) == 0
    assert {"imported", "scale"} <= read_meta(note)["parameters"].keys()


def test_the_command_writes_no_maps_among_the_images(folder, caplog, capsys):
    train = folder / "images" / "train"
    for place in (train, train / "maps", train / "masks"):
        assert command(folder, "--mask_type", "grid", "--output_dir", str(place)) == 2
        assert "lies among the images" in caplog.text
        caplog.clear()
    flat = train.rename(folder / "flat")
    assert command(flat, "--mask_type", "grid", "--output_dir", str(flat / "maps")) == 2
    for _ in range(2):
        assert command(flat, "--mask_type", "grid") == 0
    assert "0 made, 8 there already" in capsys.readouterr().out


def test_an_image_outside_the_subset_makes_a_pickles_name_ambiguous_too(folder, capsys):
    (folder / "0_fh.pkl").write_bytes(b"")
    (folder / "subset.txt").write_text("0.png\n")
    Image.new("RGB", (3, 3)).save(folder / "images" / "train" / "0.jpg")
    options = ["--mask_type", "fh", "--import_pickles", str(folder), "--subset", str(folder / "subset.txt")]
    assert command(folder, *options) == 3
    assert "0 made, 0 there already, 1 failed" in (output := capsys.readouterr().out) and "ambiguous" in output


@pytest.mark.parametrize(
    "options, message",
    [
        ("--mask_type fh --segments 9", "--segments does nothing with --mask_type fh"),
        ("--mask_type fh_s5_m5 --scales 9", "--scales does nothing"),
        ("--mask_type ground", "needs --ground_dir"),
        ("--mask_type coco", "needs --annotations"),
        ("--mask_type slic --import_pickles x", "--import_pickles goes with"),
        ("--mask_type fh --verify --repair", "not allowed with"),
    ],
)
def test_the_command_refuses_options_that_mean_nothing(folder, options, message, capsys):
    with pytest.raises(SystemExit) as caught:
        command(folder, *options.split())
    assert caught.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, message",
    [
        ("--mask_type nonsense", "nonsense: not a type"),
        ("--mask_type fh --scales 1 2 --min_sizes 1 2 3", "--scales: 2 values where 1 or 3"),
        ("--mask_type fh --scales 5 5", "two of the same type"),
    ],
)
def test_the_command_names_wrong_values(folder, options, message, caplog):
    assert command(folder, *options.split()) == 2
    assert message in caplog.text


def test_segments_by_fh_are_the_default(folder, capsys):
    assert command(folder) == 0
    assert "fh, train: 8 made" in capsys.readouterr().out


@pytest.mark.parametrize("workers", ["0", "-2"])
def test_the_command_wants_at_least_one_worker(folder, workers, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--dataset_dir", str(folder), "--mask_type", "grid", "--workers", workers])
    assert caught.value.code == 2 and f"--workers: {workers}: must be at least 1" in capsys.readouterr().err


def test_the_command_takes_its_shard_from_the_launcher(folder, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert command(folder, "--mask_type", "grid") == 0
    assert "2 made" in capsys.readouterr().out
