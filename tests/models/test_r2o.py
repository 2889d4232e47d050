import pytest
import torch

from models.backbone import make_trunk
from models.heads import MLP
from models.r2o import R2O
from utils.method import Progress

BATCH, SIDE = 3, 32


def make_model(**keywords) -> R2O:
    torch.manual_seed(0)
    trunk = make_trunk("resnet_tiny", width=8)
    keywords = {"momentum": lambda progress: 0.9, "num_clusters": lambda progress: 4, "region_level": "c4"} | keywords
    model = R2O(trunk, MLP(32, hidden_dim=16, output_dim=8), MLP(8, hidden_dim=16, output_dim=8), **keywords)
    model.before_step(Progress(0, 10, 0))
    return model


def make_batch(**fields) -> dict:
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(BATCH, 2, 2, 2, generator=generator).sort(2).values
    boxes = torch.stack(
        [corners[..., 0, 0] / 2, corners[..., 0, 1] / 2, 0.5 + corners[..., 1, 0] / 2, 0.5 + corners[..., 1, 1] / 2], -1
    )
    batch = {
        "images": torch.randn(BATCH, 2, 3, SIDE, SIDE, generator=generator),
        "spanning": torch.randn(BATCH, 3, SIDE, SIDE, generator=generator),
        "superpixels": torch.arange(SIDE * SIDE)
        .view(SIDE, SIDE)
        .div(8 * SIDE, rounding_mode="floor")
        .expand(BATCH, -1, -1)
        * 2
        + (torch.arange(SIDE) >= SIDE // 2),
        "num_superpixels": 8,
        "boxes": boxes,
        "flips": torch.tensor([[True, False], [False, False], [False, True]]),
        "seed": torch.arange(BATCH),
    }
    return batch | fields


def test_forward_changes_no_parameter_and_gives_gradients_to_the_online_network_alone():
    model = make_model()
    before = {name: value.clone() for name, value in model.named_parameters()}
    model(make_batch(), torch.Generator()).losses["loss"].backward()
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    with_gradient = {name.partition(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {"backbone", "projector", "predictor"}


def test_no_region_in_both_views_gives_zero_loss_and_gradients_for_all():
    """The release raises a TypeError; DDP would wait forever for parameters without gradient."""
    model = make_model(region_level="c5")
    model.projector, model.predictor = MLP(64, hidden_dim=16, output_dim=8), MLP(8, hidden_dim=16, output_dim=8)
    model.target[1] = MLP(64, hidden_dim=16, output_dim=8)
    superpixels = (torch.arange(SIDE) >= SIDE // 2).long().expand(BATCH, SIDE, SIDE)
    apart = torch.tensor([[[0.0, 0.0, 0.4, 1.0], [0.6, 0.0, 1.0, 1.0]]]).expand(BATCH, 2, 4)
    model.clusters = None
    output = model(make_batch(superpixels=superpixels, num_superpixels=2, boxes=apart), torch.Generator())
    output.losses["loss"].backward()
    assert output.losses["loss"].item() == 0
    assert output.metrics["shared_regions"] == 0
    trained = [*model.backbone.parameters(), *model.projector.parameters(), *model.predictor.parameters()]
    assert all(p.grad is not None and not p.grad.any() for p in trained)


def test_a_batch_of_one_image_works():
    """In the release, a squeeze takes the batch's axis along."""
    batch = {key: value[:1] if isinstance(value, torch.Tensor) else value for key, value in make_batch().items()}
    output = make_model()(batch, torch.Generator())
    assert torch.isfinite(output.losses["loss"])


@pytest.mark.parametrize("clusters", [4, None])
def test_relabelling_superpixels_changes_nothing(clusters):
    model = make_model()
    model.clusters = clusters
    batch = make_batch()
    before = model(batch, torch.Generator()).losses["loss"]
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    if clusters is not None:
        # The start of K-means draws by position, so only whole-image regions are free of it.
        model.clusters = 1
        before = model(batch, torch.Generator()).losses["loss"]
    after = model(batch | {"superpixels": order[batch["superpixels"]]}, torch.Generator()).losses["loss"]
    assert torch.allclose(before, after, atol=1e-5)


def test_more_clusters_than_superpixels_of_the_batch_works():
    model = make_model()
    model.clusters = 127
    output = model(make_batch(), torch.Generator())
    assert torch.isfinite(output.losses["loss"])
    assert output.metrics["regions_per_image"] == 8


def test_regions_do_not_depend_on_the_views():
    model = make_model()
    batch = make_batch()
    regions, _ = model.find_regions(batch, 4)
    again, _ = model.find_regions(make_batch(images=batch["images"].flip(0), boxes=batch["boxes"].flip(0)), 4)
    assert torch.equal(regions, again)
    assert regions.shape == (BATCH, 56, 56)


def test_a_view_compared_with_itself_has_zero_loss_once_the_predictor_is_the_identity():
    model = make_model()
    model.predictor = torch.nn.Identity()
    batch = make_batch()
    same = {key: batch[key][:, :1].expand_as(batch[key]) for key in ("images", "boxes", "flips")}
    assert model(batch | same, torch.Generator()).losses["loss"] < 1e-8
    assert model(batch, torch.Generator()).losses["loss"] > 1e-3


def test_views_may_be_normalised_apart():
    joint, apart = make_model(), make_model(joint_views=False)
    batch = make_batch()
    assert joint(batch, torch.Generator()).losses["loss"] != apart(batch, torch.Generator()).losses["loss"]
    model = make_model(joint_views=False)
    model(batch, torch.Generator())
    assert model.backbone.bn1.num_batches_tracked == 2


def test_the_target_moves_before_a_step_and_not_in_forward():
    model = make_model()
    with torch.no_grad():
        model.backbone.conv1.weight.add_(1.0)
    before = model.target[0].conv1.weight.clone()
    model(make_batch(), torch.Generator())
    assert torch.equal(model.target[0].conv1.weight, before)
    model.before_step(Progress(1, 10, 0))
    assert torch.allclose(model.target[0].conv1.weight, before + 0.1, atol=1e-6)
