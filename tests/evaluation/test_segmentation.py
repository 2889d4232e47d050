import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml

from data.segmentation_views import SegmentationSpec, SegmentationViews, WholeSegmentations, prepare_views
from data.views import collate
from evaluation.confusion import read_scores
from evaluation.segmentation import (
    count_all,
    equal_sizes,
    lists,
    main,
    make_segmenter,
    pixel_loss,
    predict,
    read_images,
)
from evaluation.segmentation_config import SegmentationConfig, Slide
from tests.data.test_segmentation_views import write_voc
from tests.evaluation import segmentation_ranks
from tests.evaluation.segmentation_ranks import Seer
from tests.paths import ROOT
from tests.utils.two_ranks import run_two_ranks
from utils.config import load_config

CPU = torch.device("cpu")
CONFIGS = sorted((ROOT / "configs" / "evaluation" / "segmentation").glob("*.yaml"))
CLASSES = "house fish mushroom balloon leaf starfish tyre block tent crescent".split()


def settings(folder, *, layout="voc", **data):
    """A small config of the scenes in `folder`."""
    own = {"dir": str(folder), "layout": layout, "crop": [32, 32], "train_batch_size": 4, "data_workers": 0} | data
    return {
        "model": {
            "backbone": {"type": "resnet_tiny", "width": 4},
            "output_stride": 4,
            "head": {"channels": 8, "dilation": 2, "concat": True},
            "auxiliary": {"channels": 8, "num_convs": 1, "dilation": 1},
        },
        "data": own if layout == "cityscapes" else {"classes": CLASSES} | own,
        "optimizer": {"base_lr": 0.05, "base_batch": 4, "total_epochs": 2, "schedule": "poly"},
    }


def run(tmp_path, values, *options, out="run"):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(values))
    code = main(["--cfg", str(path), "--out", str(tmp_path / out), *options])
    results = tmp_path / out / "results.json"
    return code, json.loads(results.read_text()) if results.exists() else None


