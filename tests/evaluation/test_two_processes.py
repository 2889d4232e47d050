import shutil

import pytest
import torch
import yaml

from tests.evaluation import evaluate_twice
from tests.evaluation.small_detection import TRAINED, merged
from tests.evaluation.small_sets import CLASSES, make_birds, make_imagenet, make_voc, results, write_config
from tests.mains.runs import newest
from tests.utils.two_ranks import run_two_ranks


def test_two_processes_find_what_one_finds(tmp_path, scenes):
    make_imagenet(tmp_path / "imagenet", train=8, val=3)
    make_voc(tmp_path / "voc")
    make_birds(tmp_path / "birds", count=5)
    features = {"size": 16}
    classifier = {
        "data": {"resize_size": 16, "val_batch_size": 4},
        "optimizer": {"total_epochs": 2, "base_lr": 0.1, "base_batch": 8},
    }
    sections = {
        "classification": ("imagenet", classifier),
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
        demo = "linear_demo" if name == "classification" else "demo"
        write_config(tmp_path / f"{name}.yaml", f"{name}/{demo}", tmp_path / data, **changed)
    detection = merged({"data.dir": str(scenes), "data.val_batch_size": 4, **TRAINED})
    (tmp_path / "detection.yaml").write_text(yaml.safe_dump(detection))
    evaluate_twice.main(tmp_path, "one", "8")
    # A detector's sampled boxes are each process' own: two only judge what one has trained.
    shutil.copytree(tmp_path / "one" / "detection", tmp_path / "two" / "detection")
    codes = run_two_ranks(evaluate_twice.__file__, tmp_path, "two", "4")
    assert codes == [dict.fromkeys(evaluate_twice.PROGRAMS, 0)] * 2
    for name in evaluate_twice.PROGRAMS:
        one, two = (results(tmp_path / out / name) for out in ("one", "two"))
        assert two["metrics"] == pytest.approx(one["metrics"], abs=1e-6), name
        assert name == "detection" or two["details"] == one["details"]
        assert (one["processes"], two["processes"]) == (1, 2)
    one, two = (newest(tmp_path / out / "classification")["method"] for out in ("one", "two"))
    assert one["linear.weight"].abs().max() > 0.02
    torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-5)
