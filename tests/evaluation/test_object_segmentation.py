import json

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation import object_segmentation
from evaluation.object_segmentation import cluster_images, main, score_objects
from tests.evaluation.small_sets import evaluate, make_birds, results, write_config

BIRDS = {"data": {"layout": "cub", "split": "all"}, "clusters": {"size": 32, "level": "c3", "counts": [2, 3]}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("objects")
    make_birds(folder / "birds")
    write_config(folder / "own.yaml", "object_segmentation/demo", folder / "birds", **BIRDS)
    return folder


@pytest.fixture(scope="module")
def metrics(folder):
    return evaluate(main, folder / "own.yaml", folder / "whole")


@pytest.mark.parametrize("background", [True, False])
def test_an_object_scores_the_largest_overlap_with_any_cluster(background):
    rng = np.random.default_rng(0)
    truth, maps = rng.integers(0, 4, (12, 9)), [rng.integers(0, 5, (12, 9)) for _ in range(2)]
    scores = score_objects(maps, truth, background=background)
    objects = [number for number in range(4) if number or not background]
    assert scores.shape == (len(objects), 2)
    for row, number in zip(scores, objects):
        for score, clusters in zip(row, maps):
            own = truth == number
            overlaps = [(own & (clusters == k)).sum() / (own | (clusters == k)).sum() for k in range(5)]
            assert score == pytest.approx(max(overlaps))


def test_clusters_that_are_the_objects_score_one_whatever_their_numbers():
    cells = np.array([[7, 7, 2], [7, 7, 2]])
    truth = np.kron(np.array([[0, 0, 1], [0, 0, 1]]), np.ones((1, 1), int))
    assert score_objects([cells], truth, background=True).tolist() == [[1.0]]


def test_without_an_object_there_is_no_score():
    assert score_objects([np.zeros((2, 2), int)] * 3, np.zeros((8, 8), int), background=True).shape == (0, 3)
    assert score_objects([np.zeros((2, 2), int)], np.ones((8, 8), int), background=True).tolist() == [[1.0]]


def directions(count, side, *, seed):
    """Features that point in one of two directions each, at any length, and which of them."""
    rng = np.random.default_rng(seed)
    which = rng.integers(0, 2, (count, side, side))
    basis = np.array([[1.0, 0.2, 0], [0, 0.2, 1.0]])
    features = basis[which] * rng.uniform(0.1, 9, (count, side, side, 1))
    return torch.from_numpy(features).float().permute(0, 3, 1, 2), which


@pytest.mark.parametrize("pairwise", [0, 1024])
def test_cells_are_clustered_by_the_direction_of_their_features(pairwise, monkeypatch):
    monkeypatch.setattr(object_segmentation, "_PAIRWISE", pairwise)
    features, which = directions(5, 6, seed=0)
    maps = cluster_images(features, range(5), count=2, max_iter=25, seed=0)
    for clusters, truth in zip(maps, which):
        assert (clusters == truth).all() or (clusters == 1 - truth).all()


def test_an_images_clusters_do_not_depend_on_its_batch():
    features = torch.randn(6, 5, 7, 7, generator=torch.Generator().manual_seed(0))
    together = cluster_images(features, range(6), count=4, max_iter=25, seed=0)
    for number in range(6):
        alone = cluster_images(features[number : number + 1], [number], count=4, max_iter=25, seed=0)
        assert (alone[0] == together[number]).all()
    assert (cluster_images(features, range(6), count=4, max_iter=25, seed=1) != together).any()


def test_birds_of_a_pure_colour_are_found(folder, metrics):
    assert metrics.keys() == {"best IoU, K=2", "best IoU, K=3"} and metrics["best IoU, K=2"] > 0.6
    assert results(folder / "whole")["details"] == {"objects": 6, "images": 6}
    assert not (folder / "whole" / "work").exists()


def test_chunks_and_batches_change_no_score(folder, metrics, tmp_path, monkeypatch):
    monkeypatch.setattr(object_segmentation, "_IMAGES_A_CHUNK", 4)
    found = evaluate(main, folder / "own.yaml", tmp_path / "run", "--set", "data.val_batch_size=3")
    assert found == pytest.approx(metrics, abs=1e-3)


class Stopped(Exception):
    pass


def test_a_stopped_evaluation_goes_on_with_the_chunks_it_has(folder, metrics, tmp_path, monkeypatch):
    monkeypatch.setattr(object_segmentation, "_IMAGES_A_CHUNK", 4)
    options = ["--cfg", str(folder / "own.yaml"), "--out", str(tmp_path / "run")]
    save, written = object_segmentation.save_array, []

    def stopping(path, array):
        if written:
            raise Stopped
        save(path, array)
        written.append(path)

    monkeypatch.setattr(object_segmentation, "save_array", stopping)
    with pytest.raises(Stopped):
        main(options)
    # A score that no image has, to see that it is taken.
    np.save(written[0], np.full((4, 2), 7.0))
    monkeypatch.setattr(object_segmentation, "save_array", save)
    assert main([*options, "--resume", "auto"]) == 0
    assert 4 < results(tmp_path / "run")["metrics"]["best IoU, K=2"] < 5


def make_scenes(root, *, truth_width=40):
    """COCO's layout with an image that shows two objects and one that shows none."""
    (root / "images" / "val").mkdir(parents=True)
    (root / "annotations").mkdir()
    pixels = np.full((30, 40, 3), 128, np.uint8)
    Image.fromarray(pixels).save(root / "images" / "val" / "0.png")
    pixels[5:15, 5:15], pixels[15:28, 20:38] = (255, 0, 0), (0, 0, 255)
    Image.fromarray(pixels).save(root / "images" / "val" / "1.png")
    boxes = [[5, 5, 10, 10], [20, 15, 18, 13]]
    outlines = [[x, y, x + w, y, x + w, y + h, x, y + h] for x, y, w, h in boxes]
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": truth_width, "height": 30} for n in range(2)],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0,
             "segmentation": [outline]}
            for n, (box, outline) in enumerate(zip(boxes, outlines), start=1)
        ],
    }  # fmt: skip
    (root / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return root


def test_every_object_of_a_scene_counts_and_an_image_may_have_none(tmp_path):
    make_scenes(tmp_path / "scenes")
    config = write_config(
        tmp_path / "own.yaml", "object_segmentation/demo", tmp_path / "scenes", clusters=BIRDS["clusters"]
    )
    metrics = evaluate(main, config, tmp_path / "run")
    assert results(tmp_path / "run")["details"] == {"objects": 2, "images": 2}
    assert metrics["best IoU, K=3"] > metrics["best IoU, K=2"]


def test_a_truth_of_another_size_is_refused(tmp_path, capsys):
    make_scenes(tmp_path / "scenes", truth_width=41)
    config = write_config(
        tmp_path / "own.yaml", "object_segmentation/demo", tmp_path / "scenes", clusters=BIRDS["clusters"]
    )
    assert main(["--cfg", str(config), "--out", str(tmp_path / "run")]) == 3
    assert "40 x 30 pixels, but its truth has 41 x 30" in capsys.readouterr().err


def test_images_without_any_object_are_refused(tmp_path, capsys):
    root = make_scenes(tmp_path / "scenes")
    path = root / "annotations" / "instances_val.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    config = write_config(tmp_path / "own.yaml", "object_segmentation/demo", root, clusters=BIRDS["clusters"])
    assert main(["--cfg", str(config), "--out", str(tmp_path / "run")]) == 3
    assert "no object in any of 2 images" in capsys.readouterr().err
