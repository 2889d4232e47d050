"""How fast images come from storage, as files of a folder and in shards: `python -m benchmarks.shards IMAGES_DIR`.

Copies of the images are laid out under --scratch as a folder with a label map each, and packed. Then readers, threads of one
process, read an epoch's images and maps, bytes alone: from the folder in the shuffled order, from the shards in that order, and
by windows (data.order). Forms take turns. Warm: all of it in the page cache. Cold: its pages are dropped before each pass, by
posix_fadvise, or with --drop_caches by the kernel, folders and inodes too (needs root; the whole machine's). What is read is
compared before anything is timed. --write renews the table between <!-- shards --> and <!-- end --> of a Markdown file.
"""

import argparse
import datetime
import hashlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.compare import alternate
from benchmarks.report import Report, make_parser, renewed
from benchmarks.storage import DROP_CACHES, OpenedFiles, disk_bytes, evict
from data.image_list import ImageList
from data.label_maps import label_map_file, label_map_path, write_label_map
from data.listing import find_images
from data.mask_makers import Grid
from data.orientation import upright_shape
from data.sampler import EpochSampler, Windows
from data.shard_index import list_tars, make_index
from data.shards import close_shards
from data.views import TwoViews, ViewSpec
from tools.make_shards import make_shards
from utils.cli import positive, shows_errors
from utils.cores import processor_name
from utils.errors import UserError
from utils.files import atomic_write_bytes

_MAP = Grid(3, 3)
_BATCH = 50


class Form(NamedTuple):
    """A way to read an epoch."""

    name: str
    images: ImageList
    mask_dir: Path
    order: list[int]

    def read(self, index: int) -> tuple[bytes, bytes]:
        """An image and its map."""
        labels = label_map_file(self.images, index, mask_dir=self.mask_dir, mask_type=_MAP.type)
        return self.images.path(index).read_bytes(), labels.read_bytes()

    def read_all(self, readers: int) -> int:
        """The bytes of an epoch."""
        with ThreadPoolExecutor(readers) as pool:
            # In pieces, since handing on each alone would take longer than reading it.
            pieces = [self.order[start : start + _BATCH] for start in range(0, len(self.order), _BATCH)]
            return sum(pool.map(lambda piece: sum(len(part) for one in map(self.read, piece) for part in one), pieces))


def lay_out(source: Path, scratch: Path, *, count: int) -> ImageList:
    """A folder of so many images in ten classes, each with its label map, made of those of `source` over and over."""
    originals = find_images(source)
    for number in range(count):
        original = originals.path(number % len(originals))
        path = scratch / "images" / "train" / f"class{number % 10}" / f"{number:06d}{Path(original.name).suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(original, path)
        labels = _MAP(np.empty(upright_shape(path)), "")
        write_label_map(
            label_map_path(scratch / "masks", _MAP.type, "train", f"{path.parent.name}/{path.name}"), labels
        )
    return find_images(scratch)


def make_forms(folder: ImageList, scratch: Path, *, shard: int, window: int) -> list[Form]:
    """The folder and the shards made of it, in the orders that training has."""
    make_shards(folder, scratch / "shards", {_MAP.type: scratch / "masks"}, images_per_shard=shard)
    packed = find_images(scratch / "shards")
    shuffled, windows = _order(folder, None), _order(packed, Windows(packed.shard_of, window))
    return [
        Form("folder", folder, scratch / "masks", shuffled),
        Form("shards, shuffled", packed, packed.root, shuffled),
        Form("shards, windows", packed, packed.root, windows),
    ]


def _order(images: ImageList, windows: Windows | None) -> list[int]:
    sampler = EpochSampler(len(images), batch_size=1, world_size=1, rank=0, seed=0, windows=windows)
    return [index for batch in sampler for _, index in batch]


def check(forms: Sequence[Form]) -> None:
    """Refuse to time forms that read something else."""
    digests = set()
    for form in forms:
        contents = b"".join(hashlib.sha256(part).digest() for index in sorted(form.order) for part in form.read(index))
        digests.add(contents)
    if len(digests) > 1:
        raise AssertionError("the folder and the shards do not hold the same")


def measure(
    forms: Sequence[Form], *, readers: int, repeats: int, before: Callable[[], None]
) -> dict[str, tuple[float, float]]:
    """Median seconds of an epoch, and MB that came from the disk, of each form; they take turns.

    Args:
        before: is called before each, and not timed.
    """
    seconds, megabytes = ({form.name: [] for form in forms} for _ in range(2))
    for _ in range(repeats):
        for form in forms:
            before()
            start, begin = disk_bytes(), time.perf_counter()
            form.read_all(readers)
            seconds[form.name].append(time.perf_counter() - begin)
            megabytes[form.name].append((disk_bytes() - start) / 1e6)
    return {one: (statistics.median(seconds[one]), statistics.median(megabytes[one])) for one in seconds}


