"""Long jobs over many images: all cores, shards, progress, and what failed."""

import argparse
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

import cv2
import torch

from data.image_list import File
from data.images import UnreadableImage
from data.listing import ImageList, find_images
from utils.cli import positive
from utils.cores import available_cores
from utils.distributed import barrier, on_main, rank, world_size
from utils.errors import StorageError, UserError, explains_killed_workers
from utils.progress import ProgressBar

_log = logging.getLogger(__name__)
_MAX_CHUNK = 64
_NAMED_FAILURES = 20


class ItemFailed(Exception):
    """An item that cannot be made, for the list of failures; names the file and the reason."""

    def __init__(self, path: str | File, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = str(path), reason


class Interrupted(UserError):
    """The user pressed Ctrl-C."""

    exit_code = 128 + signal.SIGINT


@dataclass
class Summary:
    """What a job did.

    Attributes:
        done: how many items were made.
        skipped: how many were there already.
        failures: (path, reason) of the items that cannot be made, such as images that cannot be read.
    """

    done: int = 0
    skipped: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        counts = f"{self.done} made, {self.skipped} there already, {len(self.failures)} failed"
        return "\n".join([counts, *self.failure_lines()])

    def failure_lines(self) -> list[str]:
        """One a failure; the twenty-first says how many are not named."""
        lines = [f"  {path}: {reason}" for path, reason in self.failures[:_NAMED_FAILURES]]
        if len(self.failures) > _NAMED_FAILURES:
            lines.append(f"  and {len(self.failures) - _NAMED_FAILURES} more")
        return lines


def run_job(
    make: Callable[[int], bool],
    items: Sequence[int],
    *,
    workers: int | None = None,
    skipped: int = 0,
    desc: str,
) -> Summary:
    """Call `make` on every item, on all cores.

    Args:
        make: takes an item, says whether it had to be made; an UnreadableImage or ItemFailed is a failure of that
            item, any other exception stops the job. It is pickled once a worker.
        items: what is left to do; a job that was stopped is resumed by leaving out what it made.
        workers: processes, one thread each; None takes this process' share of the cores.
        skipped: how many were there already, for the progress and the summary.
        desc: what is counted, such as "superpixels".
    Raises:
        Interrupted: Ctrl-C.
        UserError: a worker was killed.
    """
    workers = min(workers or available_cores(), max(1, len(items)))
    summary = Summary(skipped=skipped)
    try:
        with _one_thread(), ProgressBar(skipped + len(items), initial=skipped, desc=desc) as bar:
            for number, result in enumerate(_results(make, items, workers), start=skipped + 1):
                if isinstance(result, bool):
                    summary.done += result
                    summary.skipped += not result
                else:
                    summary.failures.append(result)
                bar.update(number)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; the same command goes on where this one stopped") from None
    return summary


def make_together(folder: Path, make: Callable[[tuple[int, int]], Summary], *, lacks: str) -> None:
    """Make what a run lacks, all processes together, and wait until it is there.

    Disks may be shared by all nodes or each node's own: what is missing after every process did its share of the
    whole is made once more by the processes of a node.

    Args:
        folder: where it goes; made first.
        make: takes a shard (i, n) and makes what is missing of it, if anything.
        lacks: what an image that failed has none of, for the warnings.
    Raises:
        UserError: the folder cannot be written to, or as `make`.
    """
    on_main(lambda: _make_folder(folder))
    local = (int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    for shard in ((rank(), world_size()), local):
        for path, reason in make(shard).failures:
            _log.warning("%s: no %s: %s", path, lacks, reason)
        barrier()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Errors of the disk as the user needs them."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path}: {error.strerror or error}: make room, or choose a place that can be written to (--output_dir of a tool, "
            "data.mask_dir and the like in a config), and start again: it goes on"
        ) from error


def _make_folder(folder: Path) -> None:
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def parse_shard(text: str) -> tuple[int, int]:
    """`i/n`, 0 <= i < n, as a command line gives it."""
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and int(part) < int(parts)):
        raise argparse.ArgumentTypeError(f"{text}: must be i/n with 0 <= i < n, such as 0/4")
    return int(part), int(parts)


def add_dataset_arguments(parser: argparse.ArgumentParser, *, folder: str) -> None:
    """Add --dataset_dir, --output_dir, --split and --subset: of which images, and where what is made of them goes.

    Args:
        folder: the name below DATASET_DIR where it goes by default.
    """
    parser.add_argument("--dataset_dir", required=True, help="the images, as data.image_dir in a config")
    parser.add_argument("--output_dir", help=f"files go to OUTPUT_DIR/TYPE/SPLIT; by default to DATASET_DIR/{folder}")
    parser.add_argument("--split", nargs="+", default=["train"])
    parser.add_argument("--subset", help="as data.subset in a config")


def find_listings(arguments: argparse.Namespace) -> list[ImageList]:
    """The images of each --split: all are looked for before hours go into the first."""
    return [find_images(arguments.dataset_dir, split=one, subset=arguments.subset) for one in arguments.split]


def add_job_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --workers and --shard; the latter is by default this process' place under torchrun, else everything."""
    place = f"{os.environ.get('RANK', 0)}/{os.environ.get('WORLD_SIZE', 1)}"
    parser.add_argument("--workers", type=positive, help="processes; by default all cores")
    parser.add_argument("--shard", type=parse_shard, default=place, metavar="i/n", help="do the i-th of n parts")


@contextmanager
def _one_thread() -> Iterator[None]:
    """OpenCV without its threads: a worker forked from a process that has some would wait for them for ever."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


# What became of an item: whether it had to be made, or the file that failed and why.
_Result = bool | tuple[str, str]


def _results(make: Callable[[int], bool], items: Sequence[int], workers: int) -> Iterator[_Result]:
    """What became of each item, in order."""
    if workers == 1:
        yield from (_make_one(make, item) for item in items)
        return
    size = max(1, min(_MAX_CHUNK, len(items) // (workers * 4)))
    chunks = [items[start : start + size] for start in range(0, len(items), size)]
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context(), initializer=_start_worker, initargs=(make,))
    message = "a worker process was killed, perhaps for lack of memory: start again with fewer --workers, it goes on"
    try:
        with explains_killed_workers(message):
            for results in pool.map(_make_chunk, chunks):
                yield from results
    finally:
        pool.shutdown(cancel_futures=True)


def _make_one(make: Callable[[int], bool], item: int) -> _Result:
    try:
        return make(item)
    except (UnreadableImage, ItemFailed) as error:
        return error.path, error.reason


# A worker's own, set as it starts: passing it with every chunk would copy the listing each time.
_make: Callable[[int], bool] | None = None


def _start_worker(make: Callable[[int], bool]) -> None:
    global _make
    _make = make
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    # Ctrl-C reaches all processes: the first one answers for all, and waits for none.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose first process was killed would wait for work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _make_chunk(items: Sequence[int]) -> list[_Result]:
    return [_make_one(_make, item) for item in items]
