import pytest
import torch

from models.proposals import Anchors, ProposalCounts, ProposalNetwork


def test_anchors_lie_around_cells_in_the_order_of_the_scores():
    anchors = Anchors([4, 8], [[16], [32]], [0.25, 1.0])([(2, 3), (1, 1)])
    assert anchors.shape == (2 * 3 * 2 + 2, 4)
    # Of the area of 16 x 16, a quarter as high as wide: 8 x 32.
    assert anchors[0].tolist() == [-16, -4, 16, 4] and anchors[1].tolist() == [-8, -8, 8, 8]
    # Second row, third column.
    assert anchors[2 * 5 + 1].tolist() == [8 - 8, 4 - 8, 8 + 8, 4 + 8]
    assert anchors[-1].tolist() == [-16, -16, 16, 16]


def test_sizes_must_be_given_for_every_level_and_equally_many():
    with pytest.raises(ValueError, match="anchor_sizes: 1 lists of sizes, but there are 2 levels"):
        Anchors([4, 8], [[16]], [1])
    with pytest.raises(ValueError, match="equally many"):
        Anchors([4, 8], [[16], [16, 32]], [1])


def network(**changes):
    torch.manual_seed(0)
    counts = {"train": ProposalCounts(20, 8), "test": ProposalCounts(20, 5)} | changes
    return ProposalNetwork(4, Anchors([4, 8], [[8], [16]], [1.0]), **counts)


def features(count=2):
    torch.manual_seed(1)
    return {"c3": torch.randn(count, 4, 8, 8), "c4": torch.randn(count, 4, 4, 4)}


def test_proposals_stay_in_their_image_and_are_as_many_as_asked_for():
    proposing = network()
    sizes = [(32, 32), (20, 24)]
    for training, most in ((True, 8), (False, 5)):
        proposals, losses = proposing.train(training)(features(), sizes)
        assert losses == {} and all(0 < len(one) <= most for one in proposals)
        for one, (height, width) in zip(proposals, sizes):
            assert (one >= 0).all() and (one <= torch.tensor([width, height, width, height])).all()


def test_losses_are_those_of_a_slow_loop():
    proposing, given = network(), features(1)
    boxes = torch.tensor([[2.0, 2, 11, 9]])
    _, losses = proposing(given, [(32, 32)], [{"boxes": boxes}])
    scores, moves = proposing.head(list(given.values()))
    anchors = proposing.anchor_generator([(8, 8), (4, 4)])
    scores = torch.cat([score.flatten() for score in scores])
    moves = torch.cat([move[0].permute(1, 2, 0).reshape(-1, 4) for move in moves])
    overlaps = [_overlap(anchor.tolist(), boxes[0].tolist()) for anchor in anchors]
    objectness = distance = 0.0
    for score, move, anchor, overlap in zip(scores.tolist(), moves.tolist(), anchors.tolist(), overlaps):
        # The best anchor is positive however bad it is; here are fewer than 256 anchors, so that all others are negative.
        positive = overlap == max(overlaps) or overlap >= 0.7
        if positive or overlap < 0.3:
            objectness += float(torch.nn.functional.softplus(torch.tensor(-score if positive else score)))
        if positive:
            wanted = _moves(anchor, boxes[0].tolist())
            distance += sum(abs(one - other) for one, other in zip(move, wanted))
    assert float(losses["loss_objectness"].detach()) == pytest.approx(objectness / 256, rel=1e-4)
    assert float(losses["loss_proposal_boxes"].detach()) == pytest.approx(distance / 256, rel=1e-4)


def test_an_image_without_objects_teaches_that_nothing_is_one():
    proposing = network()
    _, losses = proposing(features(1), [(32, 32)], [{"boxes": torch.zeros(0, 4)}])
    sum(losses.values()).backward()
    assert losses["loss_proposal_boxes"] == 0 and losses["loss_objectness"] > 0
    assert all(torch.isfinite(parameter.grad).all() for parameter in proposing.parameters())


def test_low_precision_ends_at_the_convolutions():
    proposing = network()
    with torch.autocast("cpu", torch.bfloat16):
        proposals, losses = proposing(features(), [(32, 32)] * 2, [{"boxes": torch.tensor([[2.0, 2, 11, 9]])}] * 2)
    assert {one.dtype for one in [*proposals, *losses.values()]} == {torch.float32}


def _overlap(one, other):
    width = max(min(one[2], other[2]) - max(one[0], other[0]), 0)
    height = max(min(one[3], other[3]) - max(one[1], other[1]), 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def _moves(anchor, box):
    size, wanted = [(b[2] - b[0], b[3] - b[1]) for b in (anchor, box)]
    shift = [(box[k] + box[k + 2] - anchor[k] - anchor[k + 2]) / 2 / size[k] for k in (0, 1)]
    return [*shift, *(float(torch.log(torch.tensor(w / s))) for w, s in zip(wanted, size))]
