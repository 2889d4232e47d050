"""ReSim: MoCo v2 on whole images, and on windows that slide over the area which two views share.

Source: Region Similarity Representation Learning (Xiao et al., ICCV 2021), figure 2 and section 3; MoCo v2 (Chen et al., 2020).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from losses.byol import unit
from losses.info_nce import Contrast, info_nce
from models.momentum import make_target, update_target
from models.queue import KeyQueue
from models.shuffle import Shuffle
from models.windows import Match, match_windows, neighbourhoods, pool_windows
from utils.distributed import all_gather_rows, all_reduce_sum, world_size
from utils.method import Output, Progress
from utils.seeding import torch_generator


class Windows(NamedTuple):
    """Windows of one size, compared on one level of features."""

    level: str
    size: int  # pixels of a view
    stride: int  # pixels of a view
    gather: bool  # negatives from the images of all processes, or from this process' own


class Encoded(NamedTuple):
    vector: Tensor  # (B, d) of the whole image
    maps: dict[str, Tensor]  # level -> (B, D, h, w)


class ReSim(nn.Module):
    """Region similarity; without windows it is MoCo v2.

    ReSim-FPN compares windows of 48 px on C4 and of 32 px on C3 of a feature pyramid. ReSim-C4 compares those of 48 px on C4
    alone; its weights were released, but no code. Our choice for it is an FPN whose only level is C4: a 1 x 1 and a 3 x 3
    convolution to 256 channels, without the path down from C5. Three reasons: it is ReSim-FPN without all that touches other
    levels, and nothing else; the trunk's own 1,024 channels stay free of the loss, as behind the heads of every contrastive
    method; and windows cost what they cost in ReSim-FPN.

    Args:
        backbone: trunk giving {"c2": ..., "c5": ...}; its `levels` say the strides.
        head: (B, D of c5) -> (B, d), embeds a whole image.
        neck: the trunk's features -> {level: (B, D, h, w)} for the levels of `windows`; None with no windows.
        windows: what slides over the views, each level once.
        queue_size: keys of whole images, kept as negatives.
        momentum: momentum of the key network at a Progress.
        temperature: of all losses.
        gather_dtype: what windows' negatives travel between processes in; None leaves them as they are, in float32 or better.
        shuffle_seed: exchange key images between processes before BatchNorm sees them, by this seed; None leaves them, as
            where BatchNorm is synchronised.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        neck: nn.Module | None = None,
        *,
        windows: tuple[Windows, ...] = (),
        queue_size: int = 65536,
        dim: int = 128,
        momentum: Callable[[Progress], float],
        temperature: float = 0.2,
        gather_dtype: torch.dtype | None = None,
        shuffle_seed: int | None = None,
    ):
        super().__init__()
        self.backbone, self.head, self.neck = backbone, head, neck or nn.Identity()
        self.target = make_target(self.backbone, self.neck, self.head)
        self.queue = KeyQueue(queue_size, dim=dim)
        self.windows, self.momentum, self.temperature = windows, momentum, temperature
        self.gather_dtype, self.shuffle_seed, self._step = gather_dtype, shuffle_seed, 0

    def before_step(self, progress: Progress) -> None:
        # Keys come from the network that has moved already, as released.
        update_target(self.target, self.backbone, self.neck, self.head, momentum=self.momentum(progress))
        self._step = progress.step

    def after_step(self, progress: Progress) -> None:
        pass

    def forward(self, batch: dict[str, Any], generator: torch.Generator) -> Output:
        """One comparison of two views, the first as queries, the second as keys.

        Args:
            batch: images (B, 2, 3, S, S) normalised; boxes (B, 2, 4) of the views and flips (B, 2).
            generator: not needed: what is random here must be the same on every process.
        Returns:
            A loss for whole images (`moco`) and for each level of windows; the share of queries nearest to their own key, and
            the share of windows that both views show.
        """
        queries, keys = batch["images"].unbind(1)
        query = self._encode((self.backbone, self.neck, self.head), queries)
        with torch.no_grad():
            key = self._encode_keys(keys)
        contrasts, shares = {"moco": self._compare_images(query.vector, key.vector)}, {}
        for windows in self.windows:
            match = self.match(batch, windows)
            contrasts[windows.level] = self._compare_windows(query, key, match, windows, side=queries.shape[-1])
            shares[f"matched_{windows.level}"] = match.shown.float().mean()
        # The queue is read before it is written: a batch's keys are no negatives of its own queries.
        # Autocast's few bits travel; the unit vectors that they are scaled to, in float32, are the same either way.
        self.queue.push(unit(all_gather_rows(key.vector)))
        return Output(
            {f"loss_{task}": contrast.loss for task, contrast in contrasts.items()},
            {f"top1_{task}": contrast.top1 for task, contrast in contrasts.items()} | shares,
        )

    def match(self, batch: dict[str, Any], windows: Windows) -> Match:
        """The windows of a batch's first views in its second ones, from the views' boxes alone."""
        side = batch["images"].shape[-1]
        return match_windows(side, batch["boxes"], batch["flips"], size=windows.size, stride=windows.stride)

    def _encode(self, networks: tuple[nn.Module, ...], images: Tensor) -> Encoded:
        backbone, neck, head = networks
        features = backbone(images)
        vector = head(features["c5"].mean((2, 3)))
        return Encoded(vector, neck(features) if self.windows else {})

    def _encode_keys(self, images: Tensor) -> Encoded:
        if self.shuffle_seed is None or world_size() == 1:
            return self._encode(self.target, images)
        shuffle = Shuffle(len(images), torch_generator(self.shuffle_seed, self._step))
        key = self._encode(self.target, shuffle.send(images))
        return Encoded(shuffle.restore(key.vector), {name: shuffle.restore(maps) for name, maps in key.maps.items()})

    def _compare_images(self, query: Tensor, key: Tensor) -> Contrast:
        return info_nce(query, unit(key), self.queue.keys, temperature=self.temperature)

    def _compare_windows(self, query: Encoded, key: Encoded, match: Match, windows: Windows, *, side: int) -> Contrast:
        query_map, key_map = query.maps[windows.level], key.maps[windows.level]
        # Spans of a view become spans of cells: a level's stride is the same along both axes, a view is square.
        cells = side / self.backbone.levels[windows.level].stride
        spans = match.spans[None] * cells
        query_windows = pool_windows(query_map, spans, spans)
        with torch.no_grad():
            key_windows = unit(pool_windows(key_map, match.rows * cells, match.columns * cells))
            # A window's own place is among the negatives, as released.
            negatives = unit(neighbourhoods(key_map))
            if windows.gather:
                # A process alone rounds as well, so that what it computes does not change with the number of processes.
                rounded = negatives.to(self.gather_dtype or negatives.dtype)
                negatives = all_gather_rows(rounded).to(negatives.dtype)
        return info_nce(
            query_windows.flatten(0, 1),
            key_windows.flatten(0, 1),
            negatives,
            temperature=self.temperature,
            weight=_mean_weight(match.shown.flatten(), key_windows.dtype),
        )


def _mean_weight(chosen: Tensor, dtype: torch.dtype) -> Tensor:
    """(R,) bool -> weights that give the mean over what all processes chose, once processes' losses are averaged."""
    total = all_reduce_sum(chosen.sum()).to(dtype) / world_size()
    # Nothing chosen anywhere: the loss is zero, and attached to every parameter all the same.
    return chosen.to(dtype) / total.clamp(min=1 / world_size())
