import utils.threads  # noqa: F401  isort: skip  before torch

import pytest
import torch


@pytest.fixture(autouse=True)
def same_threads():
    """A config's `threads` ends with its test: the last digits of later ones depend on them."""
    count = torch.get_num_threads()
    yield
    torch.set_num_threads(count)
