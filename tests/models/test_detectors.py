import pytest
import torch

from tests.models.small_detectors import KINDS, small_batch, small_detector


def losses(detector, seed=0, **batch):
    return detector(small_batch() | batch, torch.Generator().manual_seed(seed)).losses


@pytest.mark.parametrize("kind", KINDS)
def test_every_detector_trains(kind):
    detector = small_detector(kind)
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.1)
    first = None
    for _ in range(6):
        optimizer.zero_grad()
        total = sum(losses(detector).values())
        first = float(total.detach()) if first is None else first
        total.backward()
        assert all(parameter.grad is not None for parameter in detector.parameters())
        optimizer.step()
    assert float(total.detach()) < 0.9 * first


@pytest.mark.parametrize("kind", KINDS)
def test_the_losses_of_a_kind_always_have_the_same_names(kind):
    detector = small_detector(kind)
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "counts": [0, 0]}
    none["masks"] = torch.zeros(0, 48, 48, dtype=torch.uint8)
    names = {"loss_objectness", "loss_proposal_boxes", "loss_classes", "loss_boxes"} | (
        {"loss_masks"} if KINDS[kind]["masks"] else set()
    )
    assert losses(detector).keys() == losses(detector, **none).keys() == names
    sum(losses(detector, **none).values()).backward()
    assert all(parameter.grad is not None for parameter in detector.parameters())


def test_what_is_drawn_derives_from_the_generator_and_leaves_the_processes_alone():
    detector = small_detector("fpn, 2fc", sampled_boxes=4)
    before = torch.get_rng_state()
    one, other, third = (losses(detector, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(not torch.equal(one[name], third[name]) for name in one)


@pytest.mark.parametrize("kind", KINDS)
def test_detections_do_not_depend_on_what_else_is_in_the_batch(kind):
    detector = small_detector(kind).eval()
    images = small_batch()["images"]
    both = detector.detect(images, [(48, 48), (48, 48)])
    alone = detector.detect(images[1:], [(48, 48)])[0]
    assert len(alone.scores) > 0 and torch.allclose(both[1].boxes, alone.boxes, atol=1e-3)
    assert (alone.masks is not None) == KINDS[kind]["masks"]


def test_the_trunk_is_saved_once_and_is_the_one_given():
    detector = small_detector("c4")
    values = [tensor.data_ptr() for tensor in detector.state_dict().values() if tensor.numel() > 1]
    assert len(values) == len(set(values)) and any(key.startswith("backbone.layer4") for key in detector.state_dict())


def test_a_detector_on_c4_has_no_masks():
    with pytest.raises(ValueError, match="model.masks"):
        small_detector("c4", masks=True)
