"""How well a run's label maps fit the objects in its images, generation by generation.

python -m tools.judge_masks runs/cyborgs/TIME [--limit 1000]
"""

import argparse
import sys
from pathlib import Path

from evaluation.map_scores import MaskQuality
from evaluation.mask_quality import format_scores, score_complete
from evaluation.truths import Truth, add_truth_arguments, chosen_truth, find_truth, naming_truth_options
from tools.pictures import spread
from tools.visualize_masks import find_run_masks
from utils.cli import positive, shows_errors


def judge_masks(run: Path, *, truth: Truth | None = None, limit: int | None = None) -> dict[str, MaskQuality]:
    """Score each generation of a run that is complete, the first one under its type's name.

    Args:
        run: its folder; config.yaml there says which images.
        truth: by default what lies beside the images, as `find_truth` finds it.
        limit: so many images, evenly spaced over the listing; None for all.
    Raises:
        UserError: no run, or no label maps; DataError: no truth, or of other images.
    """
    dataset_dir, images, folders = find_run_masks(run)
    truth = truth or find_truth(dataset_dir, images.split)
    indices = spread(min(limit or len(images), len(images)), len(images))
    return score_complete(images, folders, truth, indices=indices)


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run's folder")
    add_truth_arguments(parser)
    parser.add_argument("--limit", type=positive, metavar="N", help="only N images, evenly spaced over the listing")
    arguments = parser.parse_args(argv)
    with naming_truth_options():
        scores = judge_masks(arguments.run, truth=chosen_truth(arguments), limit=arguments.limit)
    print(format_scores(scores))
    return 0


if __name__ == "__main__":
    sys.exit(main())
