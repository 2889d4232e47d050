"""How often the pairs of boxes that ORL's second stage found show the same class, beside chance.

python -m tools.judge_pairs runs/orl/TIME/stage2 [--data_dir demo_data]
"""

import argparse
import sys
from pathlib import Path

from data.correspondence import load_correspondence
from data.listing import find_images
from evaluation.pair_classes import PairScores, read_objects, same_class_share
from utils.cli import shows_errors
from utils.errors import DataError


def judge_pairs(stage_2: Path, data_dir: Path, *, split: str = "train") -> PairScores:
    """Score pairs by the objects that are annotated in their images.

    Args:
        stage_2: the folder of ORL's second stage.
        data_dir: the images it was made of, with annotations/instances_SPLIT.json in COCO's format.
    Raises:
        DataError: no such pairs or annotations, or of other images.
    """
    images, correspondence = find_images(data_dir, split=split), load_correspondence(stage_2)
    if len(correspondence) != len(images):
        raise DataError(
            f"{stage_2}: made of {len(correspondence)} images, but {images.root} has {len(images)}: give --data_dir and --split "
            "as it was made"
        )
    return same_class_share(correspondence, read_objects(data_dir / "annotations" / f"instances_{split}.json", images))


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage_2", type=Path, help="the stage2 folder of an ORL run")
    parser.add_argument("--data_dir", type=Path, default=Path("demo_data"), help="its images, with COCO's annotations")
    parser.add_argument("--split", default="train")
    arguments = parser.parse_args(argv)
    print(judge_pairs(arguments.stage_2, arguments.data_dir, split=arguments.split))
    return 0


if __name__ == "__main__":
    sys.exit(main())
