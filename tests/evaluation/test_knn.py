import math
from collections import defaultdict

import numpy as np
import pytest
import torch

from evaluation import features, frozen, knn
from evaluation.knn import classify, main
from tests.evaluation.small_sets import evaluate, make_imagenet, results, unit_rows, write_config
from utils.errors import DataError

SMALL = {"features": {"size": 16}, "knn": {"counts": [1, 3]}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("knn")
    make_imagenet(folder / "data")
    write_config(folder / "own.yaml", "knn/demo", folder / "data", **SMALL)
    return folder


@pytest.fixture(scope="module")
def metrics(folder):
    return evaluate(main, folder / "own.yaml", folder / "whole")


def parts(rows, *cuts):
    return [part.numpy() for part in torch.tensor_split(rows, cuts)]


def by_definition(query, bank, labels, count, temperature):
    """Classes by their votes, counted one neighbour after the other in float64."""
    similar = sorted(((-float(query.double() @ row.double()), place) for place, row in enumerate(bank)))[:count]
    votes = defaultdict(float)
    for negative, place in similar:
        votes[labels[place]] += math.exp(-negative / temperature)
    return sorted(votes, key=lambda label: (-votes[label], label))


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_classes_are_ranked_as_the_definition_ranks_them(temperature):
    queries, bank = unit_rows(40, 6, seed=0), unit_rows(50, 6, seed=1)
    labels = np.random.default_rng(2).integers(0, 7, 50)
    ranked = classify(queries, parts(bank, 20), labels, num_classes=7, counts=[1, 5, 50], temperature=temperature)
    for count, classes in ranked.items():
        for query, found in zip(queries, classes.tolist()):
            expected = by_definition(query, bank, labels, count, temperature)
            # Behind the classes that have votes, the order is by number.
            assert found[: len(expected)] == expected[:5]


def test_neither_parts_of_the_bank_nor_blocks_of_queries_matter(monkeypatch):
    # Of whole numbers, whose products are exact and often equal.
    queries, bank = torch.randint(-2, 3, (90, 4), generator=torch.Generator().manual_seed(3)).float().split([30, 60])
    labels = np.random.default_rng(5).integers(0, 9, 60)
    options = {"num_classes": 9, "counts": [7], "temperature": 0.07}
    whole = classify(queries, parts(bank), labels, **options)[7]
    monkeypatch.setattr(knn, "_QUERIES", 4)
    assert torch.equal(classify(queries, parts(bank, 3, 31, 32), labels, **options)[7], whole)


def test_the_coldest_votes_are_those_of_the_nearest_neighbour():
    queries, bank = unit_rows(20, 5, seed=6), unit_rows(40, 5, seed=7)
    labels = np.arange(40) % 8
    ranked = classify(queries, parts(bank), labels, num_classes=8, counts=[1, 40], temperature=1e-4)
    assert torch.equal(ranked[40][:, 0], ranked[1][:, 0])
    warm = classify(queries, parts(bank), labels, num_classes=8, counts=[40], temperature=10)
    assert not torch.equal(warm[40][:, 0], ranked[1][:, 0])


def test_a_process_without_test_images_finds_nothing():
    options = {"num_classes": 2, "counts": [3], "temperature": 1}
    ranked = classify(torch.zeros(0, 5), parts(unit_rows(9, 5, seed=8)), np.zeros(9, int), **options)
    assert ranked[3].shape == (0, 2)


def test_pictures_that_their_colour_tells_apart_are_all_classified(folder, metrics):
    assert metrics == {"top-1, k=1": 1, "top-1, k=3": 1}
    entry = results(folder / "whole")
    assert entry["program"] == "knn" and entry["protocol"] == "own"
    assert entry["details"] == {"classes": 3, "train_images": 12, "test_images": 9}
    assert not (folder / "whole" / "work").exists()


def test_labels_that_are_wrong_score_as_such(folder, tmp_path):
    make_imagenet(tmp_path / "data")
    red = tmp_path / "data" / "val" / "red"
    red.rename(tmp_path / "data" / "val" / "none")
    (tmp_path / "data" / "val" / "green").rename(red)
    (tmp_path / "data" / "val" / "none").rename(tmp_path / "data" / "val" / "green")
    write_config(tmp_path / "own.yaml", "knn/demo", tmp_path / "data", **SMALL)
    assert evaluate(main, tmp_path / "own.yaml", tmp_path / "run")["top-1, k=3"] == pytest.approx(1 / 3)


class Stopped(Exception):
    pass


def test_a_stopped_evaluation_goes_on_with_the_features_it_has(folder, metrics, tmp_path, monkeypatch):
    monkeypatch.setattr(frozen, "_IMAGES_A_CHUNK", 5)
    saved, save = [], features.save_array

    def stopping(path, array):
        if len(saved) == 4:
            raise Stopped
        saved.append(path)
        save(path, array)

    monkeypatch.setattr(features, "save_array", stopping)
    with pytest.raises(Stopped):
        main(["--cfg", str(folder / "own.yaml"), "--out", str(tmp_path / "run")])
    times = {path: path.stat().st_mtime_ns for path in saved}
    monkeypatch.setattr(features, "save_array", save)
    again = [str(folder / "own.yaml"), "--out", str(tmp_path / "run"), "--set", "features.keep=true"]
    assert main(["--cfg", *again]) == 2
    assert main(["--cfg", *again, "--resume", "auto"]) == 0
    assert results(tmp_path / "run")["metrics"] == metrics
    kept = sorted((tmp_path / "run" / "work").rglob("*.npy"))
    # 12 pictures to train and 9 to test in chunks of 5 at most.
    assert len(kept) == 3 + 2 and {path: path.stat().st_mtime_ns for path in saved} == times


def test_other_weights_at_the_same_path_get_features_of_their_own(folder, tmp_path):
    options = ["--cfg", str(folder / "own.yaml"), "--out", str(tmp_path / "run"), "--resume", "auto"]
    keep = ["--set", "features.keep=true"]
    assert main([*options, *keep]) == 0 and main([*options, *keep, "seed=1"]) == 0
    assert len(list((tmp_path / "run" / "work").iterdir())) == 2


@pytest.mark.parametrize(
    "change, code, message",
    [
        ("knn.counts=[13]", 2, "knn.counts: 13, but there are 12"),
        ("data.test_split=train", 3, "train and train are the same images"),
        ("data.test_split=test", 3, "no split 'test'"),
        ("features.window=9", 2, "features.window: 9, but c5 has"),
        ("model.weights=nowhere.pth", 2, "nowhere.pth"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(folder, tmp_path, capsys, change, code, message):
    assert main(["--cfg", str(folder / "own.yaml"), "--out", str(tmp_path), "--set", change]) == code
    assert message in capsys.readouterr().err


def test_an_image_that_cannot_be_read_is_named(tmp_path, capsys):
    make_imagenet(tmp_path / "data", train=2, val=1)
    (tmp_path / "data" / "val" / "green" / "0.png").write_bytes(b"no image")
    write_config(tmp_path / "own.yaml", "knn/demo", tmp_path / "data", **SMALL)
    assert main(["--cfg", str(tmp_path / "own.yaml"), "--out", str(tmp_path / "run")]) == 3
    assert "green/0.png: no known image format: a score over the other images" in capsys.readouterr().err


def test_an_error_of_a_process_that_reads_is_told_without_its_traceback(folder, tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        raise DataError("Caught DataError in worker 0.\nTraceback ...\n0.png: gone")

    monkeypatch.setattr(knn, "classify", fail)
    assert main(["--cfg", str(folder / "own.yaml"), "--out", str(tmp_path / "run")]) == 3
    error = capsys.readouterr().err
    assert "0.png: gone" in error and "Traceback" not in error
