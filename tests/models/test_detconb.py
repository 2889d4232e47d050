import pytest
import torch

from models.backbone import make_trunk
from models.detconb import DetCon
from models.fpn import FPN
from models.heads import MLP
from models.views import by_view, fold_views, unfold_views
from utils.method import Progress


def make_model(*, variant: str = "b", neck: bool = False, **keywords) -> DetCon:
    torch.manual_seed(0)
    trunk = make_trunk("resnet_tiny", width=4)
    channels = {name: trunk.levels[name].channels for name in ("c4", "c5")}
    return DetCon(
        trunk,
        MLP(8 if neck else 32, hidden_dim=16, output_dim=8),
        MLP(8, hidden_dim=16, output_dim=8) if variant == "b" else None,
        neck=FPN(channels, out_channels=8, outputs=("c4",)) if neck else None,
        level="c4" if neck else "c5",
        pool_size=8 if neck else 4,
        momentum=lambda progress: 0.9,
        **keywords,
    ).train()


def make_batch(*, images: int = 6, regions: int = 5, labels: int = 7) -> dict:
    generator = torch.Generator().manual_seed(1)
    cells = torch.randint(labels, (images, 2, 4, 4), generator=generator, dtype=torch.uint8)
    return {
        "images": torch.randn(images, 2, 3, 32, 32, generator=generator),
        "labels": cells.repeat_interleave(8, 2).repeat_interleave(8, 3),
        "num_labels": labels,
        "uniforms": torch.rand(images, 2, 2, regions, generator=generator),
    }


def run(model: DetCon, batch: dict):
    model.before_step(Progress(0, 10, 0))
    return model(batch, torch.Generator())


@pytest.mark.parametrize("options", [{}, {"variant": "s"}, {"neck": True}, {"joint_views": False}])
def test_every_parameter_that_is_not_the_targets_gets_a_gradient(options):
    model = make_model(**options)
    run(model, make_batch()).losses["loss"].backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith("target"), name


def test_regions_are_drawn_among_those_that_the_views_grid_shows():
    model, batch = make_model(), make_batch()
    cells = model.find_cells(batch)
    assert torch.equal(cells.unflatten(1, (4, 4)), fold_views(batch["labels"])[:, ::8, ::8].long())
    ids, target_ids = model.choose_regions(cells, batch["uniforms"])
    assert ids is target_ids
    assert all(set(drawn) <= set(shown) for drawn, shown in zip(ids.tolist(), cells.tolist()))


def test_the_releases_target_draws_its_own_regions():
    model, batch = make_model(shared_regions=False), make_batch()
    ids, target_ids = model.choose_regions(model.find_cells(batch), batch["uniforms"])
    assert not torch.equal(ids, target_ids)


@pytest.mark.parametrize("variant", ["b", "s"])
def test_views_without_a_common_region_give_zero_loss_and_gradient(variant):
    model, batch = make_model(variant=variant), make_batch(labels=2)
    batch["labels"][:, 0], batch["labels"][:, 1] = 0, 1
    output = run(model, batch)
    output.losses["loss"].backward()
    assert output.losses["loss"].item() == 0 and output.metrics["matched_regions"].item() == 0
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if "target" not in name}
    assert all(gradient is not None and not gradient.any() for gradient in gradients.values())


def test_numbers_of_labels_change_nothing():
    batch = make_batch()
    shifted = batch | {"labels": batch["labels"].int() * 3 + 1000, "num_labels": 1022}
    assert run(make_model(), batch).losses["loss"] == run(make_model(), shifted).losses["loss"]


@pytest.mark.parametrize("variant", ["b", "s"])
def test_a_few_steps_on_one_batch_tell_its_regions_apart(variant):
    model, batch = make_model(variant=variant), make_batch()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(15):
        loss = run(model, batch).losses["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_detcon_s_learns_on_both_sides_of_the_comparison():
    """With the keys detached, the gradient is another one."""
    batch = make_batch()
    gradients = []
    for detach in (False, True):
        model = make_model(variant="s")
        if detach:
            compare = model._compare
            model._compare = lambda x, targets, *ids, compare=compare: compare(x, targets.detach(), *ids)
        run(model, batch).losses["loss"].backward()
        gradients.append(model.backbone.conv1.weight.grad)
    assert not torch.allclose(*gradients, rtol=1e-3)


def test_low_precision_reaches_the_networks_but_not_the_loss():
    model, batch = make_model(), make_batch()
    model.before_step(Progress(0, 10, 0))
    full = make_model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(batch, torch.Generator()).losses["loss"]
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(run(full, batch).losses["loss"].item(), rel=0.05)


def test_views_are_folded_and_unfolded():
    x = torch.arange(24).view(3, 2, 4)
    assert fold_views(x).tolist() == torch.cat([x[:, 0], x[:, 1]]).tolist()
    assert torch.equal(unfold_views(fold_views(x)), x)
    sums = by_view(lambda view: view.sum(0, keepdim=True).expand_as(view), fold_views(x), joint=False)
    assert torch.equal(unfold_views(sums)[0], x.sum(0))