def listing_seconds(scratch: Path) -> dict[str, float]:
    """Seconds until the images are known: of the folder, of the shards by their index, and by their tars' headers."""
    root = scratch / "shards" / "train"
    works = {
        "folder_seconds": lambda: find_images(scratch),
        "index_seconds": lambda: find_images(scratch / "shards"),
        "headers_seconds": lambda: make_index(root, list_tars(root)),
    }
    return {name: value / 1e3 for name, value in alternate(works, repeats=5).items()}


def decoding_rate(images: ImageList) -> float:
    """Images a second that one core reads, decodes and cuts two views of."""
    views, count = TwoViews(images, spec=ViewSpec(), seed=0), min(100, len(images))
    begin = time.perf_counter()
    for index in range(count):
        views[0, index]
    return count / (time.perf_counter() - begin)


def table(rows: Sequence[dict[str, Any]], arguments: argparse.Namespace) -> str:
    """The rows as Markdown."""
    heading = (
        f"{datetime.date.today().isoformat()}, {processor_name()}, {arguments.readers} readers, {arguments.images:,} images with "
        f"a map each, {arguments.shard} a shard, windows of {arguments.window} shards, median of {arguments.repeats} epochs."
    )
    lines = [
        heading,
        "",
        "| cache | form | images/s | to the folder | MB from disk | files opened |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for row in rows:
        numbers = f"{row['images_per_second']:,.0f} | {row['ratio']:.2f} | {row['disk_mb']:,.0f} | {row['opened']:,}"
        lines.append(f"| {row['cache']} | {row['what']} | {numbers} |")
    return "\n".join(lines)


def run(arguments: argparse.Namespace, report: Report, scratch: Path) -> None:
    folder = lay_out(arguments.images_dir, scratch, count=arguments.images)
    forms = make_forms(folder, scratch, shard=arguments.shard, window=arguments.window)
    check(forms)
    # Pages that wait to be written cannot be dropped.
    os.sync()
    files = [path for path in scratch.rglob("*") if path.is_file()]
    counter, opened = OpenedFiles(scratch), {}
    for form in forms:
        # Shards that an earlier form left open are not opened again.
        close_shards()
        with counter.counting():
            volume = form.read_all(arguments.readers)
        opened[form.name] = counter.opened
    print(f"{volume / 1e6:,.0f} MB an epoch; one core cuts two views of {decoding_rate(folder):,.0f} images/s of these")
    opening = listing_seconds(scratch)
    report.line(
        "listing: " + ", ".join(f"{name} {1e3 * value:.0f} ms" for name, value in opening.items()),
        **opening,
        what="listing",
    )
    cold = "cold (drop_caches)" if arguments.drop_caches else "cold (posix_fadvise)"
    options = {"readers": arguments.readers, "repeats": arguments.repeats}
    for cache in ("warm", cold):
        before = close_shards if cache == "warm" else lambda: evict(files, everything=arguments.drop_caches)
        found = measure(forms, before=before, **options)
        for name, (seconds, megabytes) in found.items():
            ratio = found["folder"][0] / seconds
            rate = arguments.images / seconds
            report.line(
                f"{cache}, {name}: {rate:,.0f} images/s, {ratio:.2f} of the folder's; {megabytes:,.0f} MB from disk, "
                f"{opened[name]:,} files opened",
                what=name,
                cache=cache,
                images=arguments.images,
                shard=arguments.shard,
                window=arguments.window,
                readers=arguments.readers,
                images_per_second=rate,
                ratio=ratio,
                disk_mb=megabytes,
                opened=opened[name],
            )


@shows_errors
def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = make_parser(__doc__)
    parser.add_argument("images_dir", type=Path, metavar="IMAGES_DIR", help="images, as data.image_dir")
    parser.add_argument("--images", type=positive, default=3000, help="of an epoch (3000)")
    parser.add_argument("--shard", type=positive, default=100, help="images a shard (100)")
    parser.add_argument("--window", type=positive, default=4, help="shards a window (4)")
    parser.add_argument("--readers", type=positive, default=4, help="threads that read (4)")
    parser.add_argument("--repeats", type=positive, default=5, help="passes of each form (5)")
    parser.add_argument(
        "--scratch", type=Path, help="where the copies are made for the time, on the storage in question"
    )
    parser.add_argument(
        "--drop_caches", action="store_true", help="cold: let the kernel drop all that it keeps of files"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="a Markdown file with the marks")
    arguments = parser.parse_args(argv)
    if arguments.drop_caches and not os.access(DROP_CACHES, os.W_OK):
        raise UserError(f"--drop_caches: {DROP_CACHES} may not be written to: be root there, or leave it out")
    if arguments.write:
        # Known before an hour of measuring.
        renewed(arguments.write, "shards", "")
    with Report("shards", arguments) as report, tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        run(arguments, report, Path(scratch))
        if arguments.write:
            text = renewed(arguments.write, "shards", table([row for row in report.rows if "cache" in row], arguments))
            atomic_write_bytes(arguments.write, text.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
