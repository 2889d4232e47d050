import copy
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from data.derived import is_complete
from data.images import read_image
from data.label_maps import dense_labels, enlarge, read_label_map
from tests.tools import small_generation
from tests.tools.small_generation import CLUSTERING, COUNT, UNREADABLE, contents, generate, make_images, make_network
from tests.utils.two_ranks import ROOT, run_two_ranks
from tools import cluster_maps, group_maps
from tools.cluster_maps import Clustering, cell_features, cluster_cells, frozen_layers
from utils.errors import UserError

READABLE = [index for index in range(COUNT) if index not in UNREADABLE]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("generation") / "images")


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """A generation made without interruption, and its files."""
    folder = tmp_path_factory.mktemp("whole")
    generate(images, folder, make_network())
    return folder


def maps(images, mask_dir):
    """By number of image."""
    folder = mask_dir / "gen_0003" / "train"
    return {index: read_label_map(folder / f"{images.name(index)}.png") for index in READABLE}


def test_each_map_is_what_its_group_alone_makes_of_it(images, whole):
    assert sorted(contents(whole)) == sorted(
        ["gen_0003/train/meta.json", *(f"gen_0003/train/{images.name(index)}.png" for index in READABLE)]
    )
    layers = frozen_layers(make_network(), "layer2", device=torch.device("cpu"))
    made = maps(images, whole)
    for group, members in {0: [0, 2], 1: [3, 4, 5], 3: [9, 10]}.items():
        photos = [read_image(images.path(index)) for index in members]
        features = [cell_features(layers, torch.from_numpy(photo), device=torch.device("cpu")) for photo in photos]
        expected = cluster_cells(features, clustering=CLUSTERING, generation=3, group=group)
        for index, photo, cells in zip(members, photos, expected):
            assert (made[index] == dense_labels(enlarge(cells, photo.shape[:2]))[0]).all()
    assert len({labels.shape for labels in made.values()}) == 3
    assert max(labels.max() for labels in made.values()) > 1


