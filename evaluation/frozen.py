"""What the evaluators share that train no network: a frozen backbone, pictures, and their features in files."""

import argparse
import hashlib
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import Dataset

from data.geometry import WHOLE, centre_crop, cut_image
from data.images import read_image
from engine.checkpoint import weights_sha256
from engine.precision import memory_format
from engine.stop import stops_at_once
from evaluation.backbones import load_backbone
from evaluation.calibration import recalibrate_on_dataset
from evaluation.features import chunk_path, embed_chunks
from evaluation.ordered_reading import prepare_images, reading_strictly
from evaluation.settings import Evaluator
from evaluation.training import open_folder
from models.backbone import Trunk
from models.pooled_level import PooledLevel
from utils.config import Section
from utils.distributed import barrier, on_main
from utils.errors import UserError, plain_errors

_log = logging.getLogger(__name__)
_IMAGES_A_CHUNK = 1024


class Features(Section):
    """What is taken for an image."""

    size: int = Field(224, ge=8, description="Side of a picture, in pixels.")
    crop: Literal["centre", "whole"] = Field(
        "centre", description="Centre: the middle 224 of 256 pixels of the shorter side; whole: all of it, as a square."
    )
    level: Literal["c2", "c3", "c4", "c5"] = Field("c5", description="Of the backbone.")
    window: int | None = Field(
        None,
        ge=1,
        description="Cells a side that are averaged, at every place where they fit; empty averages all cells.",
    )
    keep: bool = Field(False, description="Keep the features in the evaluation's folder.")

    @property
    def made_of(self) -> dict[str, Any]:
        """What other features come of."""
        return self.model_dump(exclude={"keep"})


class FrozenEvaluator(Evaluator):
    features: Features = Features()


class Pictures(Dataset):
    """(1, 3, S, S) uint8: images as squares, by their number.

    Args:
        path_of: an image's path, by its number.
        count: how many there are.
        size: S.
        crop: see Features.
    Raises:
        DataError: an image cannot be read: a score without it would be another score.
    """

    def __init__(self, path_of: Callable[[int], Path], count: int, *, size: int, crop: str):
        self._path_of, self._count, self._size, self._crop = path_of, count, size, crop

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Tensor:
        with reading_strictly():
            image = read_image(self._path_of(index))
        return cut_image(image, centre_crop(*image.shape[:2]) if self._crop == "centre" else WHOLE, size=self._size)[
            None
        ]


@contextmanager
def evaluation_folder(name: str, config: Evaluator, arguments: argparse.Namespace, *, keep: bool) -> Iterator[Path]:
    """The evaluation's folder, with all that makes a stopped job go on; without its `work` in the end, unless it is kept."""
    if arguments.max_steps:
        _log.warning("--max_steps: nothing is trained here, so that there are no steps")
    folder = open_folder(name, config, arguments)
    with stops_at_once(), plain_errors():
        yield folder
    barrier()
    if not keep:
        on_main(lambda: shutil.rmtree(folder / "work", ignore_errors=True))


def load_frozen(config: Evaluator, pictures: Pictures, *, device: torch.device) -> tuple[Trunk, str]:
    """The backbone in eval mode and without gradient, on the device, the same on every process; and its digest.

    Args:
        pictures: on which BatchNorm's statistics are estimated, where the config says so.
    """
    trunk = load_backbone(config.model, seed=config.seed).requires_grad_(False).eval()
    # Of the weights as they were read: estimates may differ in their last bits from one start to the next.
    digest = digest_of(trunk, config.model.recalibrate_norm)
    trunk.to(device, memory_format=memory_format(device))
    if config.model.recalibrate_norm:
        recalibrate_on_dataset(trunk, pictures, workers=config.data.data_workers, device=device)
    return trunk, digest


def digest_of(*parts: object) -> str:
    """A short name for what files were made of: modules by their weights, all else by its text."""
    texts = [weights_sha256(part) if isinstance(part, nn.Module) else repr(part) for part in parts]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


class FeatureFiles:
    """Features of pictures, embedded by all processes together, in files that a stopped job goes on from.

    Args:
        network: on `device`.
        pictures: all of a size.
        folder: of the files, seen by all processes.
        batch_size, workers: as in the config's `data`.
        desc: what is counted, such as "train images".
    """

    def __init__(
        self,
        network: PooledLevel,
        pictures: Pictures,
        folder: Path,
        *,
        batch_size: int,
        workers: int,
        device: torch.device,
        desc: str,
    ):
        self._folder = folder
        self.chunks = np.array_split(np.arange(len(pictures)), -(-len(pictures) // _IMAGES_A_CHUNK))
        try:
            dim = network(prepare_images(pictures[0], device)).shape[1]
        except ValueError as error:
            raise UserError(str(error)) from error
        embed_chunks(
            network,
            pictures,
            self.chunks,
            folder,
            dim=dim,
            counts=np.ones(len(pictures), dtype=np.int64),
            batch_size=batch_size,
            workers=workers,
            device=device,
            desc=desc,
        )
        barrier()

    def __iter__(self) -> Iterator[np.ndarray]:
        """(n, D) float32 of one chunk after the other, in order."""
        return (np.load(chunk_path(self._folder, chunk)) for chunk in range(len(self.chunks)))

    def rows(self, places: Sequence[int]) -> np.ndarray:
        """(n, D) float32 of some pictures, rising."""
        wanted = np.asarray(places)
        return np.concatenate([part[np.isin(chunk, wanted)] for chunk, part in zip(self.chunks, self)])
