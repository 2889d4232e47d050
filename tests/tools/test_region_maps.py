"""Regions of an R2O run, epoch by epoch, as label maps."""

import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import r2o_main
from data.derived import read_meta
from data.label_maps import dense_labels, read_label_map
from data.listing import find_images
from data.sampler import EpochSampler, find_windows
from evaluation.calibration import recalibrate_on
from r2o_config import R2OConfig
from tools.judge_masks import main as judge
from tools.make_demo_data import DemoData, make_demo_data
from tools.make_shards import make_shards
from tools.region_maps import main, make_region_maps, spanning_images
from tools.run_masks import find_run_masks
from tools.visualize_masks import run_sheet
from utils.config import load_config
from utils.files import read_json

# At 48 px, the size of the scenes, maps are the superpixels' own; three steps an epoch, stopped after the seventh.
SMALL = """model.backbone.width=8 model.projection.hidden_dim=8 model.projection.output_dim=4 model.predictor.hidden_dim=8
model.predictor.output_dim=4 data.resize_size=32 data.superpixel_size=48 data.slic_segments=20 data.data_workers=0
data.train_batch_size=8 clustering.images_per_kmeans=8 clustering.scheduler.epochs=[0,3] clustering.scheduler.values=[24,4]
optimizer.total_epochs=3 checkpoint.save_epoch=1 log.num_pictures=0""".split()
TYPES = ["epoch_0000", "epoch_0001", "epoch_0002"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on twenty-four scenes, ended within its third epoch; a damaged scene in val, and one of another size."""
    folder = tmp_path_factory.mktemp("regions")
    make_demo_data(folder / "data", DemoData(num_train=24, num_val=3, size=48, seed=0), workers=1)
    first, second, third = sorted((folder / "data/images/val").iterdir())
    Image.open(first).resize((70, 40)).save(first)
    second.write_bytes(b"damaged")
    third.unlink()
    arguments = ["--cfg", "r2o/demo", "--out", str(folder / "run"), "--max_steps", "7"]
    assert r2o_main.main([*arguments, "--set", f"data.image_dir={folder / 'data'}", *SMALL]) == 0
    make_region_maps(folder / "run")
    return folder / "run"


def read_maps(run, mask_type, split="train"):
    return {path.stem: read_label_map(path) for path in sorted((run / "masks" / mask_type / split).glob("*.png"))}


def test_there_are_maps_of_the_start_and_of_every_epoch_that_was_finished(run):
    assert sorted(path.name for path in (run / "masks").iterdir()) == TYPES
    curriculum = r2o_main.make_curriculum(load_config(run / "config.yaml", R2OConfig)[0].clustering.scheduler)
    for epoch, mask_type in enumerate(TYPES):
        noted = read_meta(run / "masks" / mask_type / "train")["parameters"]
        k = curriculum(r2o_main.Progress(3 * epoch, 9, epoch))
        assert (noted["epoch"], noted["step"], noted["clusters"]) == (epoch, 3 * epoch, k)
        assert len(read_maps(run, mask_type)) == 24


def assert_maps_are_of_the_epochs_batches(run):
    """They are what the run's own method finds in its own loader's batches."""
    config, _ = load_config(run / "config.yaml", R2OConfig)
    parts = r2o_main.build(config, torch.device("cpu"))
    images = parts.loader.dataset.images
    windows = find_windows(images, order=config.data.order, shards=config.data.window_shards)
    sampler = EpochSampler(24, batch_size=8, world_size=1, rank=0, seed=0, windows=windows)
    for epoch, mask_type in enumerate(TYPES):
        # The weights that it begins with are there before any are loaded.
        if epoch:
            checkpoint = run / "checkpoints" / f"checkpoint_{epoch}.pth"
            parts.method.load_state_dict(torch.load(checkpoint, weights_only=True)["method"])
        else:
            # Their BatchNorm statistics are made up: the images' own take their place.
            recalibrate_on(parts.method.target[0], spanning_images(parts.loader.dataset), device=torch.device("cpu"))
        parts.method.eval().region_size = (48, 48)
        k = parts.method.num_clusters(parts.plan.progress(3 * epoch))
        parts.loader.set_epoch(epoch)
        sampler.set_epoch(epoch)
        maps = read_maps(run, mask_type)
        for batch, keys in zip(parts.loader, sampler):
            found = parts.method.find_regions(r2o_main.prepare(batch), k)[0].numpy()
            for (_, index), regions in zip(keys, found):
                assert np.array_equal(dense_labels(regions)[0], maps[images.name(index)])


def test_maps_are_what_the_runs_own_method_finds_in_the_epochs_batches(run):
    assert_maps_are_of_the_epochs_batches(run)


def test_so_they_are_where_the_run_took_shards_by_windows(run, tmp_path):
    config = yaml.safe_load((run / "config.yaml").read_text())
    images = find_images(config["data"]["image_dir"])
    make_shards(images, tmp_path / "S", {}, images_per_shard=6, workers=1)
    config["data"] |= {"image_dir": str(tmp_path / "S"), "order": "windows", "window_shards": 1}
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("masks"))
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    make_region_maps(tmp_path / "run")
    assert_maps_are_of_the_epochs_batches(tmp_path / "run")


def test_maps_have_their_images_size_and_what_cannot_be_read_has_none(run):
    make_region_maps(run, split="val")
    (name, labels), *others = read_maps(run, "epoch_0002", "val").items()
    assert (name, labels.shape, others) == ("000000.jpg", (40, 70), [])
    assert 1 < labels.max() + 1 <= 24


def test_other_weights_make_other_maps(run):
    first, last = (list(read_maps(run, one).values()) for one in (TYPES[0], TYPES[-1]))
    assert not all(map(np.array_equal, first, last))
    # K falls, and with it the regions that an image has.
    assert np.mean([labels.max() for labels in last]) < np.mean([labels.max() for labels in first])


def test_what_is_there_is_not_made_again_and_judging_shows_every_epoch_beside_the_superpixels(run, capsys):
    marked = run / "masks" / "epoch_0001" / "train" / "000003.jpg.png"
    before = marked.stat().st_mtime_ns
    assert main([str(run)]) == 0
    assert marked.stat().st_mtime_ns == before
    assert judge([str(run), "--limit", "9"]) == 0
    quality = read_json(run / "mask_quality.json")
    assert list(quality) == ["slic20_48", *TYPES]
    assert [row["images"] for row in quality.values()] == [9] * 4
    assert (
        run_sheet(run, count=2).shape
        == run_sheet(run, count=2, columns=4).shape
        != run_sheet(run, count=2, columns=3).shape
    )
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()][:3] == TYPES


def test_maps_of_some_images_are_whole_for_those_who_read_them(run, capsys):
    """Last of this run's tests: it takes maps away."""
    assert main([str(run), "--limit", "5"]) == 0
    assert len(read_maps(run, "epoch_0001")) == 5
    found = find_run_masks(run)
    names = [found.images.name(index) for index in range(len(found.images))]
    assert names == sorted(read_maps(run, "epoch_0000")) == [f"{number:06d}.jpg" for number in (0, 5, 11, 17, 23)]
    assert judge([str(run)]) == 0
    assert [row["images"] for row in read_json(run / "mask_quality.json").values()] == [5] * 4
    make_region_maps(run)
    assert len(find_run_masks(run).images) == len(read_maps(run, "epoch_0002")) == 24


def test_a_run_of_another_method_is_refused(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": {}, "model": {}}))
    assert main([str(tmp_path)]) == 2
    assert "no R2O run" in capsys.readouterr().err
