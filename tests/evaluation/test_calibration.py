import pytest
import torch
from torch import nn

from data.photometric import normalise
from evaluation import calibration
from evaluation.calibration import recalibrate_norm, recalibrate_on, recalibrate_on_dataset
from models.backbone import make_trunk
from utils.errors import UserError

CPU = torch.device("cpu")


def test_statistics_are_the_mean_over_batches_of_what_each_has():
    norm = nn.BatchNorm2d(3, momentum=0.3)
    with torch.no_grad():
        norm.weight.fill_(5)
    norm(torch.randn(4, 3, 2, 2))
    batches = [torch.randn(4, 3, 2, 2) + 7 for _ in range(3)]
    recalibrate_norm(norm, batches)
    torch.testing.assert_close(norm.running_mean, torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0))
    variances = [b.transpose(0, 1).flatten(1).var(1) for b in batches]
    torch.testing.assert_close(norm.running_var, torch.stack(variances).mean(0))
    assert norm.momentum == 0.3 and not norm.training and (norm.weight == 5).all()


def test_layers_behind_others_see_what_those_give_with_the_batchs_own_statistics():
    network = nn.Sequential(nn.BatchNorm2d(1), nn.BatchNorm2d(1))
    recalibrate_norm(network, [torch.randn(64, 1, 4, 4) * 9 + 50])
    torch.testing.assert_close(network[1].running_mean, torch.zeros(1), atol=1e-5, rtol=0)
    torch.testing.assert_close(network[1].running_var, torch.ones(1), atol=1e-2, rtol=0)


def test_no_batch_is_left_with_one_image(monkeypatch):
    monkeypatch.setattr(calibration, "_BATCH", 4)
    sizes, network = [], nn.BatchNorm2d(3)
    network.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    recalibrate_on(network, torch.zeros(9, 3, 1, 1, dtype=torch.uint8), device=CPU)
    assert sizes == [3, 3, 3]


def test_a_dataset_is_sampled_evenly_and_what_is_learned_stays(monkeypatch):
    monkeypatch.setattr(calibration, "_IMAGES", 5)
    items = [torch.full((1, 3, 8, 8), number, dtype=torch.uint8) for number in range(21)]
    trunk = make_trunk("resnet_tiny", width=4)
    before = {name: value.clone() for name, value in trunk.named_parameters()}
    recalibrate_on_dataset(trunk, items, workers=0, device=CPU)
    seen = trunk.conv1(normalise(torch.cat(items[::5]) / 255))
    torch.testing.assert_close(trunk.bn1.running_mean, seen.mean((0, 2, 3)))
    assert all(torch.equal(value, before[name]) for name, value in trunk.named_parameters())
    assert not trunk.training


def test_one_image_is_too_few():
    with pytest.raises(UserError, match="recalibrate_norm"):
        recalibrate_on_dataset(make_trunk("resnet_tiny", width=4), [torch.zeros(1, 3, 8, 8)], workers=0, device=CPU)
