import pytest
import torch
import torch.nn.functional as F

from models.levels import JoinedLevels


def make_features(sides: dict[str, tuple[int, int]]) -> dict[str, torch.Tensor]:
    return {level: torch.randn(2, 3 + rank, *side) for rank, (level, side) in enumerate(sides.items())}


@pytest.mark.parametrize(
    "sides", [((28, 20), (14, 10), (7, 5)), ((9, 13), (5, 7), (3, 4)), ((8, 15), (8, 5), (4, 5)), ((4, 5),) * 3]
)
def test_levels_stand_side_by_side_in_their_order_each_averaged_onto_the_lasts_grid(sides):
    features = make_features({"c2": (60, 60), **dict(zip(("c3", "c4", "c5"), sides))})
    joined = JoinedLevels(("c4", "c3", "c5"))(features)
    slow = [F.adaptive_avg_pool2d(features[level], sides[2]) for level in ("c4", "c3", "c5")]
    assert list(joined) == ["joined"]
    torch.testing.assert_close(joined["joined"], torch.cat(slow, dim=1))


def test_one_level_is_itself():
    features = make_features({"c4": (6, 6), "c5": (3, 3)})
    assert torch.equal(JoinedLevels(("c4",))(features)["joined"], features["c4"])


def test_where_sides_divide_the_mean_is_taken_by_the_operation_with_a_repeatable_gradient():
    """PyTorch names the gradient of adaptive_avg_pool2d on a GPU among those that are not."""
    features = {level: x.requires_grad_() for level, x in make_features({"c3": (8, 4), "c5": (4, 2)}).items()}
    joined, operations = JoinedLevels(("c3", "c5"))(features)["joined"], set()
    waiting = [joined.grad_fn]
    while waiting:
        node = waiting.pop()
        operations.add(node.name())
        waiting += [behind for behind, _ in node.next_functions if behind]
    assert not any("Adaptive" in name for name in operations), operations
