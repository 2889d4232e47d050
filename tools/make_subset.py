"""Write a list of images for data.subset: some classes, or a share of every class.

python -m tools.make_subset --image_dir DIR --classes 100 --out data/subsets/mine100.txt
python -m tools.make_subset --image_dir DIR --fraction 0.01 --out data/subsets/mine1p.txt
"""

import argparse
import sys
from collections import defaultdict

import numpy as np

from data.listing import ImageList, find_images
from utils.cli import shows_errors
from utils.errors import DataError
from utils.files import atomic_write_bytes
from utils.seeding import numpy_generator


def choose_classes(images: ImageList, *, count: int, seed: int) -> list[str]:
    """`count` random class names, sorted.

    Raises:
        DataError: the listing has fewer classes.
    """
    names = sorted({images.class_name(index) for index in range(len(images))} - {""})
    if len(names) < count:
        raise DataError(f"{images.root} has {len(names)} classes (folders), fewer than {count}")
    return sorted(numpy_generator(seed).choice(np.array(names), size=count, replace=False).tolist())


def choose_fraction(images: ImageList, *, fraction: float, seed: int) -> list[str]:
    """The relative paths of a random share in (0, 1] of each class, at least one image of each, sorted."""
    by_class = defaultdict(list)
    for index in range(len(images)):
        by_class[images.class_name(index)].append(images.name(index))
    rng, chosen = numpy_generator(seed), []
    for name in sorted(by_class):
        count = max(1, round(fraction * len(by_class[name])))
        chosen += rng.choice(np.array(by_class[name]), size=count, replace=False).tolist()
    return sorted(chosen)


@shows_errors
def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image_dir", required=True, help="as data.image_dir in a config")
    parser.add_argument("--split", default="train")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--classes", type=int, help="choose this many classes, all their images")
    kind.add_argument("--fraction", type=float, help="choose this share of every class' images, in (0, 1]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, help="the text file; in data/subsets/ its bare name can be given")
    arguments = parser.parse_args(argv)
    if arguments.classes is not None and arguments.classes < 1:
        parser.error(f"--classes must be at least 1, not {arguments.classes}")
    if arguments.fraction is not None and not 0 < arguments.fraction <= 1:
        parser.error(f"--fraction must lie in (0, 1], not {arguments.fraction}")
    images = find_images(arguments.image_dir, split=arguments.split)
    if arguments.classes is not None:
        lines = choose_classes(images, count=arguments.classes, seed=arguments.seed)
    else:
        lines = choose_fraction(images, fraction=arguments.fraction, seed=arguments.seed)
    atomic_write_bytes(arguments.out, ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"))
    print(f"{arguments.out}: {len(lines)} {'classes' if arguments.classes is not None else 'images'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
