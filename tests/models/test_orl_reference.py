"""BYOL's parts and ORL against the published model: one forward pass with its gradients, and the target's update."""

import numpy as np
import pytest
import torch
from torch import nn

from engine.schedules import ema_momentum
from models.byol import BYOL
from models.heads import MLP
from models.orl import BRANCHES, ORL
from tests.models.published import assert_close, assert_gradients_close, assert_target_follows, load_reference
from utils.method import Progress

# Their names to ours.
_LAYERS = {"fc0": "0", "bn0": "1", "fc1": "3"}
_HEADS = {"global_head": "global", "local_intra_head": "intra", "local_inter_head": "inter"}
LOSSES = {"global": "loss_global", "intra": "loss_local_intra", "inter": "loss_local_inter"}


class TinyTrunk(nn.Module):
    """The backbone of the reference file."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, stride=4, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 24, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(24)

    def forward(self, images):
        return {"c5": self.bn2(self.conv2(self.bn1(self.conv1(images)).relu())).relu()}


def named_ours(reference: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    found = {}
    for key, value in reference.items():
        if key.startswith(prefix):
            owner, part, *rest = key.removeprefix(prefix).split(".")
            if owner.endswith("_head"):
                module, layers = f"predictors.{_HEADS[owner]}", rest
            else:
                module = {"online_net": ("backbone", "projector"), "target_net": ("target.0", "target.1")}[owner][
                    int(part)
                ]
                layers = rest
            layers[0] = _LAYERS.get(layers[0], layers[0])
            found[".".join([module, *layers])] = value
    return found


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    return load_reference("orl_forward_tiny.npz")


def predictor() -> MLP:
    return MLP(12, hidden_dim=32, output_dim=12, output_bias=False)


def make_model(reference: dict) -> ORL:
    model = ORL(
        TinyTrunk(),
        MLP(24, hidden_dim=32, output_dim=12, output_bias=False),
        {branch: predictor() for branch in BRANCHES},
        weights=dict(zip(BRANCHES, reference["loss_weights"].tolist())),
        momentum=lambda progress: float(reference["momentum"]),
    )
    model.load_state_dict(named_ours(reference, "sd_before/"))
    return model.train()


def make_batch(reference: dict) -> dict:
    return {"images": reference["img"], "patches": torch.cat([reference["ipatch"], reference["kpatch"]], dim=1)}


def test_the_three_losses_match(reference):
    losses = make_model(reference)(make_batch(reference), torch.Generator()).losses
    for branch, name in LOSSES.items():
        assert losses[f"loss_{branch}"].item() == pytest.approx(float(reference[name]), rel=1e-5)
    assert sum(losses.values()).item() == pytest.approx(float(reference["loss_total"]), rel=1e-5)


def test_gradients_match(reference):
    model = make_model(reference)
    sum(model(make_batch(reference), torch.Generator()).losses.values()).backward()
    assert_gradients_close(model, named_ours(reference, "grad/"))


def test_statistics_are_moved_six_times_and_the_target_after_the_step(reference):
    model = make_model(reference)
    model.before_step(Progress(0, 10, 0))
    model(make_batch(reference), torch.Generator())
    model.after_step(Progress(0, 10, 0))
    theirs = named_ours(reference, "sd_after_forward_and_ema/")
    assert_target_follows(model, theirs)
    ours = model.state_dict()
    for name, value in theirs.items():
        assert_close(ours[name].float(), value.float(), 1e-4)
    assert ours["backbone.bn1.num_batches_tracked"] == 6


def test_byol_is_the_global_branch_alone(reference):
    orl = make_model(reference)
    byol = BYOL(orl.backbone, orl.projector, orl.predictors["global"], momentum=orl.momentum)
    byol.target = orl.target
    loss = byol({"images": reference["img"]}, torch.Generator()).losses["loss"]
    weight = float(reference["loss_weights"][0])
    assert weight * loss.item() == pytest.approx(float(reference["loss_global"]), rel=1e-5)


def test_a_predictor_and_its_half_of_the_loss_match():
    head = load_reference("orl_byol_head.npz")
    ours = predictor()
    state = {key.removeprefix("before/predictor."): value for key, value in head.items() if key.startswith("before/")}
    ours.load_state_dict({".".join([_LAYERS[key.split(".")[0]], key.split(".")[1]]): v for key, v in state.items()})
    prediction = ours(head["input"])
    assert_close(prediction, head["pred"], 1e-5)
    cosine = torch.nn.functional.cosine_similarity(prediction, head["target"]).mean()
    assert 2 - 2 * cosine.item() == pytest.approx(float(head["loss"]), rel=1e-5)


@pytest.mark.parametrize("total, base", [(40, 0.99), (25, 0.996)])
def test_momentum_of_each_iteration_is_the_releases(total, base):
    theirs = load_reference("orl_byol_head.npz")[f"momentum_max{total}_base{base}"].numpy()
    ours = [ema_momentum(step, total, base) for step in range(total)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)