def test_images_that_cannot_be_read_are_told_of_once_and_lack_nothing(images, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    generate(images, tmp_path, make_network(), workers=2)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert all(str(images.path(index)) in warning for index, warning in zip(UNREADABLE, warnings, strict=True))
    assert is_complete(tmp_path / "gen_0003" / "train", images)
    assert f"{len(READABLE)} label maps" in caplog.messages[-1]


def test_a_generation_that_is_there_is_left_alone_and_no_image_is_read(images, whole, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    for module in (cluster_maps, group_maps):
        monkeypatch.setattr(module, "read_image", None)
    trunk = make_network()
    for may_make in (True, False):
        generate(images, whole, trunk, may_make=may_make)
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


@pytest.fixture
def stop_after(monkeypatch):
    """Stops the work, as Ctrl-C does, when so many maps are written."""

    def stop(count):
        write, paths = group_maps.write_label_map, []

        def write_or_stop(path, labels):
            paths.append(path)
            if len(paths) > count:
                raise KeyboardInterrupt
            write(path, labels)

        monkeypatch.setattr(group_maps, "write_label_map", write_or_stop)

    return stop


@pytest.mark.parametrize("count", [0, 3])
def test_an_interrupted_generation_goes_on_to_the_same_bytes(images, whole, tmp_path, stop_after, monkeypatch, count):
    stop_after(count)
    with pytest.raises(KeyboardInterrupt):
        generate(images, tmp_path, make_network())
    monkeypatch.undo()
    folder = tmp_path / "gen_0003" / "train"
    done = {path: path.stat().st_mtime_ns for path in folder.glob("class0/0[02].png.png")}
    assert len(done) == (2 if count else 0) and not is_complete(folder, images)
    (folder / ".tmp-0123abcd-00.png.png").write_bytes(b"half")
    generate(images, tmp_path, make_network())
    assert contents(tmp_path) == contents(whole)
    assert {path: path.stat().st_mtime_ns for path in done} == done


@pytest.mark.parametrize(
    "changed",
    [{}, {"clustering": Clustering(layer="layer2", images_per_group=3, min_clusters=3, max_clusters=6, seed=1)}],
    ids=["weights", "settings"],
)
@pytest.mark.parametrize("count", [3, COUNT])
def test_maps_of_other_weights_or_settings_are_made_anew(
    images, whole, tmp_path, stop_after, monkeypatch, count, changed
):
    """Those of a whole generation, and of one that was interrupted."""
    stop_after(count)
    try:
        generate(images, tmp_path, make_network())
    except KeyboardInterrupt:
        pass
    monkeypatch.undo()
    other = make_network(seed=0 if changed else 1)
    generate(images, tmp_path, other, **changed)
    generate(images, tmp_path / "fresh", other, **changed)
    fresh = contents(tmp_path / "fresh")
    shutil.rmtree(tmp_path / "fresh")
    assert contents(tmp_path) == fresh and fresh != contents(whole)


def test_maps_without_a_note_of_how_they_were_made_are_made_anew(images, whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "gen_0003" / "train"
    (folder / "meta.json").unlink()
    (folder / "class0" / "00.png.png").write_bytes(b"of other weights")
    generate(images, tmp_path, make_network())
    assert contents(tmp_path) == contents(whole)


def test_what_may_not_be_made_must_be_there_and_of_the_same_settings(images, whole, tmp_path):
    generate(images, whole, make_network(seed=1), may_make=False)
    other = Clustering(**vars(CLUSTERING) | {"max_clusters": 7})
    for mask_dir, changed in ((tmp_path, {}), (whole, {"clustering": other})):
        before = contents(mask_dir)
        with pytest.raises(UserError, match=f"{mask_dir}/gen_0003/train: .*--resume PATH"):
            generate(images, mask_dir, make_network(), may_make=False, **changed)
        assert contents(mask_dir) == before


def test_the_note_says_how_the_maps_were_made(images, whole):
    meta = json.loads((whole / "gen_0003" / "train" / "meta.json").read_text())
    parameters = meta["parameters"]
    assert parameters["generation"] == 3 and parameters["listing"] == images.listing_hash
    assert {key: parameters[key] for key in vars(CLUSTERING)} == vars(CLUSTERING)
    assert len(parameters["weights"]) == 64 and meta["complete_listings"] == {images.listing_hash: COUNT}


def test_the_network_and_the_streams_of_training_are_left_as_they_were(images, tmp_path):
    trunk = make_network()
    trunk(torch.randn(4, 3, 16, 16))["c5"].sum().backward()
    state = copy.deepcopy(trunk.state_dict())
    gradients = [parameter.grad.clone() for parameter in trunk.parameters()]
    stream = torch.get_rng_state()
    generate(images, tmp_path, trunk, workers=1)
    assert torch.equal(torch.get_rng_state(), stream) and all(module.training for module in trunk.modules())
    assert all(torch.equal(value, state[name]) for name, value in trunk.state_dict().items())
    assert all(torch.equal(p.grad, gradient) for p, gradient in zip(trunk.parameters(), gradients))
    assert all(parameter.requires_grad for parameter in trunk.parameters())


def test_more_than_256_clusters_become_a_16_bit_map(images, tmp_path):
    clustering = Clustering(layer="layer1", images_per_group=1, min_clusters=300, max_clusters=300)
    generate(images, tmp_path, make_network(), clustering=clustering)
    labels = maps(images, tmp_path)[0]
    assert labels.dtype == np.uint16 and labels.max() > 255


@pytest.mark.parametrize(
    "part, name, error, remedy",
    [
        (group_maps, "write_label_map", OSError(28, "No space left on device"), "No space left on device: make room"),
        (group_maps, "cluster_cells", torch.OutOfMemoryError("tried"), "of 3 images .*bootstrap.imgs_per_batch"),
    ],
)
def test_a_full_disk_and_a_full_device_are_named_with_the_remedy(
    images, tmp_path, monkeypatch, part, name, error, remedy
):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(part, name, fail)
    with pytest.raises(UserError, match=remedy):
        generate(images, tmp_path, make_network())
    assert not is_complete(tmp_path / "gen_0003" / "train", images)


def test_two_processes_make_the_files_of_one_and_hear_of_each_others_errors(images, whole, tmp_path):
    shutil.copytree(images.root.parent, tmp_path / "images")
    results = run_two_ranks(small_generation.__file__, tmp_path)
    for result in results:
        assert result["shared"] == result["again"] == result["own"] == "made"
        assert "No space left on device" in result["full"] and "own" in result["lost"]
    assert results[0]["full"] == results[1]["full"]
    # Of rank 0's statistics alone.
    for name in ("shared", "own0"):
        assert contents(tmp_path / name) == contents(whole)
    own = contents(tmp_path / "own1")
    assert own == {name: data for name, data in contents(whole).items() if not name.endswith("meta.json")}


@pytest.mark.slow
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGKILL, -9)])
def test_a_process_that_is_stopped_leaves_whole_files_and_goes_on(images, whole, tmp_path, number, code):
    shutil.copytree(images.root.parent, tmp_path / "images")
    process = subprocess.Popen(
        [sys.executable, small_generation.__file__, str(tmp_path), "slowly"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    made, deadline = tmp_path / "made", time.monotonic() + 120
    while len(list(made.rglob("[!.]*.png"))) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(timeout=30) == code
    for path in made.rglob("[!.]*.png"):
        assert path.read_bytes() == (whole / path.relative_to(made)).read_bytes()
    generate(images, made, make_network())
    assert contents(made) == contents(whole)
