import pytest
import torch

from models.backbone import make_trunk
from models.classifier import Classifier


def batch():
    torch.manual_seed(1)
    return {"images": torch.randn(6, 3, 32, 32), "classes": torch.tensor([0, 1, 2, 0, 1, 2])}


def train_once(method):
    method.train()
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.5)
    output = method(batch(), torch.Generator())
    sum(output.losses.values()).backward()
    optimizer.step()
    return output


@pytest.mark.parametrize("standardise", [False, True])
def test_a_frozen_backbone_keeps_its_weights_and_its_statistics(standardise):
    method = Classifier(make_trunk("resnet_tiny", width=4), num_classes=3, frozen=True, standardise=standardise)
    before = {name: value.clone() for name, value in method.backbone.state_dict().items()}
    weight = method.linear.weight.clone()
    train_once(method)
    for name, value in method.backbone.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not torch.equal(method.linear.weight, weight)
    assert method.linear.training and not method.backbone.bn1.training


def test_fine_tuning_moves_the_backbone():
    method = Classifier(make_trunk("resnet_tiny", width=4), num_classes=3, frozen=False)
    before = method.backbone.layer1[0].conv1.weight.clone()
    train_once(method)
    assert not torch.equal(method.backbone.layer1[0].conv1.weight, before)
    assert method.backbone.bn1.training


def test_scores_are_linear_in_the_mean_of_c5():
    method = Classifier(make_trunk("resnet_tiny", width=4), num_classes=3, frozen=True).eval()
    images = batch()["images"]
    features = method.backbone(images)["c5"].mean((2, 3))
    expected = features @ method.linear.weight.T + method.linear.bias
    torch.testing.assert_close(method.classify(images), expected)


def test_the_accuracy_counts_right_answers():
    method = Classifier(make_trunk("resnet_tiny", width=4), num_classes=3, frozen=True)
    with torch.no_grad():
        method.linear.weight.zero_()
        method.linear.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    output = method.eval()(batch(), torch.Generator())
    assert output.metrics["accuracy"] == pytest.approx(1 / 3)
