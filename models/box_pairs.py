"""Which boxes of two images show the same, by their features."""

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from models.nearest import top_places


@torch.no_grad()
def match_boxes(query: Tensor, keys: list[Tensor], *, share: float = 0.1) -> list[tuple[Tensor, Tensor]]:
    """The most similar pairs of an image's boxes and each neighbour's, among all combinations.

    Args:
        query: (B, D) unit vectors of the image's boxes, of any precision; similarity is computed in float32.
        keys: for each neighbour (B_k, D) unit vectors of its boxes.
        share: pairs kept for each of the image's boxes.
    Returns:
        For each neighbour the places (n,) of the boxes in `query` and (n,) in its keys, int64, the most similar pair first,
        ties to the lower place; n = max(1, int(share * B)), but no more than there are combinations. A box may occur again.
    Source: ORL, forward_test in the released models/correspondence.py.
    """
    if not keys:
        return []
    B, sizes = len(query), [len(boxes) for boxes in keys]
    padded = pad_sequence(keys, batch_first=True)
    K, longest, D = padded.shape
    similarity = (query.float() @ padded.float().view(K * longest, D).T).view(B, K, longest)
    missing = torch.arange(longest, device=query.device) >= torch.tensor(sizes, device=query.device)[:, None]
    combinations = similarity.masked_fill_(missing, -torch.inf).transpose(0, 1).flatten(1)
    pairs = max(1, int(share * B))
    places = top_places(combinations, min(pairs, B * longest))
    # Combinations with what pads a neighbour come last.
    kept = [row[: B * size] for row, size in zip(places, sizes)]
    return [(row // longest, row % longest) for row in kept]
