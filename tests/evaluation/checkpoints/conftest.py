import pytest
import torch


@pytest.fixture
def save(tmp_path):
    """Writes a checkpoint and gives its path."""

    def save(content: object, name: str = "checkpoint.pth"):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return save