@pytest.fixture
def legible(tmp_path):
    """A config and a test set of pictures of two sizes that Seer can read; their borders are void, of any colour."""
    rng = np.random.default_rng(0)
    pictures = []
    for height, width in ((24, 36), (30, 20), (24, 36)):
        labels = np.kron(rng.integers(0, 4, (height // 6, width // 4)), np.ones((6, 4))).astype(np.uint8)
        image = np.repeat(10 * labels[:, :, None], 3, axis=2)
        labels[0], image[0] = 255, 30
        pictures.append((image, labels))
    write_voc(tmp_path, pictures, split="val")
    config = SegmentationConfig(**settings(tmp_path, classes=["one", "two", "three"], val_batch_size=3))
    return config, read_images(config.data, [config.data.test])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_fits_the_schema(path):
    config, warnings = load_config(path, SegmentationConfig)
    assert warnings == []
    scenes = "voc_demo" in path.stem
    assert len(config.data.class_names) == (11 if scenes else {"voc": 21, "cityscapes": 19}[config.data.layout])


def test_the_loss_is_the_mean_over_pixels_with_or_without_void():
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(2, 3, 4, 5, generator=generator), torch.randint(0, 3, (2, 4, 5), generator=generator)
    labels[0, :2] = 255
    costs = [
        -torch.log_softmax(scores[n, :, y, x], 0)[labels[n, y, x]] for n, y, x in (labels != 255).nonzero().tolist()
    ]
    assert pixel_loss(scores, labels, divide_by_void=False).item() == pytest.approx(sum(costs).item() / 30)
    assert pixel_loss(scores, labels, divide_by_void=True).item() == pytest.approx(sum(costs).item() / 40)


@pytest.mark.parametrize("divide_by_void", [True, False])
def test_labels_of_void_alone_give_zero_loss_and_gradient(divide_by_void):
    scores = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = pixel_loss(scores, torch.full((1, 4, 4), 255), divide_by_void=divide_by_void)
    loss.backward()
    assert loss.item() == 0 and (scores.grad == 0).all()


def test_a_perfect_prediction_scores_one_whatever_the_sizes_and_void(legible):
    config, images = legible
    for batch_size in (1, 3):
        config = config.model_copy(update={"data": config.data.model_copy(update={"val_batch_size": batch_size})})
        counts = count_all(Seer(4), WholeSegmentations(images, size=None), config, CPU)
        scores = read_scores(counts)
        assert scores.mean_iou == scores.mean_recall == scores.accuracy == 1
        assert counts.sum() == 2 * 23 * 36 + 29 * 20


def test_scores_are_judged_at_the_size_of_the_labels(legible):
    config, images = legible
    counts = count_all(Seer(4), WholeSegmentations(images, size=(72, 60)), config, CPU)
    assert counts.sum() == 2 * 23 * 36 + 29 * 20
    assert 0.9 < read_scores(counts).accuracy < 1


def test_judging_drops_nothing_and_leaves_the_network_as_it_is(legible):
    config, images = legible
    segmenter = make_segmenter(config)
    before = {key: value.clone() for key, value in segmenter.state_dict().items()}
    first, again = (count_all(segmenter.fcn.train(), WholeSegmentations(images, size=None), config, CPU) for _ in "ab")
    assert torch.equal(first, again)
    assert all(torch.equal(value, before[key]) for key, value in segmenter.state_dict().items())


def test_images_of_one_size_go_through_the_network_together(legible):
    dataset = WholeSegmentations(legible[1], size=None)
    groups = list(equal_sizes(lists([dataset[index] for index in range(3)])))
    assert [tuple(images.shape) for images, _ in groups] == [(2, 3, 24, 36), (1, 3, 30, 20)]


def test_a_network_learns_a_batch_and_all_of_it_learns(layouts):
    config = SegmentationConfig(**settings(layouts / "voc"))
    segmenter = make_segmenter(config)
    images = read_images(config.data, config.data.train)
    dataset = SegmentationViews(images, spec=SegmentationSpec(crop=(40, 40)), seed=0)
    batch = prepare_views(collate([dataset[0, index] for index in range(6)]))
    optimizer = torch.optim.SGD(segmenter.parameters(), lr=0.05, momentum=0.9)
    totals = []
    for step in range(15):
        output = segmenter(batch, torch.Generator().manual_seed(step))
        assert output.losses.keys() == {"head", "auxiliary"} and 0 <= output.metrics["pixel_accuracy"] <= 1
        totals.append(sum(output.losses.values()))
        optimizer.zero_grad()
        totals[-1].backward()
        optimizer.step()
    assert totals[-1].item() < 0.75 * totals[0].item()
    assert all(parameter.grad is not None for parameter in segmenter.parameters())


def test_the_auxiliary_loss_has_its_weight(layouts):
    values = settings(layouts / "voc")
    losses = []
    for weight in (0.4, 0.2):
        values["model"]["auxiliary"]["weight"] = weight
        config = SegmentationConfig(**values)
        dataset = SegmentationViews(
            read_images(config.data, config.data.train), spec=SegmentationSpec(crop=(32, 32)), seed=0
        )
        batch = prepare_views(collate([dataset[0, index] for index in range(2)]))
        losses.append(make_segmenter(config)(batch, torch.Generator().manual_seed(0)).losses)
    assert losses[0]["head"] == losses[1]["head"]
    torch.testing.assert_close(losses[0]["auxiliary"], 2 * losses[1]["auxiliary"])


def test_windows_are_judged_where_the_config_says_so(layouts):
    config = SegmentationConfig(**settings(layouts / "voc"))
    fcn = make_segmenter(config).fcn.eval()
    images = torch.randint(0, 256, (1, 3, 48, 64), dtype=torch.uint8)
    with torch.no_grad():
        left = predict(fcn, images[..., :48], (48, 48), None)
        slid = predict(fcn, images, (48, 64), Slide(window=(48, 48), step=(48, 16)))
    assert torch.equal(slid[..., :16], left[..., :16])


@pytest.mark.parametrize("layout", ["voc", "cityscapes"])
def test_the_program_trains_judges_and_writes_its_results(layouts, tmp_path, layout):
    code, results = run(tmp_path, settings(layouts / layout, layout=layout))
    assert code == 0
    assert results["program"] == "segmentation" and results["protocol"] == "small"
    assert results["metrics"].keys() == {"mIoU", "mean accuracy", "pixel accuracy"}
    assert 0 < results["metrics"]["mIoU"] < results["metrics"]["pixel accuracy"] <= 1
    assert results["details"]["images"] == 12
    first = {"voc": "background", "cityscapes": "road"}[layout]
    assert results["details"]["iou"][first] > 0


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(layouts, tmp_path):
    values = settings(layouts / "voc")
    _, whole = run(tmp_path, values, out="whole")
    assert run(tmp_path, values, "--max_steps", "5", out="parts")[0] == 0
    code, resumed = run(tmp_path, values, "--resume", "auto", out="parts")
    assert code == 0
    assert resumed["metrics"] == whole["metrics"]
    states = [
        torch.load(max((tmp_path / out / "checkpoints").glob("*.pth")), weights_only=True)["method"]
        for out in ("whole", "parts")
    ]
    assert all(torch.equal(*pair) for pair in zip(states[0].values(), states[1].values()))


def test_too_few_classes_in_the_config_end_the_program_with_the_files_name(layouts, tmp_path, caplog):
    code, results = run(tmp_path, settings(layouts / "voc", classes=CLASSES[:2]))
    assert code == 3 and results is None
    assert "SegmentationClass" in caplog.text and "check data.classes" in caplog.text


def test_a_stride_that_the_backbone_cannot_have_is_a_message(layouts, tmp_path, caplog):
    values = settings(layouts / "voc")
    values["model"]["output_stride"] = 16
    assert run(tmp_path, values)[0] == 2
    assert "model.output_stride: 16, but this backbone can have 1, 2, 4, 8" in caplog.text


def test_two_ranks_count_what_one_counts_and_share_one_loss(legible, tmp_path):
    config, images = legible
    ranks = run_two_ranks(segmentation_ranks.__file__, tmp_path, json.dumps(config.model_dump(mode="json")))
    alone = count_all(Seer(4), WholeSegmentations(images, size=(30, 20)), config, CPU)
    assert all(torch.equal(rank["counts"], alone) for rank in ranks)
    scores, labels = segmentation_ranks.scores_and_labels()
    expected = F.cross_entropy(scores, labels, ignore_index=255)
    torch.testing.assert_close((ranks[0]["loss"] + ranks[1]["loss"]) / 2, expected)
