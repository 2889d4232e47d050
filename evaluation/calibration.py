"""BatchNorm statistics of a frozen network, estimated anew on the images that it is judged on.

An untrained network's are made up, and would make it a weaker rival than it is: do it to both that are compared.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset

from engine.precision import memory_format
from evaluation.ordered_reading import exact_kernels, prepare_images, read_in_order
from utils.distributed import on_main
from utils.errors import UserError, plain_errors

# Images that statistics are estimated on, and how many at a time.
_IMAGES, _BATCH = 1024, 128


@torch.no_grad()
def recalibrate_norm(network: nn.Module, batches: Iterable) -> None:
    """Replace all running statistics by the mean of those of some batches, and leave the network in eval mode.

    Args:
        network: what it has learned stays.
        batches: what the network takes, such as (N, 3, H, W) normalised images, where it is; at least one, of more than one
            image.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        # Each batch counts as much as any other.
        layer.momentum = None
    network.train()
    for batch in batches:
        network(batch)
    network.eval()
    for layer, momentum in zip(layers, momenta):
        layer.momentum = momentum


def recalibrate_on(network: nn.Module, images: Tensor, *, device: torch.device) -> None:
    """`recalibrate_norm` on (N, 3, S, S) uint8 images, N > 1; the network is on `device`."""
    # Of nearly one size: a batch of one image has no statistics.
    parts = images.tensor_split(-(-len(images) // _BATCH))
    recalibrate_norm(network, (prepare_images(part, device) for part in parts))


def recalibrate_on_dataset(network: nn.Module, pictures: Dataset, *, workers: int, device: torch.device) -> None:
    """`recalibrate_norm` on some images of a dataset, evenly spaced; the same on every process, as rank 0 estimates it.

    Args:
        network: put on `device`.
        pictures: of a known length; each item (1, 3, S, S) uint8.
        workers: processes that read.
    Raises:
        UserError: there is but one image.
    """
    network.to(device, memory_format=memory_format(device))

    def estimate() -> dict[str, Tensor]:
        order = np.linspace(0, len(pictures) - 1, min(_IMAGES, len(pictures))).astype(int).tolist()
        if len(order) < 2:
            raise UserError("model.recalibrate_norm: true needs more than one image")
        with plain_errors(), exact_kernels():
            images = torch.cat(list(read_in_order(pictures, order, workers=workers, device=device)))
            recalibrate_on(network, images, device=device)
        return {name: tensor.cpu() for name, tensor in network.state_dict().items()}

    network.load_state_dict(on_main(estimate))
    network.eval()
