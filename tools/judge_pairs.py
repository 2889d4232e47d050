"""How often the pairs of boxes that ORL's second stage found show the same class, beside chance.

python -m tools.judge_pairs runs/orl/TIME/stage2 [--dataset_dir demo_data]
"""

import argparse
import sys
from pathlib import Path

from data.correspondence import load_correspondence
from data.listing import find_images
from evaluation.pair_classes import PairScores, read_objects, same_class_share
from utils.cli import shows_errors
from utils.errors import DataError
from utils.files import read_json


def judge_pairs(stage_2: Path, dataset_dir: Path, *, split: str = "train", subset: str | None = None) -> PairScores:
    """Score pairs by the objects that are annotated in their images.

    Args:
        stage_2: the folder of ORL's second stage.
        dataset_dir: the images it was made of, with annotations/instances_SPLIT.json, or instances_SPLIT2017.json as COCO's.
        split, subset: as data.split and data.subset in the run's config.
    Raises:
        DataError: no such pairs or annotations, or of other images.
    """
    images, correspondence = find_images(dataset_dir, split=split, subset=subset), load_correspondence(stage_2)
    if read_json(stage_2 / "meta.json")["listing"] != images.listing_hash:
        raise DataError(
            f"{stage_2}: made of other images than the {len(images)} of {images.root}: give --dataset_dir, --split and --subset "
            "as it was made"
        )
    names = [dataset_dir / "annotations" / f"instances_{name}.json" for name in (split, f"{split}2017")]
    return same_class_share(correspondence, read_objects(next(filter(Path.is_file, names), names[0]), images))


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage_2", type=Path, help="the stage2 folder of an ORL run")
    parser.add_argument(
        "--dataset_dir", type=Path, default=Path("demo_data"), help="its images, with COCO's annotations"
    )
    parser.add_argument("--split", default="train")
    parser.add_argument("--subset", help="as data.subset in the config")
    arguments = parser.parse_args(argv)
    print(judge_pairs(arguments.stage_2, arguments.dataset_dir, split=arguments.split, subset=arguments.subset))
    return 0


if __name__ == "__main__":
    sys.exit(main())
