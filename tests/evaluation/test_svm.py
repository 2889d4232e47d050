import json
import os
from dataclasses import replace

import numpy as np
import pytest

from evaluation import linear_svm, svm_classes
from evaluation.linear_svm import SvmSettings, average_precision
from evaluation.svm import main
from evaluation.svm_classes import FewShots, SvmClasses
from tests.evaluation.small_sets import CLASSES, evaluate, make_voc, results, write_config
from utils.errors import DataError, UserError

NAMES = ("cat", "dog", "cow")
VOC = {"classes": list(CLASSES), "train_split": "trainval", "test_split": "test"}


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    monkeypatch.setattr(svm_classes, "available_cores", lambda: 1)


def make_jobs(folder, *, noise=0.0, count=30, **changed):
    """Features that hold the labels, with noise; every seventh label is difficult to tell."""
    rng, labels = np.random.default_rng(0), {}
    for split in ("train", "test"):
        labels[split] = np.where(np.arange(count)[:, None] % 3 == np.arange(3), 1, -1).astype(np.int8)
        features = labels[split] + noise * rng.normal(size=(count, 3))
        labels[split][::7] *= 0
        np.save(folder / f"{split}.npy", features / np.linalg.norm(features, axis=1, keepdims=True))
    settings = SvmSettings(costs=(0.01, 1.0), max_iter=200)
    options = {"settings": settings, "difficult": "left_out", "low_shot": None} | changed
    return SvmClasses(
        folder, folder / "classes", NAMES, train_labels=labels["train"], test_labels=labels["test"], **options
    )


def test_classes_that_features_tell_apart_are_all_found(tmp_path):
    jobs = make_jobs(tmp_path)
    jobs.run()
    metrics, details = jobs.summary()
    assert metrics == {"mAP": 1} and details["classes"].keys() == set(NAMES)


def test_the_map_is_the_mean_of_what_the_chosen_costs_give_on_images_that_can_be_told(tmp_path):
    jobs = make_jobs(tmp_path, noise=2.0, count=60)
    jobs.run()
    metrics, details = jobs.summary()
    train, test = (np.load(tmp_path / f"{split}.npy") for split in ("train", "test"))
    expected = []
    for place, name in enumerate(NAMES):
        known, judged = jobs.train_labels[:, place] != 0, jobs.test_labels[:, place] != 0
        cost, _ = linear_svm.choose_cost(train[known], jobs.train_labels[known, place], jobs.settings)
        scores = jobs.settings.fit(cost, train[known], jobs.train_labels[known, place]).decision_function(test)
        expected.append(average_precision(scores[judged], jobs.test_labels[judged, place] == 1))
        assert details["classes"][name] == {"ap": pytest.approx(expected[-1]), "cost": cost}
    assert metrics["mAP"] == pytest.approx(np.mean(expected)) and metrics["mAP"] < 1


def test_difficult_training_images_are_negative_only_where_that_is_asked_for(tmp_path):
    found = {}
    for difficult in ("negative", "left_out"):
        (tmp_path / difficult).mkdir()
        jobs = make_jobs(tmp_path / difficult, noise=1.0, difficult=difficult)
        fitted = []
        jobs = replace(jobs, settings=Spying(fitted))
        jobs.run()
        found[difficult] = fitted[0]
    assert len(found["left_out"]) == 25 and len(found["negative"]) == 30
    assert (found["negative"][::7] == -1).all() and set(found["left_out"]) == {-1, 1}


class Spying(SvmSettings):
    """Notes the labels that classifiers are fitted to."""

    def __init__(self, fitted):
        super().__init__(costs=(1.0,), max_iter=50)
        object.__setattr__(self, "fitted", fitted)

    def fit(self, cost, features, labels):
        self.fitted.append(labels)
        return super().fit(cost, features, labels)


def test_a_class_that_is_done_is_not_done_again(tmp_path, monkeypatch):
    jobs = make_jobs(tmp_path)
    jobs.results.mkdir()
    (jobs.results / "dog.json").write_text(json.dumps({"ap": 0.25, "cost": 1.0}))
    jobs.run()
    assert jobs.summary()[0]["mAP"] == pytest.approx(2.25 / 3)
    monkeypatch.setattr(SvmClasses, "__call__", None)
    jobs.run()


@pytest.mark.parametrize("low_shot", [None, FewShots((1, 2), 2)])
def test_processes_and_cores_share_the_classes(tmp_path, monkeypatch, low_shot):
    alone = make_jobs(tmp_path, noise=1.0, low_shot=low_shot)
    alone.run()
    monkeypatch.setattr(svm_classes, "available_cores", lambda: 2)
    monkeypatch.setattr(svm_classes, "world_size", lambda: 2)
    shared = replace(alone, results=tmp_path / "shared")
    for rank, done in enumerate((["cat", "cow"], ["dog"])):
        monkeypatch.setattr(svm_classes, "rank", lambda: rank)
        before = set(shared.results.glob("*"))
        shared.run()
        assert sorted(path.stem for path in set(shared.results.glob("*")) - before) == done
    assert shared.summary() == alone.summary()


class Killed(SvmClasses):
    def __call__(self, place):
        os._exit(9)


def test_where_a_process_is_killed_the_setting_that_asks_for_fewer_is_named(tmp_path):
    jobs = make_jobs(tmp_path, processes=3)
    with pytest.raises(UserError, match="one of 3 processes .* svm.processes=1 "):
        replace(Killed(**vars(jobs))).run()


