"""Find the proposals of a split's images once: boxes that may hold an object, by OpenCV's fast selective search.

    python -m tools.make_proposals --dataset_dir DIR [--max_side 500] [--split train val]

All cores; again after a kill, it goes on; under torchrun, or with --shard i/n, each process does its part.
"""

import argparse
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from data.derived import is_complete, lacking_files, missing_files, read_meta, write_meta
from data.images import read_image
from data.listing import ImageList
from data.proposals import (
    SUFFIX,
    ProposalError,
    find_defect,
    proposal_path,
    proposal_type,
    selective_search,
    write_proposals,
)
from tools.jobs import (
    ItemFailed,
    Summary,
    add_dataset_arguments,
    add_job_arguments,
    find_listings,
    make_together,
    run_job,
    writing,
)
from utils.cli import positive, shows_errors
from utils.errors import DataError
from utils.files import remove_leftovers

_log = logging.getLogger(__name__)


def make_proposals(
    images: ImageList,
    proposal_dir: str | Path,
    *,
    max_side: int | None = None,
    workers: int | None = None,
    shard: tuple[int, int] = (0, 1),
    repair: bool = False,
) -> Summary:
    """Find the proposals that are missing of a shard; those that are there are never touched, as their order is theirs.

    Args:
        images: the listing; every process of a shard needs the same.
        proposal_dir: proposals go to PROPOSAL_DIR/TYPE/SPLIT.
        max_side: as in `data.proposals.selective_search`; tells the type.
        workers: processes; None for this process' share of the cores.
        shard: (i, n): this process does every n-th image from the i-th on. The process that ends last notes that the
            listing is complete.
        repair: look through the files that are there, and make the damaged ones again.
    Returns:
        How many images were done and were there already; images that cannot be read are its failures.
    Raises:
        UserError: the folder cannot be written to.
    """
    folder = Path(proposal_dir, proposal_type(max_side), images.split)
    part, parts = shard
    mine = range(part, len(images), parts)
    todo = list(mine) if repair else sorted(set(missing_files(folder, images, suffix=SUFFIX)).intersection(mine))
    # Before the first file: a folder that cannot be written to is told at once.
    if todo and not read_meta(folder):
        _note(folder, None, max_side)
    desc = folder.parent.name + ("" if parts == 1 else f" (shard {part}/{parts})")
    task = MakeProposals(images, Path(proposal_dir), max_side, repair)
    summary = run_job(task, todo, workers=workers, skipped=len(mine) - len(todo), desc=desc)
    if not is_complete(folder, images) and next(lacking_files(folder, images, suffix=SUFFIX), None) is None:
        _note(folder, images, max_side)
        remove_leftovers(folder)
    return summary


@dataclass(frozen=True)
class MakeProposals:
    """Finds one image's proposals, by its index, unless they are there.

    Attributes:
        images, proposal_dir, max_side, repair: as in `make_proposals`.
    """

    images: ImageList
    proposal_dir: Path
    max_side: int | None
    repair: bool

    def __call__(self, index: int) -> bool:
        name, path = self.images.name(index), self.images.path(index)
        target = proposal_path(self.proposal_dir, proposal_type(self.max_side), self.images.split, name)
        if target.exists():
            defect = find_defect(target, path) if self.repair else None
            if defect is None:
                return False
            _log.warning("%s: %s: made again", target, defect)
        try:
            boxes = selective_search(read_image(path), max_side=self.max_side)
        except ProposalError as error:
            raise ItemFailed(path, str(error)) from error
        with writing(target):
            write_proposals(target, boxes)
        return True


def ensure_proposals(images: ImageList, proposal_dir: str | Path, *, max_side: int | None) -> None:
    """Find what a run lacks, all processes together, and wait until it is there; failures are warnings.

    Raises:
        UserError: as `make_proposals`.
    """
    folder = Path(proposal_dir, proposal_type(max_side), images.split)

    def make(shard: tuple[int, int]) -> Summary:
        if is_complete(folder, images):
            return Summary()
        return make_proposals(images, proposal_dir, max_side=max_side, shard=shard)

    make_together(Path(proposal_dir), make, lacks="proposals")


def _note(folder: Path, images: ImageList | None, max_side: int | None) -> None:
    versions = {module.__name__: module.__version__ for module in (cv2, np)}
    with writing(folder):
        parameters = {"method": "fast", "max_side": max_side}
        write_meta(folder, images, tool="make_proposals", parameters=parameters, versions=versions)


@shows_errors
def main(argv: list[str] | None = None) -> int:
    """The command line; exit code 3 where an image has no proposals at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_dataset_arguments(parser, folder="proposals")
    parser.add_argument(
        "--max_side",
        type=positive,
        metavar="N",
        help="search images shrunk so that the longer side has N pixels: bounds the time that large photographs take",
    )
    parser.add_argument(
        "--repair", action="store_true", help="look through what is there, and make again what is wrong"
    )
    add_job_arguments(parser)
    arguments = parser.parse_args(argv)
    folder = arguments.output_dir or Path(arguments.dataset_dir, "proposals")
    failures = 0
    for images in find_listings(arguments):
        summary = make_proposals(
            images,
            folder,
            max_side=arguments.max_side,
            workers=arguments.workers,
            shard=arguments.shard,
            repair=arguments.repair,
        )
        print(f"{proposal_type(arguments.max_side)}, {images.split}: {summary}")
        failures += len(summary.failures)
    return DataError.exit_code if failures else 0


if __name__ == "__main__":
    sys.exit(main())
