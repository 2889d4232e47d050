"""Unsupervised object segmentation: frozen features clustered inside each image, and the cluster that fits an object best.

    python -m evaluation.object_segmentation --cfg cub --weights RUN_OR_CHECKPOINT --set data.dir=CUB_200_2011
    torchrun --nproc_per_node 8 -m evaluation.object_segmentation ...

The truth is a bird's segmentation, or lies beside the images: COCO's annotations/instances_SPLIT.json, or segments/SPLIT.
"""

import utils.threads  # noqa: F401  isort: skip  before torch

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.utils.data import Dataset

from data.cub import CubFolder
from data.geometry import WHOLE, cut_image
from data.images import read_image
from data.label_maps import enlarge
from data.listing import find_images
from data.ragged import map_array, save_array
from evaluation.features import chunk_path
from evaluation.frozen import Pictures, digest_of, evaluation_folder, load_frozen
from evaluation.map_scores import best_overlaps, contingency
from evaluation.ordered_reading import exact_kernels, prepare_images, read_in_order, reading_strictly
from evaluation.results import finish
from evaluation.settings import Evaluator, JudgedData
from evaluation.training import run_evaluator
from evaluation.truths import Truth, find_truth
from models.backbone import Trunk
from models.regions import kmeans
from utils.config import Section
from utils.distributed import barrier, on_main, rank, world_size
from utils.errors import DataError
from utils.progress import ProgressBar
from utils.seeding import numpy_generator

# A stream of its own beside the others that are named by whole numbers.
_STREAM = 7
_IMAGES_A_CHUNK = 256
# Cells of an image up to which K-means holds the products of all pairs.
_PAIRWISE = 1024


class ObjectData(JudgedData):
    layout: Literal["images", "cub"] = Field(
        "images", description="Cub: Caltech-UCSD Birds-200-2011; images: any with its truth beside it."
    )
    split: str = Field("val", description="Whose objects are looked for; of the birds train, test or all.")


class Clusters(Section):
    size: int = Field(224, ge=8, description="Side that the whole image is resized to, in pixels.")
    level: Literal["c2", "c3", "c4", "c5"] = Field("c4", description="Whose cells are clustered.")
    counts: list[Annotated[int, Field(ge=1)]] = Field(
        [2], min_length=1, description="Numbers of clusters; each gives a score of its own."
    )
    max_iter: int = Field(25, ge=1, description="Iterations of K-means at most.")


class ObjectSegmentationConfig(Evaluator):
    data: ObjectData
    clusters: Clusters = Clusters()


class Objects(NamedTuple):
    """N images and what people see in them."""

    names: Sequence[str]
    path_of: Callable[[int], Path]
    truth: Truth


class SeenObjects(Dataset):
    """An image as a square (3, S, S) uint8, and what each person sees in it, (H, W) integers of the image's own size.

    Raises:
        DataError: an image cannot be read, or its truth is missing or of another size.
    """

    def __init__(self, objects: Objects, *, size: int):
        self._objects, self._size = objects, size

    def __getitem__(self, index: int) -> tuple[Tensor, list[Tensor]]:
        path, name = self._objects.path_of(index), self._objects.names[index]
        with reading_strictly():
            image = read_image(path)
        truths = self._objects.truth(name)
        if truths[0].shape != image.shape[:2]:
            (height, width), (h, w) = image.shape[:2], truths[0].shape
            raise DataError(
                f"{path}: {width} x {height} pixels, but its truth has {w} x {h}; give the truth of this image"
            )
        return cut_image(image, WHOLE, size=self._size), [torch.from_numpy(one.astype(np.int32)) for one in truths]