def test_a_number_of_shots_is_judged_at_the_cost_that_is_best_on_average(tmp_path):
    jobs = make_jobs(tmp_path, low_shot=FewShots((1, 2), 2))
    jobs.results.mkdir()
    # (samples, shots, costs) of each class.
    tables = [
        [[[0.1, 0.5], [0.9, 0.2]], [[0.3, 0.7], [0.5, 0.4]]],
        [[[0.3, 0.3], [0.7, 0.4]], [[0.1, 0.1], [0.3, 0.8]]],
    ]
    for name, table in zip(NAMES, [*tables, tables[0]]):
        (jobs.results / f"{name}.json").write_text(json.dumps({"ap": table}))
    metrics, details = jobs.summary()
    # One shot: costs' means are (0.1 + 0.3 + 0.1 + 0.3 + 0.1 + 0.3) / 6 and (0.5 + 0.3 + 0.5 + 0.7 + 0.1 + 0.7) / 6.
    assert metrics["mAP, k=1"] == pytest.approx(2.8 / 6)
    assert metrics["mAP, k=2"] == pytest.approx((0.9 + 0.7 + 0.9 + 0.5 + 0.3 + 0.5) / 6)
    one = details["shots"]["1"]
    assert one["cost"] == 1.0 and (one["min"], one["max"]) == (pytest.approx(1.3 / 3), pytest.approx(1.5 / 3))
    assert one["std"] == pytest.approx(0.1 / 3)


def test_few_shots_are_fitted_to_so_many_images(tmp_path):
    fitted = []
    jobs = replace(make_jobs(tmp_path, low_shot=FewShots((1, 4), 3)), settings=Spying(fitted))
    jobs.run()
    assert [sorted(labels) for labels in fitted] == [[-1] * 2 + [1], [-1] * 8 + [1] * 4] * 3 * 3
    assert jobs.summary()[0].keys() == {"mAP, k=1", "mAP, k=4"}


@pytest.mark.parametrize(
    "spoil, low_shot, message",
    [
        ("test", None, "dog: no test image shows it"),
        ("train", None, "dog: 0 training images show it, fewer than svm.folds: 3"),
        ("train", FewShots((1,), 1), "low_shot.shots: 1 needs 1 training images that show dog; there are 0"),
    ],
)
def test_a_class_that_cannot_be_judged_is_named_before_any_is_fitted(tmp_path, spoil, low_shot, message):
    jobs = make_jobs(tmp_path, low_shot=low_shot)
    getattr(jobs, f"{spoil}_labels")[:, 1] = -1
    with pytest.raises(DataError, match=message):
        jobs.check()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("svm")
    make_voc(folder / "voc")
    write_config(folder / "own.yaml", "svm/demo", folder / "voc", data=VOC, features={"size": 16})
    return folder


def test_pictures_that_their_colour_tells_apart_are_all_found(folder):
    assert evaluate(main, folder / "own.yaml", folder / "whole") == {"mAP": 1}
    entry = results(folder / "whole")
    assert entry["program"] == "svm" and entry["details"]["classes"].keys() == set(CLASSES)
    assert not (folder / "whole" / "work").exists()


def test_few_pictures_of_a_class_are_enough_for_some(folder, tmp_path):
    few = ["--set", "low_shot.shots=[1,3]", "low_shot.samples=2", "svm.costs=[1,10]"]
    metrics = evaluate(main, folder / "own.yaml", tmp_path / "few", *few)
    assert metrics["mAP, k=3"] > 0.9 and metrics["mAP, k=1"] > 1 / 3


def test_other_costs_do_not_find_the_results_of_the_first(folder, tmp_path):
    keep = ["--resume", "auto", "--set", "features.keep=true"]
    for costs in ("[1]", "[1.0e-9]"):
        evaluate(main, folder / "own.yaml", tmp_path / "run", *keep, f"svm.costs={costs}")
        assert {one["cost"] for one in results(tmp_path / "run")["details"]["classes"].values()} == set(
            json.loads(costs)
        )
    (features,) = (tmp_path / "run" / "work").iterdir()
    assert len(list(features.glob("classes-*"))) == 2


def test_another_number_of_processes_goes_on_with_what_was_fitted(folder, tmp_path, monkeypatch):
    start = ["--cfg", str(folder / "own.yaml"), "--set", "features.keep=true"]
    monkeypatch.setattr("engine.place.RUNS", tmp_path)
    assert main(start) == 0
    monkeypatch.setattr(SvmClasses, "__call__", None)
    # A name of its own, or a run that is not found would begin in the same second, and so in the same folder.
    assert main([*start, "svm.processes=2", "checkpoint.time_stamp=another", "--resume", "auto"]) == 0
    (run,) = (tmp_path / "evaluation" / "svm").iterdir()
    assert len(list(run.glob("work/*/classes-*"))) == 1


@pytest.mark.parametrize(
    "change, message",
    [("data.test_split=trainval", "share images"), ("data.train_split=train", "train.txt: no such list")],
)
def test_what_cannot_be_evaluated_is_refused(folder, tmp_path, capsys, change, message):
    assert main(["--cfg", str(folder / "own.yaml"), "--out", str(tmp_path), "--set", change]) == 3
    assert message in capsys.readouterr().err
