import pytest
import torch
from torch import nn

from models.region_heads import LastStage, MaskBranch, RegionHeads, RegionPool, _cut_masks, make_box_head
from tests.models.small_detectors import small_trunk


def test_a_box_is_cut_out_of_the_coarsest_level_with_enough_cells():
    strides = {"c2": 4, "c3": 8, "c4": 16, "c5": 32}
    features = {level: torch.full((1, 1, 1024 // s, 1024 // s), float(s)) for level, s in strides.items()}
    sides = torch.tensor([20.0, 111, 112, 223.9, 224, 447, 448, 1000])
    boxes = torch.stack([torch.zeros(8), torch.zeros(8), sides, sides], dim=1)
    pooled = RegionPool(strides, size=7)(features, [boxes])
    # FPN's equation 1: floor(4 + log2(side / 224)), from 2 to 5.
    expected = (4 + (sides / 224).log2()).floor().clamp(2, 5)
    assert pooled[:, 0, 3, 3].tolist() == [2.0**level for level in expected]


def test_pooling_reads_each_boxs_own_image_and_place():
    x = torch.arange(32.0).expand(32, 32)
    features = {"c2": torch.stack([x, 100 + x])[:, None]}
    boxes = [torch.tensor([[4.0, 4, 12, 12]]), torch.tensor([[20.0, 0, 28, 8], [0.0, 0, 8, 8]])]
    pooled = RegionPool({"c2": 2}, size=4)(features, boxes)
    assert pooled.shape == (3, 1, 4, 4)
    # Pixel 8 is the border of cells 3 and 4, whose values are those of their centres.
    assert pooled.mean((1, 2, 3)).tolist() == pytest.approx([3.5, 111.5, 101.5])


def test_two_levels_of_one_stride_are_told_apart_by_their_order():
    features = {"c4": torch.zeros(1, 1, 8, 8), "c5": torch.ones(1, 1, 8, 8)}
    pooled = RegionPool({"c4": 8, "c5": 8}, size=2, cells=4)(
        features, [torch.tensor([[0.0, 0, 31, 31], [0, 0, 32, 32]])]
    )
    assert pooled.flatten(1).mean(1).tolist() == [0, 1]


@pytest.mark.parametrize("kind", ["2fc", "4conv1fc"])
def test_box_heads_are_made_of_what_their_names_say(kind):
    head = make_box_head(kind, 6, size=3, width=10, conv_width=4, norm=nn.BatchNorm2d)
    count = {layer: sum(isinstance(module, layer) for module in head.modules()) for layer in (nn.Conv2d, nn.Linear)}
    assert count == ({nn.Conv2d: 0, nn.Linear: 2} if kind == "2fc" else {nn.Conv2d: 4, nn.Linear: 1})
    assert sum(isinstance(module, nn.BatchNorm2d) for module in head.modules()) == count[nn.Conv2d]
    assert head(torch.randn(2, 6, 3, 3)).shape == (2, 10)


def test_the_last_stage_stays_the_trunks():
    trunk = small_trunk()
    head = LastStage(trunk)
    assert all(key.startswith("norm.") for key in head.state_dict())
    pooled = torch.randn(3, trunk.levels["c4"].channels, 6, 6)
    expected = head.norm(trunk.layer4(pooled)).mean((2, 3))
    assert torch.equal(head(pooled), expected)


def heads(*, masks=True, **changes):
    torch.manual_seed(0)
    pool = RegionPool({"c2": 2}, size=3)
    branch = (
        MaskBranch(4, pool=RegionPool({"c2": 2}, size=6), width=4, classes=3, norm=nn.BatchNorm2d) if masks else None
    )
    box_head = make_box_head("2fc", 4, size=3, width=8, conv_width=4, norm=None)
    options = {"sampled": 8, "score_threshold": 0.0, "per_image": 6} | changes
    return RegionHeads(pool, box_head, width=8, classes=3, masks=branch, **options)


def given():
    torch.manual_seed(1)
    return {"c2": torch.randn(2, 4, 16, 16)}, [
        torch.tensor([[1.0, 2, 20, 18], [5, 5, 9, 9]]),
        torch.tensor([[0.0, 0, 31, 31]]),
    ]


def target(boxes, labels):
    masks = torch.zeros(len(boxes), 32, 32, dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes):
        mask[int(y0) : int(y1), int(x0) : int(x1)] = 1
    return {"boxes": torch.tensor(boxes).view(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64), "masks": masks}


def test_losses_are_those_of_a_slow_loop():
    network, (features, proposals) = heads(sampled=64), given()
    targets = [target([[2.0, 2, 20, 20]], [3]), target([], [])]
    losses = network.losses(features, proposals, targets)
    # The true box is a proposal too; all of them are looked at, being few.
    boxes = [torch.cat([proposals[0], targets[0]["boxes"]]), proposals[1]]
    labels = [3, 0, 3, 0]
    pooled = network.box_roi_pool(features, boxes)
    scores, moves = network.box_predictor(network.box_head(pooled))
    cost = [-float(score.log_softmax(0)[label]) for score, label in zip(scores.detach(), labels)]
    assert float(losses["loss_classes"].detach()) == pytest.approx(sum(cost) / 4, rel=1e-4)
    distance = 0.0
    for row in (0, 2):
        (wanted,) = network.box_coder.encode([targets[0]["boxes"]], [boxes[0][row : row + 1]])
        distance += float((moves[row].detach().view(-1, 4)[3] - wanted[0]).abs().sum())
    assert float(losses["loss_boxes"].detach()) == pytest.approx(distance / 4, rel=1e-4)


def test_mask_loss_is_small_where_the_right_class_has_the_right_mask():
    network, (features, _) = heads(), given()
    targets = [target([[2.0, 2, 20, 20]], [3]), target([], [])]
    proposals = [targets[0]["boxes"], torch.zeros(0, 4)]
    with torch.no_grad():
        network.masks.predictor.mask_fcn_logits.weight.zero_()
        for label, bias, low, high in ((3, 9.0, 0.0, 0.01), (2, 9.0, 0.69, 0.7)):
            network.masks.predictor.mask_fcn_logits.bias.zero_()[label] = bias
            assert low < float(network.losses(features, proposals, targets)["loss_masks"]) < high


def test_a_mask_is_cut_to_the_box_of_its_proposal():
    masks = torch.zeros(2, 32, 32, dtype=torch.uint8)
    masks[1, :, :16] = 1
    cut = _cut_masks(masks, torch.tensor([1, 0]), torch.tensor([[8.0, 0, 24, 32], [8.0, 0, 24, 32]]), size=8)
    assert cut[0, :, :4].all() and not cut[0, :, 4:].any() and not cut[1].any()


def test_nothing_to_find_gives_no_box_and_no_mask_loss_and_every_parameter_a_gradient():
    network, (features, proposals) = heads(), given()
    losses = network.losses(features, proposals, [target([], []), target([], [])])
    sum(losses.values()).backward()
    assert losses["loss_boxes"] == losses["loss_masks"] == 0 and losses["loss_classes"] > 0
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())


def test_detections_are_in_their_image_best_first_and_as_many_as_asked_for():
    network, (features, proposals) = heads().eval(), given()
    with torch.no_grad():
        found = network.detect(features, proposals, [(32, 32), (20, 32)])
    for one, height in zip(found, (32, 20)):
        assert 0 < len(one.scores) <= 6 and (one.scores.diff() <= 0).all()
        assert one.boxes.min() >= 0 and one.boxes[:, 3].max() <= height
        assert set(one.labels.tolist()) <= {0, 1, 2} and one.masks.shape == (len(one.scores), 12, 12)


def test_a_score_below_the_threshold_is_not_detected():
    network, (features, proposals) = heads(score_threshold=0.999).eval(), given()
    with torch.no_grad():
        found = network.detect(features, proposals, [(32, 32), (32, 32)])
    assert [len(one.scores) for one in found] == [0, 0] and found[0].masks.shape == (0, 12, 12)
