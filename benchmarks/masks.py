"""What each kind of mask costs, and how well it agrees with people, on photographs that people segmented.

    python -m benchmarks.masks BSDS_DIR [--limit N] [--json FILE] [--write docs/masks.md]

BSDS_DIR holds images/SPLIT/ID.jpg and segments/SPLIT/ID_K.png, the K-th person's segmentation. One process, one thread; times are
the processor's, so that other work counts little. --write renews what lies between <!-- masks --> and <!-- end -->.
"""

import datetime
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import skimage
from PIL import Image

from benchmarks.report import Report, make_parser
from data.felzenszwalb import compiler_versions
from data.images import read_image
from data.listing import find_images
from data.mask_makers import FH, Grid, Maker, OpenCVFH, Slic
from evaluation.map_scores import adjusted_rand_index, contingency
from utils.cores import processor_name
from utils.errors import UserError
from utils.files import atomic_write_bytes
from utils.marks import renew_marked
from utils.progress import ProgressBar

MAKERS = (FH(), OpenCVFH(), FH(300, 300), OpenCVFH(300, 300), Slic(100, None), Slic(100, 224), Grid(3, 3))


def achievable_accuracy(table: np.ndarray) -> float:
    """Share of pixels that are right where each segment (row) takes the human segment (column) that it overlaps most.

    Source: Liu et al., Entropy rate superpixel segmentation, CVPR 2011, achievable segmentation accuracy.
    """
    return float(table.max(axis=1).sum() / table.sum())


@dataclass
class Scores:
    """One kind of mask, a value an image: milliseconds, segments, and agreement with people and with fh."""

    milliseconds: list[float] = field(default_factory=list)
    segments: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    rand: list[float] = field(default_factory=list)
    rand_fh: list[float] = field(default_factory=list)

    def add(self, labels: np.ndarray, others: Sequence[np.ndarray]) -> None:
        """Score (H, W) labels against the segmentations of one or more people."""
        tables = [contingency(labels, other) for other in others]
        self.segments.append(tables[0].shape[0])
        self.accuracy.append(np.mean([achievable_accuracy(table) for table in tables]))
        self.rand.append(np.mean([adjusted_rand_index(table) for table in tables]))

    def figures(self) -> dict[str, float | None]:
        """Means over the images; None for what was not measured."""
        columns = {
            "ms": self.milliseconds,
            "segments": self.segments,
            "accuracy": self.accuracy,
            "rand": self.rand,
            "rand_fh": self.rand_fh,
        }
        return {name: float(np.mean(values)) if values else None for name, values in columns.items()}

    def row(self, name: str, reference: "Scores") -> str:
        """A line of the table; times as ratios to the reference's too."""
        cells = ["–", "–"]
        if self.milliseconds:
            mean = np.mean(self.milliseconds)
            ratio = mean / np.mean(reference.milliseconds)
            cells = [f"{mean:.0f}" if mean >= 1 else "< 1", f"{ratio:.2f}" if ratio >= 0.01 else "< 0.01"]
        counts = np.array(self.segments)
        cells += [f"{counts.mean():.1f}", f"{np.median(counts):.0f}", f"{counts.min():.0f} to {counts.max():.0f}"]
        cells += [f"{100 * (counts == 1).mean():.1f} %", f"{np.mean(self.accuracy):.3f}", f"{np.mean(self.rand):.3f}"]
        cells.append(f"{np.mean(self.rand_fh):.3f}" if self.rand_fh else "–")
        return f"| {name} | {' | '.join(cells)} |"


HEADER = """\
| type | ms an image | of fh's | segments: mean | median | range | one segment only | ASA | Rand, people | Rand, fh |
|---|---|---|---|---|---|---|---|---|---|"""


def measure(photos: Sequence[tuple[Path, list[Path]]]) -> dict[str, Scores]:
    """Scores of each maker, and of the people against each other."""
    scores = {maker.type: Scores() for maker in MAKERS} | {"people": Scores()}
    for maker in MAKERS:
        maker(read_image(photos[0][0]), "")
    with ProgressBar(len(photos), desc="photographs") as bar:
        for number, (photo, segmentations) in enumerate(photos, start=1):
            image = read_image(photo)
            people = [np.asarray(Image.open(path)) for path in segmentations]
            maps = {maker.type: _timed(maker, image, scores[maker.type]) for maker in MAKERS}
            for name, labels in maps.items():
                scores[name].add(labels, people)
                scores[name].rand_fh.append(adjusted_rand_index(contingency(labels, maps[MAKERS[0].type])))
            for index, own in enumerate(people):
                scores["people"].add(own, people[:index] + people[index + 1 :])
            bar.update(number)
    return scores


def _timed(maker: Maker, image: np.ndarray, scores: Scores) -> np.ndarray:
    """Labels of the image's size."""
    begin = time.process_time()
    labels = maker(image, "")
    scores.milliseconds.append(1e3 * (time.process_time() - begin))
    height, width, _ = image.shape
    if labels.shape == (height, width):
        return labels
    return np.asarray(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))


def find_photos(folder: Path) -> list[tuple[Path, list[Path]]]:
    """Each photograph with its segmentations.

    Raises:
        UserError: one has none, or only one.
    """
    photos = []
    for split in ("train", "val"):
        images = find_images(folder, split=split)
        for path in map(images.path, range(len(images))):
            segmentations = sorted((folder / "segments" / split).glob(f"{path.stem}_*.png"))
            if len(segmentations) < 2:
                raise UserError(f"{path}: {len(segmentations)} segmentations in segments/{split}, 2 are needed")
            photos.append((path, segmentations))
    return photos


def report(scores: dict[str, Scores], num_photos: int) -> str:
    """The table and what it was measured on."""
    reference = scores[MAKERS[0].type]
    lines = [HEADER, *(one.row(name, reference) for name, one in scores.items())]
    versions = f"scikit-image {skimage.__version__}, OpenCV {cv2.__version__}, Python {platform.python_version()}"
    versions += "".join(f", {name} {version}" for name, version in compiler_versions().items())
    against_fh = np.array(scores[MAKERS[1].type].rand_fh)
    lines += [
        "",
        f"{MAKERS[1].type} against {MAKERS[0].type}: median Rand {np.median(against_fh):.2f}, below 0.5 for "
        f"{100 * np.mean(against_fh < 0.5):.0f} % of the photographs.",
        "",
        f"{num_photos} photographs of BSDS500, {datetime.date.today().isoformat()}, one of {os.cpu_count()} cores of an "
        f"{processor_name()}, {versions}.",
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.set_defaults(threads=1)
    parser.add_argument("folder", type=Path, metavar="BSDS_DIR")
    parser.add_argument("--limit", type=int, help="only the first N photographs")
    parser.add_argument("--write", type=Path, help="a Markdown file with the marks")
    arguments = parser.parse_args(argv)
    if arguments.write:
        # Known before an hour of measuring.
        try:
            renew_marked(arguments.write.read_text(encoding="utf-8"), "masks", lambda match: "")
        except ValueError as error:
            sys.exit(f"{arguments.write}: {error}")
    cv2.setNumThreads(1)
    photos = find_photos(arguments.folder)[: arguments.limit]
    with Report("masks", arguments) as figures:
        scores = measure(photos)
        text = report(scores, len(photos))
        figures.line(text)
        figures.rows += [{"what": name, **one.figures()} for name, one in scores.items()]
    if arguments.write:
        new = renew_marked(arguments.write.read_text(encoding="utf-8"), "masks", lambda match: text)
        atomic_write_bytes(arguments.write, new.encode("utf-8"))


if __name__ == "__main__":
    main()
