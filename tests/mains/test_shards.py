"""Runs from shards against runs from the folder that they were made of."""

import re
import shutil
from pathlib import Path

import pytest

import cyborgs_main
import detconb_main
import orl_main
import r2o_main
from data.label_maps import label_map_path
from data.listing import find_images
from data.shards import close_shards
from tests.mains import orl_runs, test_cyborgs, test_detconb, test_r2o
from tests.mains.runs import assert_same, assert_two_processes_equal_one, make_pictures, newest, write_own_config
from tools.make_masks import main as make_masks
from tools.make_shards import make_shards

METHODS = {
    "r2o": (r2o_main, test_r2o.CONFIG, "slic16_48"),
    "detconb": (detconb_main, test_detconb.CONFIG, "own"),
}


@pytest.fixture
def folder(tmp_path) -> Path:
    """27 pictures below images/train and their masks, and the same in shards, in S."""
    make_pictures(tmp_path)
    test_detconb.make_masks(tmp_path)
    slic = ["--mask_type", "slic", "--segments", "16", "--size", "48"]
    assert make_masks(["--dataset_dir", str(tmp_path), "--workers", "1", *slic]) == 0
    types = dict.fromkeys(("own", "slic16_48"), tmp_path / "masks")
    make_shards(find_images(tmp_path), tmp_path / "S", types, images_per_shard=5, workers=1)
    return tmp_path


def configure(folder: Path, config: dict, *, shards: bool, **data) -> None:
    write_own_config(folder, config, data=data)
    if shards:
        text = (folder / "own.yaml").read_text()
        (folder / "own.yaml").write_text(text.replace(f"image_dir: {folder}", f"image_dir: {folder / 'S'}"))


def train(folder: Path, main, out: str, *arguments: str) -> int:
    return main.main(["--cfg", str(folder / "own.yaml"), "--out", str(folder / out), *arguments])


@pytest.mark.parametrize("method", METHODS)
def test_a_run_from_shards_is_the_run_from_the_folder_also_when_it_is_resumed(folder, method):
    main, config, _ = METHODS[method]
    configure(folder, config, shards=False)
    assert train(folder, main, "plain") == 0
    configure(folder, config, shards=True, data_workers=2)
    assert train(folder, main, "parts", "--max_steps", "5") == 0
    assert train(folder, main, "parts", "--resume", "auto") == 0
    assert_same(newest(folder / "plain"), newest(folder / "parts"))
    assert not (folder / "S" / "masks").exists()


def test_windows_have_an_order_of_their_own_that_a_resumed_run_keeps(folder):
    main, config, _ = METHODS["detconb"]
    for name, options in (("plain", {}), ("whole", {"order": "windows", "window_shards": 2})):
        configure(folder, config, shards=True, **options)
        assert train(folder, main, name) == 0
    assert train(folder, main, "parts", "--max_steps", "5") == 0
    assert train(folder, main, "parts", "--resume", "auto") == 0
    assert_same(newest(folder / "whole"), newest(folder / "parts"))
    with pytest.raises(AssertionError):
        assert_same(newest(folder / "whole"), newest(folder / "plain"))


def test_a_run_by_windows_that_goes_on_with_shards_packed_otherwise_says_so(folder, capsys):
    main, config, _ = METHODS["detconb"]
    configure(folder, config, shards=True, order="windows", window_shards=2)
    assert (
        train(folder, main, "run", "--max_steps", "2")
        == train(folder, main, "run", "--resume", "auto", "--max_steps", "3")
        == 0
    )
    assert "other shards" not in capsys.readouterr().err
    shutil.rmtree(folder / "S")
    # Another process would have none of the old ones open.
    close_shards()
    make_shards(find_images(folder), folder / "S", {"own": folder / "masks"}, images_per_shard=7, workers=1)
    assert train(folder, main, "run", "--resume", "auto", "--max_steps", "4") == 0
    assert "lie in other shards" in capsys.readouterr().err


def test_windows_without_shards_are_refused_with_the_remedy(folder, capsys):
    main, config, _ = METHODS["detconb"]
    configure(folder, config, shards=False, order="windows")
    assert train(folder, main, "run") == 2
    assert re.search("data.order: windows is an order of shards.*tools.make_shards", capsys.readouterr().err)


def test_superpixels_that_the_shards_lack_are_made_beside_them(folder):
    main, config, _ = METHODS["r2o"]
    configure(folder, config, shards=True, slic_segments=9)
    assert train(folder, main, "run", "--max_steps", "1") == 0
    assert len(list((folder / "S" / "masks" / "slic9_48" / "train").rglob("*.png"))) == 27


def test_masks_are_made_of_shards_beside_them_and_not_in_them(folder, capsys, caplog):
    shards = ["--dataset_dir", str(folder / "S"), "--mask_type", "grid", "--workers", "1"]
    assert make_masks([*shards, "--output_dir", str(folder / "S" / "train")]) == 2
    assert "lies among the images" in caplog.text + capsys.readouterr().err
    assert make_masks(shards) == 0
    images = find_images(folder / "S")
    assert label_map_path(folder / "S" / "masks", "grid3x3", "train", images.name(0)).exists()
    configure(folder, METHODS["detconb"][1], shards=True, mask_type="grid3x3")
    assert train(folder, detconb_main, "run", "--max_steps", "1") == 0
    # Those in the shards are looked through, too.
    verify = ["--verify", "--mask_type", "slic", "--segments", "16", "--size", "48", "--workers", "1"]
    options = ["--dataset_dir", str(folder / "S"), "--output_dir", str(folder / "S" / "train")]
    capsys.readouterr()
    make_masks([*options, *verify])
    assert "27 sound" in capsys.readouterr().out


def test_cyborgs_makes_its_generations_of_shards_in_its_own_folder(folder):
    configure(folder, test_cyborgs.CONFIG, shards=False)
    assert train(folder, cyborgs_main, "plain") == 0
    configure(folder, test_cyborgs.CONFIG, shards=True)
    assert train(folder, cyborgs_main, "run") == 0
    assert_same(newest(folder / "plain"), newest(folder / "run"))
    assert any((folder / "run" / "masks").glob("gen_*/train/**/*.png"))


@pytest.mark.slow
def test_orl_finds_its_boxes_and_pairs_in_shards_as_in_the_folder(folder):
    for name, shards in (("plain", False), ("run", True)):
        configure(folder, orl_runs.CONFIG, shards=shards)
        assert train(folder, orl_main, name) == 0
    assert orl_runs.found(folder / "plain")["pairs.npy"] == orl_runs.found(folder / "run")["pairs.npy"]
    assert_same(newest(folder / "plain" / "stage3"), newest(folder / "run" / "stage3"))
    assert any((folder / "S" / "proposals").rglob("*.npy"))


@pytest.mark.slow
def test_two_processes_on_windows_equal_one(folder):
    data = {"image_dir": str(folder / "S"), "order": "windows", "window_shards": 2}
    config = METHODS["detconb"][1]
    basis = config | {"data": config["data"]}
    del data["image_dir"]
    (folder / "images").rename(folder / "kept")
    (folder / "S" / "train").rename(folder / "train")
    assert_two_processes_equal_one(folder, "detconb", basis, {"windows": {"data": data}})
