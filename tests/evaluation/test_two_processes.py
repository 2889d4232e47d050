import pytest

from tests.evaluation import evaluate_twice
from tests.evaluation.small_sets import CLASSES, make_birds, make_imagenet, make_voc, results, write_config
from tests.utils.two_ranks import run_two_ranks


def test_two_processes_find_what_one_finds(tmp_path):
    make_imagenet(tmp_path / "imagenet", train=3, val=2)
    make_voc(tmp_path / "voc")
    make_birds(tmp_path / "birds", count=5)
    features = {"size": 16}
    sections = {
        "knn": ("imagenet", {"features": features, "knn": {"counts": [2, 9]}}),
        "svm": (
            "voc",
            {"features": features, "data": {"classes": list(CLASSES), "train_split": "trainval", "test_split": "test"}},
        ),
        "object_segmentation": (
            "birds",
            {"data": {"layout": "cub", "split": "all"}, "clusters": {"size": 16, "counts": [2]}},
        ),
    }
    for name, (data, changed) in sections.items():
        write_config(tmp_path / f"{name}.yaml", name, tmp_path / data, **changed)
    evaluate_twice.main(tmp_path, "one")
    codes = run_two_ranks(evaluate_twice.__file__, tmp_path, "two")
    assert codes == [dict.fromkeys(evaluate_twice.PROGRAMS, 0)] * 2
    for name in evaluate_twice.PROGRAMS:
        one, two = (results(tmp_path / out / name) for out in ("one", "two"))
        assert two["metrics"] == pytest.approx(one["metrics"]) and two["details"] == one["details"]
        assert (one["processes"], two["processes"]) == (1, 2)
