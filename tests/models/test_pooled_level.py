import pytest
import torch

from models.backbone import make_trunk
from models.pooled_level import PooledLevel


@pytest.fixture(scope="module")
def trunk():
    torch.manual_seed(0)
    return make_trunk("resnet_tiny", width=4).eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("level", ["c4", "c5"])
def test_without_a_window_a_row_is_the_mean_of_all_cells_at_length_one(trunk, images, level):
    rows = PooledLevel(trunk, level=level)(images)
    for row, features in zip(rows, trunk(images)[level]):
        mean = torch.stack([cell for cell in features.flatten(1).T]).mean(0)
        torch.testing.assert_close(row, mean / mean.norm())


def test_windows_are_averaged_wherever_they_fit(trunk, images):
    rows, features = PooledLevel(trunk, window=2)(images), trunk(images)["c5"]
    # 3 x 3 cells of 32 channels.
    assert features.shape[1:] == (32, 3, 3) and rows.shape == (3, 32 * 4)
    for row, own in zip(rows, features):
        places = [own[:, y : y + 2, x : x + 2].mean((1, 2)) for y in range(2) for x in range(2)]
        expected = torch.stack(places, dim=1).flatten()
        torch.testing.assert_close(row, expected / expected.norm())


def test_a_window_that_fits_nowhere_is_refused(trunk, images):
    with pytest.raises(ValueError, match="features.window: 4.* 3 cells"):
        PooledLevel(trunk, window=4)(images)


def test_the_trunk_is_frozen_and_sees_no_batch():
    trunk = make_trunk("resnet_tiny", width=4)
    network, images = PooledLevel(trunk), torch.randn(4, 3, 16, 16)
    rows = network(images)
    assert not rows.requires_grad and not trunk.training
    torch.testing.assert_close(network(images[1:2])[0], rows[1])
