"""How well label maps fit the objects or segments that people drew: the generations of a run, or any types of masks.

    python -m evaluation.mask_quality --dataset_dir demo_data --masks runs/cyborgs/TIME/masks [TYPE ...]

The truth is COCO's annotations of DATASET_DIR or --annotations, or human segmentations, DATASET_DIR/segments/SPLIT or --segments.
best IoU: of each object and the region that fits it best. boundary F: of boundary pixels within 0.75 % of the diagonal. ARI:
adjusted Rand index, 1 for the same segments, 0 for chance.
"""

import argparse
import logging
import math
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.derived import readable
from data.label_maps import LabelMapError, expected_shape, label_map_file, missing_label_maps, read_label_map
from data.listing import ImageList, find_images
from evaluation.map_scores import MapScore, MaskQuality, score_map, summarise
from evaluation.truths import Truth, add_truth_arguments, chosen_truth, find_truth, naming_truth_options
from utils.cli import positive, shows_errors
from utils.cores import available_cores
from utils.errors import DataError, UserError, explains_killed_workers
from utils.files import write_json
from utils.progress import ProgressBar

_log = logging.getLogger(__name__)
_CHUNK = 8


class MissingMaps(DataError):
    """Images that can be read have no label map."""


def score_masks(
    images: ImageList,
    mask_dir: str | Path,
    mask_type: str,
    truth: Truth,
    *,
    indices: Sequence[int] | None = None,
    workers: int | None = None,
) -> MaskQuality:
    """Score the label maps MASK_DIR/TYPE/SPLIT of a listing; images that cannot be read have none and are left out.

    Args:
        images: the listing.
        truth: what people drew. A type whose name tells its maps' size is resized, by nearest, to the truth's.
        indices: which images; None for all.
        workers: processes; None for all cores.
    Raises:
        MissingMaps: an image that can be read has no map, or no image has one.
        LabelMapError: a map is damaged, or of another size than the truth.
        DataError: there is no truth for an image.
    """
    wanted = _with_maps(images, Path(mask_dir, mask_type, images.split), indices)
    score = ScoreMap(images, mask_dir, mask_type, truth)
    scores = []
    with ProgressBar(len(wanted), desc=mask_type) as bar:
        for result in _in_processes(score, wanted, workers or available_cores()):
            scores.append(result)
            bar.update(len(scores))
    return summarise(scores)


def _with_maps(images: ImageList, folder: Path, indices: Sequence[int] | None) -> list[int]:
    """Those of the indices whose images have a map; the others cannot be read."""
    asked = range(len(images)) if indices is None else [int(index) for index in indices]
    without = set(missing_label_maps(folder, images))
    lacking = next(readable([index for index in asked if index in without], images), None)
    if lacking is not None:
        count = sum(index in without for index in asked)
        raise MissingMaps(
            f"{folder}: {count} of {len(asked)} images have no label map there, such as {images.name(lacking)}"
        )
    wanted = [index for index in asked if index not in without]
    if not wanted:
        raise MissingMaps(f"{folder}: none of the {len(asked)} images can be read")
    return wanted


@dataclass(frozen=True)
class ScoreMap:
    """Scores one image's map, by its index; what the workers get."""

    images: ImageList
    mask_dir: str | Path
    mask_type: str
    truth: Truth

    def __call__(self, index: int) -> MapScore:
        name = self.images.name(index)
        truths = self.truth(name)
        path = label_map_file(self.images, index, mask_dir=self.mask_dir, mask_type=self.mask_type)
        labels = read_label_map(path)
        shape, whole = expected_shape(self.mask_type, truths[0].shape), truths[0].shape
        if labels.shape != shape:
            raise LabelMapError(
                f"{path}: {labels.shape[1]} x {labels.shape[0]} pixels where the truth of {name} has {shape[1]} x {shape[0]}: "
                "give the truth of these images, or make the maps of these images"
            )
        return score_map(_resize(labels, whole), truths, background=self.truth.background)


