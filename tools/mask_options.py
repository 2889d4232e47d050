"""The command line of `tools.make_masks`: its options, and the makers that they ask for."""

import argparse

from data.coco_masks import Coco
from data.listing import ImageList, find_images
from data.mask_makers import FH, Grid, Ground, Maker, OpenCVFH, Slic, maker_of
from data.pickled_masks import find_pickles
from tools.jobs import add_dataset_arguments, add_job_arguments
from utils.errors import UserError

# What each kind of maps listens to.
_OPTIONS = {
    "fh": ("scales", "min_sizes"),
    "fh_opencv": ("scales", "min_sizes"),
    "slic": ("segments", "size"),
    "grid": ("grid",),
    "ground": ("ground_dir", "ground_name", "name"),
    "coco": ("annotations",),
}
# How the published DetCon-B calls them at the end of its pickles' names.
_PICKLES = {"fh": "fh", "grid": "patch", "ground": "ground"}


def parse_arguments(argv: list[str] | None, *, description: str) -> argparse.Namespace:
    """Parse, and refuse options that the kind of maps does not listen to."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_dataset_arguments(parser, folder="masks")
    parser.add_argument(
        "--mask_type",
        default="fh",
        help=f"fh by default; {', '.join(_OPTIONS)}; or a folder's name, such as fh_s500_m100, slic100_224",
    )
    fh = parser.add_argument_group("fh, fh_opencv", "several at once are made in one reading of the images")
    fh.add_argument("--scales", type=float, nargs="+", help="1000; larger makes larger segments")
    fh.add_argument("--min_sizes", type=int, nargs="+", help="1000 pixels; one for all scales, or one a scale")
    slic = parser.add_argument_group("slic")
    slic.add_argument("--segments", type=int, help="100 superpixels that SLIC is asked for")
    slic.add_argument("--size", type=int, help="224, the side of the maps in pixels; 0 for the images' own sizes")
    grid = parser.add_argument_group("grid")
    grid.add_argument("--grid", type=int, nargs=2, metavar=("ROWS", "COLUMNS"), help="3 3")
    ground = parser.add_argument_group("ground", "copies of label images; {split} stands for the split's name")
    ground.add_argument("--ground_dir", help="where the label images lie")
    ground.add_argument("--ground_name", help="their paths below it: '{stem}.png', {stem} the image's without suffix")
    ground.add_argument("--name", help="the maps' folder: ground")
    coco = parser.add_argument_group("coco")
    coco.add_argument("--annotations", help="instances_*.json; {split} stands for the split's name")
    other = parser.add_argument_group("other work")
    other.add_argument(
        "--import_pickles",
        metavar="PATH",
        help="convert the published DetCon-B's pickles: list or folder; {split} stands for the split's name",
    )
    mode = other.add_mutually_exclusive_group()
    mode.add_argument("--verify", action="store_true", help="look through the maps that are there, make none")
    mode.add_argument(
        "--repair", action="store_true", help="look through them, and make again what is missing or wrong"
    )
    add_job_arguments(parser)
    arguments = parser.parse_args(argv)
    _check_options(parser, arguments)
    return arguments


def chosen_types(arguments: argparse.Namespace) -> list[str]:
    """The names of the maps' folders."""
    return ["coco"] if arguments.mask_type == "coco" else [maker.type for maker in _makers(arguments, split="")]


def chosen_makers(arguments: argparse.Namespace, images: ImageList) -> list[Maker]:
    """What makes the maps of a split.

    Raises:
        DataError: what they are to be made of is not there.
    """
    if arguments.import_pickles is None:
        return _makers(arguments, split=images.split)
    # Names must be told apart among all images, not only those of a subset.
    every = find_images(arguments.dataset_dir, split=images.split) if arguments.subset else images
    place = arguments.import_pickles.replace("{split}", images.split)
    return [find_pickles(place, every, kind=_PICKLES[arguments.mask_type], type=one) for one in chosen_types(arguments)]


def _makers(arguments: argparse.Namespace, *, split: str) -> list[Maker]:
    kind = arguments.mask_type
    if kind in ("fh", "fh_opencv"):
        pairs = _pairs(arguments.scales or [1000], arguments.min_sizes or [1000])
        return [{"fh": FH, "fh_opencv": OpenCVFH}[kind](scale=scale, min_size=size) for scale, size in pairs]
    if kind == "slic":
        size = 224 if arguments.size is None else arguments.size or None
        return [Slic(segments=100 if arguments.segments is None else arguments.segments, size=size)]
    if kind == "grid":
        return [Grid(*(arguments.grid or (3, 3)))]
    if kind == "ground":
        folder, template = arguments.ground_dir or "", arguments.ground_name or "{stem}.png"
        return [Ground(folder, template.replace("{split}", split), type=arguments.name or "ground")]
    if kind == "coco":
        return [Coco(arguments.annotations.replace("{split}", split))]
    return [maker_of(kind)]


def _pairs(scales: list[float], min_sizes: list[int]) -> list[tuple[float, int]]:
    count = max(len(scales), len(min_sizes))
    for name, values in (("--scales", scales), ("--min_sizes", min_sizes)):
        if len(values) not in (1, count):
            raise UserError(f"{name}: {len(values)} values where 1 or {count} are needed")
    return list(zip(scales * (count // len(scales)), min_sizes * (count // len(min_sizes))))


def _check_options(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    kind = arguments.mask_type
    heard = _OPTIONS.get(kind, ())
    for option in sorted({option for options in _OPTIONS.values() for option in options}):
        if getattr(arguments, option) is not None and option not in heard:
            parser.error(f"--{option} does nothing with --mask_type {kind}")
    for needed in {"ground": ["ground_dir"], "coco": ["annotations"]}.get(kind, []):
        is_made = not arguments.verify and arguments.import_pickles is None
        if is_made and getattr(arguments, needed) is None:
            parser.error(f"--mask_type {kind} needs --{needed}")
    if arguments.import_pickles is not None:
        if kind not in _PICKLES:
            parser.error(f"--import_pickles goes with --mask_type {', '.join(_PICKLES)}, not {kind}")
        if arguments.verify:
            parser.error("--verify goes without --import_pickles")
