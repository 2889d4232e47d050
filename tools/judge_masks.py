"""How well a run's label maps fit the objects in its images, generation by generation, of R2O epoch by epoch.

python -m tools.judge_masks runs/cyborgs/TIME [--limit 1000]
python -m tools.region_maps runs/r2o/TIME && python -m tools.judge_masks runs/r2o/TIME

Keeps the figures as RUN/mask_quality.json.
"""

import argparse
import sys
from pathlib import Path

from evaluation.map_scores import MaskQuality
from evaluation.mask_quality import format_scores, score_complete, write_scores
from evaluation.truths import Truth, add_truth_arguments, chosen_truth, find_truth, naming_truth_options
from tools.pictures import spread
from tools.run_masks import find_run_masks
from utils.cli import positive, shows_errors


def judge_masks(
    run: Path, *, truth: Truth | None = None, limit: int | None = None, split: str | None = None
) -> dict[str, MaskQuality]:
    """Score each generation, or epoch, of a run that is complete, the first one under its type's name.

    Args:
        run: its folder; config.yaml there says which images.
        truth: by default what lies beside the images, as `find_truth` finds it.
        limit: so many images, evenly spaced over the listing; None for all.
        split: by default what the run was trained on.
    Raises:
        UserError: no run, or no label maps; DataError: no truth, or of other images.
    """
    dataset_dir, images, folders = find_run_masks(run, split=split)
    truth = truth or find_truth(dataset_dir, images.split)
    indices = spread(min(limit or len(images), len(images)), len(images))
    return score_complete(images, folders, truth, indices=indices)


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run's folder")
    add_truth_arguments(parser)
    parser.add_argument("--limit", type=positive, metavar="N", help="only N images, evenly spaced over the listing")
    parser.add_argument("--split", help="by default what the run was trained on")
    arguments = parser.parse_args(argv)
    options = {"limit": arguments.limit, "split": arguments.split}
    with naming_truth_options():
        scores = judge_masks(arguments.run, truth=chosen_truth(arguments), **options)
    write_scores(arguments.run / "mask_quality.json", scores)
    print(format_scores(scores))
    return 0


if __name__ == "__main__":
    sys.exit(main())