def _resize(labels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A label map by nearest to (H, W)."""
    rows, columns = (((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(shape, labels.shape))
    return labels if labels.shape == shape else labels[rows[:, None], columns]


# A worker's own, set as it starts: passing it with every image would copy the truth each time.
_score: Callable[[int], MapScore] | None = None


def _in_processes(score: Callable[[int], MapScore], indices: Sequence[int], workers: int) -> Iterator[MapScore]:
    """The scores in order."""
    workers = min(workers, max(1, len(indices) // _CHUNK))
    if workers == 1:
        yield from map(score, indices)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context(), initializer=_start_worker, initargs=(score,))
    try:
        with explains_killed_workers("a worker process was killed, perhaps for lack of memory: let fewer work at once"):
            yield from pool.map(_score_one, indices, chunksize=_CHUNK)
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(score: Callable[[int], MapScore]) -> None:
    global _score
    _score = score
    # Ctrl-C reaches all processes: the first one answers for all.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _score_one(index: int) -> MapScore:
    return _score(index)


def score_complete(
    images: ImageList,
    folders: Sequence[tuple[str | Path, str]],
    truth: Truth,
    *,
    indices: Sequence[int] | None = None,
    workers: int | None = None,
) -> dict[str, MaskQuality]:
    """Score the types of some folders (MASK_DIR, TYPE), but for those that lack maps, with a warning.

    Raises:
        DataError: as `score_masks`.
    """
    scores = {}
    for mask_dir, mask_type in folders:
        try:
            scores[mask_type] = score_masks(images, mask_dir, mask_type, truth, indices=indices, workers=workers)
        except MissingMaps as error:
            _log.warning("left out: %s", error)
    return scores


def score_types(
    images: ImageList,
    mask_dir: str | Path,
    mask_types: Sequence[str],
    truth: Truth,
    *,
    indices: Sequence[int] | None = None,
    workers: int | None = None,
) -> dict[str, MaskQuality]:
    """Score several types; none named takes all below `mask_dir` that are complete.

    Raises:
        UserError: no type there; or as `score_masks`.
    """
    options = {"indices": indices, "workers": workers}
    if mask_types:
        return {one: score_masks(images, mask_dir, one, truth, **options) for one in mask_types}
    found = sorted(path.parent.name for path in Path(mask_dir).glob(f"*/{images.split}"))
    if not found:
        raise UserError(f"{mask_dir}: no folder TYPE/{images.split} of label maps there; give --masks, --split")
    return score_complete(images, [(mask_dir, one) for one in found], truth, **options)


def format_scores(scores: Mapping[str, MaskQuality]) -> str:
    """A table, one row a type."""
    width = max(map(len, (*scores, "masks")))
    lines = [f"{'masks':<{width}}  best IoU  boundary F     ARI  labels an image  images"]
    for name, one in scores.items():
        lines.append(
            f"{name:<{width}}  {one.best_iou:8.3f}  {one.boundary_f:10.3f}  {one.ari:6.3f}  {one.labels_per_image:15.1f}"
            f"  {one.images:6d}"
        )
    return "\n".join(lines)


def write_scores(path: Path, scores: Mapping[str, MaskQuality]) -> None:
    """Write a JSON file, which knows no NaN."""
    rows = {name: one._asdict() for name, one in scores.items()}
    write_json(path, {name: {k: None if math.isnan(v) else v for k, v in row.items()} for name, row in rows.items()})


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "types", nargs="*", metavar="TYPE", help="folders below --masks; by default all that are complete"
    )
    parser.add_argument("--dataset_dir", type=Path, default=Path("demo_data"), help="the images, as data.image_dir")
    parser.add_argument("--split", default="train")
    parser.add_argument("--subset", help="as data.subset in the config")
    parser.add_argument("--masks", type=Path, help="holds TYPE/SPLIT; by default DATASET_DIR/masks")
    add_truth_arguments(parser)
    parser.add_argument("--limit", type=positive, metavar="N", help="only N images, evenly spaced over the listing")
    parser.add_argument("--workers", type=positive, help="processes; by default all cores")
    parser.add_argument("--json", type=Path, help="write the scores there too")
    arguments = parser.parse_args(argv)
    images = find_images(arguments.dataset_dir, split=arguments.split, subset=arguments.subset)
    with naming_truth_options():
        truth = chosen_truth(arguments) or find_truth(arguments.dataset_dir, arguments.split)
    count = min(arguments.limit or len(images), len(images))
    scores = score_types(
        images,
        arguments.masks or arguments.dataset_dir / "masks",
        arguments.types,
        truth,
        indices=np.linspace(0, len(images) - 1, count).astype(int),
        workers=arguments.workers,
    )
    print(format_scores(scores))
    if arguments.json:
        write_scores(arguments.json, scores)
    return 0


if __name__ == "__main__":
    sys.exit(main())