def evaluate(config: ObjectSegmentationConfig, arguments: argparse.Namespace, device: torch.device) -> None:
    objects = on_main(lambda: open_objects(config.data))
    settings = config.clusters
    with evaluation_folder("object_segmentation", config, arguments, keep=False) as folder:
        pictures = Pictures(objects.path_of, len(objects.names), size=settings.size, crop="whole")
        trunk, digest = load_frozen(config, pictures, device=device)
        work = folder / "work" / digest_of(digest, settings, config.seed, tuple(objects.names))
        chunks = np.array_split(np.arange(len(objects.names)), -(-len(objects.names) // _IMAGES_A_CHUNK))
        score_chunks(
            trunk,
            objects,
            chunks,
            work,
            settings=settings,
            seed=config.seed,
            batch_size=config.data.val_batch_size,
            workers=config.data.data_workers,
            device=device,
        )
        barrier()
        scores = np.concatenate([map_array(chunk_path(work, chunk)) for chunk in range(len(chunks))])
        if not len(scores):
            raise DataError(f"{config.data.dir}: no object in any of {len(objects.names)} images")
        metrics = {f"best IoU, K={count}": mean for count, mean in zip(settings.counts, scores.mean(0))}
        details = {"objects": len(scores), "images": len(objects.names)}
        finish(folder, "object_segmentation", config, arguments, metrics, details=details)


def open_objects(data: ObjectData) -> Objects:
    """The images of a split and their truth.

    Raises:
        DataError: either is missing.
    """
    if data.layout == "cub":
        birds = CubFolder(data.dir)
        names = birds.names(data.split)
        return Objects(names, [birds.image_path(name) for name in names].__getitem__, birds)
    images = find_images(data.dir, split=data.split)
    names = [images.name(index) for index in range(len(images))]
    return Objects(names, images.path, find_truth(data.dir, data.split))


def score_chunks(
    trunk: Trunk,
    objects: Objects,
    chunks: Sequence[np.ndarray],
    folder: Path,
    *,
    settings: Clusters,
    seed: int,
    batch_size: int,
    workers: int,
    device: torch.device,
) -> None:
    """Write the scores of the chunks that this process is to do and that are not there: (objects, numbers of clusters) float64.

    Args:
        trunk: frozen, on `device`.
        chunks: numbers of images; the same on every process.
        folder: of the files, seen by all processes.
        seed: of K-means' starts, with the image's number.
        batch_size: images together.
        workers: processes that read.
    """
    todo = [chunk for chunk in range(rank(), len(chunks), world_size()) if not chunk_path(folder, chunk).exists()]
    order = [int(index) for chunk in todo for index in chunks[chunk]]
    arrived = read_in_order(SeenObjects(objects, size=settings.size), order, workers=workers, device=device)
    done = 0
    with exact_kernels(), ProgressBar(len(order), desc="images") as bar:
        for chunk in todo:
            scores = [np.zeros((0, len(settings.counts)))]
            indices = [int(index) for index in chunks[chunk]]
            for batch in (indices[first : first + batch_size] for first in range(0, len(indices), batch_size)):
                pictures, truths = zip(*(next(arrived) for _ in batch))
                features = trunk(prepare_images(torch.stack(pictures), device), last=settings.level)[settings.level]
                maps = [
                    cluster_images(features, batch, count=count, max_iter=settings.max_iter, seed=seed)
                    for count in settings.counts
                ]
                for own, people in zip(zip(*maps), truths):
                    scores += [score_objects(own, one.numpy(), background=objects.truth.background) for one in people]
                done += len(batch)
                bar.update(done)
            save_array(chunk_path(folder, chunk), np.concatenate(scores))


@torch.no_grad()
def cluster_images(features: Tensor, indices: Sequence[int], *, count: int, max_iter: int, seed: int) -> np.ndarray:
    """(N, D, h, w) -> (N, h, w) int64 clusters in [0, count) of the cells of each image, by the direction of their features.

    Args:
        indices: the images' numbers, by which, with `seed` and `count`, K-means++ starts; not their place in the batch.
        count: of clusters; those beyond the distinct cells stay empty.
    """
    N, _, h, w = features.shape
    points = F.normalize(features.float().flatten(2).transpose(1, 2), dim=-1)
    draws = np.stack([numpy_generator(seed, index, count, _STREAM).random(count) for index in indices])
    labels = kmeans(
        points,
        torch.ones(N, h * w, dtype=torch.bool, device=points.device),
        num_clusters=count,
        draws=torch.from_numpy(draws).to(points.device),
        max_iter=max_iter,
        pairwise=h * w <= _PAIRWISE,
    )
    return labels.view(N, h, w).cpu().numpy()


def score_objects(maps: Sequence[np.ndarray], truth: np.ndarray, *, background: bool) -> np.ndarray:
    """(objects, maps) float64: the intersection over union of each object with the cluster that fits it best.

    Args:
        maps: (h, w) clusters each, which are enlarged to the truth's size.
        truth: (H, W) integers, one an object.
        background: whether the truth's 0 is no object.
    """
    first = int(background and truth.min() == 0)
    return np.stack([best_overlaps(contingency(truth, enlarge(one, truth.shape)))[first:] for one in maps], axis=1)


def main(argv: list[str] | None = None) -> int:
    return run_evaluator("object_segmentation", ObjectSegmentationConfig, evaluate, description=__doc__, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
