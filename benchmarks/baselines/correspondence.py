"""ORL's pairs of boxes as published: image by image, all boxes of an image and of its neighbours embedded when its turn comes."""

import numpy as np
import torch
from torch import Tensor

from data.listing import ImageList
from data.photometric import normalise
from data.ragged import Ragged
from engine.precision import memory_format
from evaluation.features import BoxCrops
from models.encoder import Encoder
from utils.progress import ProgressBar


def find_pairs(
    encoder: Encoder,
    images: ImageList,
    boxes: Ragged,
    neighbours: np.ndarray,
    *,
    size: int,
    share: float,
    device: torch.device,
) -> Ragged:
    """What `tools.box_pairs.find_pairs` finds: rows of two boxes for each image and neighbour, the most similar first.

    Args:
        neighbours: (N, K) indices of images.
        size: of what is embedded, in pixels; share: of an image's boxes, which are as many pairs a neighbour.
    """
    crops = BoxCrops(images, boxes, size=size)

    def embed(index: int) -> Tensor:
        batch = normalise(crops[index].to(device) / 255)
        return encoder(batch.contiguous(memory_format=memory_format(device)), project=False)

    rows = []
    with ProgressBar(len(images), desc="baseline, images") as bar:
        for index, keys in enumerate(neighbours.tolist()):
            query = embed(index)
            for key in keys:
                similarity = query @ embed(key).T
                places = similarity.flatten().topk(max(1, int(share * len(query)))).indices.cpu().numpy()
                own, other = np.divmod(places, similarity.shape[1])
                rows.append(np.concatenate([boxes[index][own], boxes[key][other]], axis=1))
            bar.update(index + 1)
    return Ragged.from_rows(rows, width=8, dtype=np.uint16)
