import pytest
import torch
import torch.nn.functional as F
from torch import nn

from engine.checkpoint import export_backbone, load_checkpoint, save_state
from models.backbone import make_trunk
from models.byol import BYOL
from models.detconb import DetCon
from models.encoder import Encoder, encoder_state, make_encoder
from models.fpn import FPN
from models.heads import MLP
from models.r2o import R2O
from models.resim import ReSim

TINY = {"type": "resnet_tiny", "width": 4, "blocks": [1, 1, 1, 1], "strides": [1, 1, 2, 2, 2], "pretrained": False}
OTHER = TINY | {"width": 8}
DIM = 32  # of C5
IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def trained_trunk():
    """A trunk with statistics of its own."""
    torch.manual_seed(0)
    trunk = make_trunk(**TINY)
    trunk(IMAGES)
    return trunk


def expected(trunk, projector=None):
    """Unit rows, in eval mode."""
    rows = trunk.eval()(IMAGES)["c5"].mean((2, 3))
    return F.normalize(rows if projector is None else projector.eval()(rows), dim=1)


def checkpoint(method, tmp_path):
    """A method's state on disk and back, as a run of it leaves it."""
    config = {"model": {"backbone": TINY | {"pretrained": "of/the/past.pth"}, "base_momentum": 0.99}}
    save_state({"method": method.state_dict(), "config": config, "step": 3, "optimizer": {}}, tmp_path / "run.pth")
    return load_checkpoint(tmp_path / "run.pth")


def byol(trunk, projector, predictor):
    return BYOL(trunk, projector, predictor, momentum=lambda progress: 1.0)


def r2o(trunk, projector, predictor):
    return R2O(trunk, projector, predictor, momentum=lambda progress: 1.0, num_clusters=lambda progress: 4)


def detcon_s(trunk, projector, predictor):
    return DetCon(trunk, projector, None, momentum=lambda progress: 1.0)


@pytest.mark.parametrize("make", [byol, r2o, detcon_s])
@pytest.mark.parametrize("output_bias", [True, False])
def test_the_trunk_and_projector_of_a_method_come_back(tmp_path, make, output_bias):
    trunk, projector = trained_trunk(), MLP(DIM, hidden_dim=7, output_dim=5, output_bias=output_bias)
    projector(torch.randn(9, DIM))
    method = make(trunk, projector, MLP(5, hidden_dim=6, output_dim=5))
    with torch.no_grad():
        for parameter in () if method.target is None else method.target.parameters():
            parameter.fill_(3)
    encoder = make_encoder(checkpoint(method, tmp_path), settings=OTHER)
    assert torch.equal(encoder(IMAGES, project=True), expected(trunk, projector))
    assert torch.equal(encoder(IMAGES, project=False), expected(trunk))
    assert (encoder.dim(project=True), encoder.dim(project=False)) == (5, DIM)


def test_a_head_without_norm_beside_an_fpn_comes_back(tmp_path):
    trunk, head = trained_trunk(), MLP(DIM, hidden_dim=7, output_dim=5, norm=False)
    neck = FPN({"c4": 16, "c5": DIM}, out_channels=DIM, outputs=("c4",))
    method = ReSim(trunk, head, neck, queue_size=8, dim=5, momentum=lambda progress: 1.0)
    encoder = make_encoder(checkpoint(method, tmp_path), settings=OTHER)
    assert torch.equal(encoder(IMAGES, project=True), expected(trunk, head))


@pytest.mark.parametrize("channels", [24, DIM])
def test_a_projector_that_stands_on_an_fpn_is_left_aside_whatever_its_channels(tmp_path, channels):
    trunk, projector = trained_trunk(), MLP(channels, hidden_dim=7, output_dim=5)
    neck = FPN({"c4": 16, "c5": DIM}, out_channels=channels, outputs=("c4",))
    predictor = MLP(5, hidden_dim=6, output_dim=5)
    method = DetCon(trunk, projector, predictor, neck=neck, level="c4", momentum=lambda progress: 1.0)
    encoder = make_encoder(checkpoint(method, tmp_path), settings=OTHER)
    assert encoder.projector is None and encoder.dim(project=True) == DIM
    assert torch.equal(encoder(IMAGES, project=True), expected(trunk))


def test_a_projector_that_stands_on_c4_is_left_aside(tmp_path):
    method = r2o(trained_trunk(), MLP(16, hidden_dim=7, output_dim=5), MLP(5, hidden_dim=6, output_dim=5))
    assert make_encoder(checkpoint(method, tmp_path), settings=OTHER).projector is None


def test_an_exported_backbone_is_a_trunk_of_the_given_settings(tmp_path):
    trunk = trained_trunk()
    export_backbone(trunk, tmp_path / "backbone.pth")
    state = load_checkpoint(tmp_path / "backbone.pth")
    encoder = make_encoder(state | {"fc.weight": torch.zeros(10, DIM)}, settings=TINY | {"pretrained": True})
    assert encoder.projector is None
    assert torch.equal(encoder(IMAGES, project=True), expected(trunk))


def test_what_a_stage_keeps_for_the_next_is_all_that_is_needed(tmp_path):
    trunk, projector = trained_trunk(), MLP(DIM, hidden_dim=7, output_dim=5)
    save_state(encoder_state(trunk, projector, settings=TINY), tmp_path / "encoder.pth")
    encoder = make_encoder(load_checkpoint(tmp_path / "encoder.pth"), settings=OTHER)
    assert torch.equal(encoder(IMAGES, project=True), expected(trunk, projector))


@pytest.mark.parametrize(
    "state", [{}, {"state_dict": {"conv1.weight": torch.zeros(4, 3, 3, 3)}}, make_trunk(**OTHER).state_dict()]
)
def test_weights_that_do_not_fit_are_refused_by_the_name_of_the_trunk(state):
    with pytest.raises(ValueError, match="do not fit a resnet_tiny"):
        make_encoder(state, settings=TINY)


def test_a_checkpoint_of_which_the_trunk_lacks_a_weight_is_refused(tmp_path):
    state = checkpoint(byol(trained_trunk(), nn.Identity(), nn.Identity()), tmp_path)
    del state["method"]["backbone.bn1.running_mean"]
    with pytest.raises(ValueError, match="bn1.running_mean"):
        make_encoder(state, settings=TINY)


def test_rows_have_length_one_in_float32_and_no_gradient():
    encoder = Encoder(trained_trunk().bfloat16(), MLP(DIM, hidden_dim=7, output_dim=5).bfloat16())
    for project in (False, True):
        rows = encoder(IMAGES.bfloat16(), project=project)
        assert rows.dtype == torch.float32 and not rows.requires_grad
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_an_image_has_the_features_that_it_has_beside_any_other():
    encoder = Encoder(trained_trunk(), MLP(DIM, hidden_dim=7, output_dim=5))
    together = encoder(IMAGES, project=True)
    for image, row in zip(IMAGES, together):
        torch.testing.assert_close(encoder(image[None], project=True)[0], row)
