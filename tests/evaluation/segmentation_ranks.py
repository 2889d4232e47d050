"""What two processes see for test_segmentation.py; started by tests.utils.two_ranks.run_two_ranks."""

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.segmentation_views import WholeSegmentations
from evaluation.segmentation import count_all, pixel_loss, read_images
from evaluation.segmentation_config import SegmentationConfig
from utils import distributed, launch


class Seer(nn.Module):
    """A network that reads a pixel's class off its red: 10 a class."""

    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes

    def forward(self, images):
        red = (images[:, 0] * 0.229 + 0.485) * 255
        classes = (red / 10).round().long().clamp(0, self.num_classes - 1)
        return {"head": F.one_hot(classes, self.num_classes).permute(0, 3, 1, 2).float()}

    def enlarge(self, scores, size):
        return F.interpolate(scores, size, mode="bilinear")


def scores_and_labels() -> tuple[Tensor, Tensor]:
    """Of both ranks together; the first image is void but for a few pixels."""
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(2, 3, 6, 6, generator=generator), torch.randint(0, 3, (2, 6, 6), generator=generator)
    labels[0, 1:] = 255
    return scores, labels


def main(folder: Path, config: str) -> None:
    device = launch.launch(None)
    rank = distributed.rank()
    settings = SegmentationConfig(**json.loads(config))
    images = read_images(settings.data, [settings.data.test])
    scores, labels = (tensor[rank : rank + 1] for tensor in scores_and_labels())
    torch.save(
        {
            "counts": count_all(Seer(4), WholeSegmentations(images, size=(30, 20)), settings, device),
            "loss": pixel_loss(scores, labels, divide_by_void=False),
        },
        folder / f"{rank}.pth",
    )
    distributed.barrier()
    launch.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
