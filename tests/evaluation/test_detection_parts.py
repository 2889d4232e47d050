import pytest
import torch
from pycocotools import mask as coco_mask
from torch import nn

from data.detection_views import Collate, ShortSide, TrainViews
from evaluation import detection, training
from evaluation.detection_config import DetectionConfig
from models.backbone import make_trunk
from models.detectors import make_detector
from models.fpn import FPN
from models.heads import MLP
from models.region_heads import Detections
from models.resim import ReSim, Windows
from tests.evaluation.checkpoints.published_states import ours, tiny
from tests.evaluation.small_detection import config
from utils.config import CONFIGS, load_config
from utils.errors import UserError


def test_norms_are_estimated_on_training_images_and_the_detector_left_in_eval_mode(scenes):
    settings = config(scenes, **{"model.norm_steps": 3})
    method = detection.build_detector(settings, classes=10)
    views = TrainViews(
        detection.read_sets(settings).train, sizing=ShortSide((48,), 48), flip_probability=0.5, masks=True, seed=0
    )
    norm = method.backbone.bn1
    norm.running_mean.fill_(1e6)
    method.train()
    detection.settle_norms(method, views, Collate(8), settings, torch.device("cpu"))
    assert not method.training and norm.running_mean.abs().max() < 10 and norm.momentum == 0.1
    before = norm.running_mean.clone()
    detection.settle_norms(method, views, Collate(8), config(scenes), torch.device("cpu"))
    assert torch.equal(norm.running_mean, before)


def test_processes_with_norms_of_their_own_agree_on_the_mean(scenes, monkeypatch):
    method = detection.build_detector(config(scenes), classes=10)
    method.backbone.bn1.running_mean.fill_(1.0)
    # The other process' statistics are larger by 4.
    monkeypatch.setattr(training, "world_size", lambda: 2)
    monkeypatch.setattr(training, "all_reduce_sum", lambda mine: mine + (mine + 4))
    training.share_statistics(method)
    assert method.backbone.bn1.running_mean.unique().tolist() == [3.0]


def test_detections_are_given_in_the_pixels_of_the_file():
    found = Detections(torch.tensor([[10.0, 10, 20, 30]]), torch.ones(1), torch.tensor([2]), torch.ones(1, 4, 4))
    # From 40 high and 60 wide to 80 and 90.
    one = detection.in_image(found, (40, 60), (80, 90))
    assert one.boxes.tolist() == [[15, 20, 30, 60]] and one.labels.tolist() == [2]
    assert one.masks[0]["size"] == [80, 90] and coco_mask.toBbox(one.masks[0]).tolist() == [15, 20, 15, 40]


def named(fpn):
    """Its weights as evaluation.checkpoints.reading.Weights names them."""
    return {
        name.replace(".0.weight", ".weight").replace(".1.", ".norm."): value for name, value in fpn.state_dict().items()
    }


@pytest.mark.parametrize(("norm", "pretrained_norm"), [(False, False), (True, True), (True, False), (False, True)])
def test_a_pretrained_pyramid_is_taken_up_where_it_has_a_place(norm, pretrained_norm):
    channels = {"c2": 2, "c3": 3, "c4": 4, "c5": 5}
    torch.manual_seed(0)
    own = FPN(channels, out_channels=6, outputs=("c2", "c3", "c4", "c5"), norm=norm)
    untouched = {name: value.clone() for name, value in own.state_dict().items()}
    levels = {level: channels[level] for level in ("c3", "c4", "c5")}
    pretrained = FPN(levels, out_channels=6, outputs=("c3", "c4"), norm=pretrained_norm)
    for parameter in pretrained.parameters():
        nn.init.normal_(parameter)
    detection.load_neck(own, named(pretrained), where="a file")
    after, given = named(own), named(pretrained)
    for name, value in after.items():
        expected = given[name] if name in given else named_value(untouched, name)
        assert torch.equal(value, expected), name
    taken = {"lateral.c3.weight", "lateral.c5.weight", "output.c4.weight"}
    assert taken <= after.keys() & given.keys() and "output.c5.weight" not in given


def named_value(state, name):
    return next(
        value for key, value in state.items() if key.replace(".0.weight", ".weight").replace(".1.", ".norm.") == name
    )


def test_a_checkpoint_of_resim_gives_its_trunk_and_its_pyramid(scenes, tmp_path):
    pyramid = FPN({"c3": 16, "c4": 32, "c5": 64}, out_channels=8, outputs=("c3", "c4"), norm=True)
    windows = (Windows("c4", 8, 4, True), Windows("c3", 8, 4, False))
    options = {"windows": windows, "queue_size": 8, "dim": 4, "momentum": lambda progress: 0.5}
    resim = ReSim(tiny(), MLP(64, hidden_dim=4, output_dim=4), pyramid, **options)
    torch.save(ours(resim), tmp_path / "resim.pth")
    changes = {"model.neck": True, "model.weights": str(tmp_path / "resim.pth")}
    method = detection.build_detector(config(scenes, **changes), classes=10)
    assert torch.equal(method.backbone.layer4[0].conv1.weight, resim.backbone.layer4[0].conv1.weight)
    for name, value in resim.neck.state_dict().items():
        assert torch.equal(method.neck.fpn.state_dict()[name], value), name


def test_a_pyramid_that_is_not_there_or_has_other_channels_is_refused(scenes):
    own = FPN({"c4": 4, "c5": 5}, out_channels=6, outputs=("c4",))
    other = FPN({"c4": 4, "c5": 5}, out_channels=8, outputs=("c4",))
    with pytest.raises(UserError, match="a file holds no feature pyramid"):
        detection.load_neck(own, {}, where="a file")
    with pytest.raises(UserError, match=r"\(8, 4, 1, 1\) there and \(6, 4, 1, 1\) here; set model.fpn_channels"):
        detection.load_neck(own, named(other), where="a file")
    with pytest.raises(UserError, match="model.neck: the pyramid is in a checkpoint"):
        detection.build_detector(config(scenes, **{"model.neck": True}), classes=10)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("evaluation/detection/*.yaml")), ids=lambda path: path.stem)
def test_the_configs_here_load_and_fit_their_detectors(path):
    settings, warnings = load_config(path, DetectionConfig, overrides=[])
    with torch.device("meta"):
        trunk = make_trunk(**settings.model.backbone.model_dump())
        method = make_detector(trunk, settings.model, classes=80)
    assert warnings == [] and method.heads.box_predictor.cls_score.out_features == 81
    steps = settings.optimizer
    assert steps.milestones and steps.warmup_steps < steps.milestones[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.anchor_sizes": [[8]]}, "1 lists, but model.detector: fpn has 5 levels"),
        ({"model.detector": "c4", "model.anchor_sizes": [[8]]}, "c4 has neither masks nor a pyramid"),
        ({"data.layout": "voc"}, "model.masks: VOC's layout has boxes alone"),
        ({"data.train": ["train", "val"]}, "COCO's layout takes one split"),
        ({"data.scale": [1.2, 0.8]}, "must rise"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        config("somewhere", **changes)
