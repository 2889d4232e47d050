"""Write ORL's neighbours, proposals and correspondences as the JSON files that the published code reads.

python -m tools.orl_json STAGE2_FOLDER --dataset_dir DIR [--split train] [--proposals ss_fast] --out DIR
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.correspondence import Correspondence, load_correspondence
from data.listing import ImageList, find_images
from data.orl_export import write_correspondence, write_neighbours, write_proposals
from data.proposals import proposal_path, read_proposals
from utils.cli import shows_errors
from utils.errors import DataError


def write_files(
    out: str | Path, images: ImageList, correspondence: Correspondence, *, proposal_dir: str | Path, proposals: str
) -> list[Path]:
    """Write the three files, named as the published ones: train2017_10nn_instance.json and so on.

    Args:
        out: the folder; the names begin with that of the images' folder where it is SPLIT or SPLIT2017, else with SPLIT.
        images: N images.
        correspondence: of these images.
        proposal_dir: holds PROPOSALS/SPLIT/IMAGE_PATH.npy, all proposals of every image.
        proposals: their type, such as ss_fast.
    Returns:
        Neighbours, proposals, correspondences.
    Raises:
        DataError: another number of images, or the proposals of an image are missing. Where there are none at all, since they
            came from a file, that file is not written again.
    """
    N, K = correspondence.neighbours.shape
    if len(images) != N:
        where = correspondence.folder or "the correspondence"
        raise DataError(
            f"{where} is of {N} images, {images.root} has {len(images)}: give the split and subset it is of"
        )
    name = images.root.name if images.root.name == f"{images.split}2017" else images.split
    ends = (f"{K}nn_instance", "selective_search_proposal", f"{K}nn_instance_correspondence")
    paths = [Path(out) / f"{name}_{end}.json" for end in ends]
    write_neighbours(paths[0], images, correspondence.neighbours, {})
    write_correspondence(paths[2], images, correspondence, {})
    if not Path(proposal_dir, proposals).is_dir():
        return [paths[0], paths[2]]
    write_proposals(
        paths[1], images, _all_proposals(images, correspondence, Path(proposal_dir), proposals), {"type": proposals}
    )
    return paths


def _all_proposals(
    images: ImageList, correspondence: Correspondence, proposal_dir: Path, proposals: str
) -> Iterator[np.ndarray]:
    for index, kept in enumerate(correspondence.boxes):
        path = proposal_path(proposal_dir, proposals, images.split, images.name(index))
        # An image that cannot be read has no proposals, and stage 2 kept none of it.
        yield np.empty((0, 4), np.uint16) if len(kept) == 0 and not path.exists() else read_proposals(path)


@shows_errors
def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage2", metavar="STAGE2_FOLDER", help="holds boxes.npy, neighbours.npy, pairs.npy")
    parser.add_argument("--dataset_dir", required=True, help="as data.image_dir in the config")
    parser.add_argument("--split", default="train")
    parser.add_argument("--subset", help="as data.subset in the config")
    parser.add_argument("--proposals", default="ss_fast", metavar="TYPE", help="the proposals that stage 2 took")
    parser.add_argument("--proposal_dir", metavar="DIR", help="by default DATASET_DIR/proposals")
    parser.add_argument("--out", required=True, metavar="DIR")
    arguments = parser.parse_args(argv)
    images = find_images(arguments.dataset_dir, split=arguments.split, subset=arguments.subset)
    proposal_dir = arguments.proposal_dir or Path(arguments.dataset_dir) / "proposals"
    correspondence = load_correspondence(arguments.stage2)
    options = {"proposal_dir": proposal_dir, "proposals": arguments.proposals}
    for path in write_files(arguments.out, images, correspondence, **options):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
