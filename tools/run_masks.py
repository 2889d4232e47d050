"""Where the label maps of a run lie: those that it began with, and those that it made or that were made of it."""

from pathlib import Path
from typing import NamedTuple

import yaml

from data.label_maps import find_mask_dir, generation_type
from data.listing import ImageList, find_images
from data.masked_views import MaskFolder
from data.superpixels import superpixel_type
from utils.errors import UserError
from utils.files import read_json, write_json


class RunMasks(NamedTuple):
    """The label maps of a run.

    dataset_dir: data.image_dir of its config.
    images: the listing, or those of it that the maps were made for.
    folders: one a generation, from the first on; of R2O, the superpixels and one an epoch.
    """

    dataset_dir: Path
    images: ImageList
    folders: list[MaskFolder]


def find_run_masks(run: Path, *, split: str | None = None) -> RunMasks:
    """What a run's folder says of its masks.

    Args:
        split: by default what the run was trained on.
    Raises:
        UserError: no run, or a run without label maps; DataError where its images are not there.
    """
    settings = read_config(run)["data"]
    images = find_images(settings["image_dir"], split=split or settings["split"], subset=settings["subset"])
    folders = find_generations(run, settings, images)
    if not folders:
        raise UserError(
            f"{run}: neither data.mask_type of its config.yaml nor {run}/masks holds label maps to show; those of an R2O run are "
            f"made with `python -m tools.region_maps {run}`"
        )
    return RunMasks(Path(settings["image_dir"]), _with_maps(run, images), folders)


def read_config(run: Path) -> dict:
    """The config of a run.

    Raises:
        UserError: no run there.
    """
    if not (run / "config.yaml").is_file():
        raise UserError(f"{run}: no config.yaml there; give the folder of a run, of ORL's run a stage's")
    return yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))


def find_generations(run: Path, settings: dict, images: ImageList) -> list[MaskFolder]:
    """Where a run's first label maps lie, and those that it made.

    Args:
        settings: the `data` section of its config.
        images: the listing.
    """
    split = images.split
    patterns = ("gen_*", "epoch_*")
    made = sorted(path.parent.name for pattern in patterns for path in (run / "masks").glob(f"{pattern}/{split}"))
    folders = [MaskFolder(run / "masks", name) for name in made]
    first = settings.get("mask_type")
    # What the regions of R2O's epochs were made of; nothing to look at alone.
    if made and settings.get("superpixels") == "cached":
        first = superpixel_type(segments=settings["slic_segments"], size=settings["superpixel_size"])
    # A run that began with masks of its own has not looked at these.
    if first and generation_type(0) not in made:
        places = {"mask_dir": settings.get("mask_dir"), "image_dir": settings["image_dir"]}
        folders.insert(0, MaskFolder(find_mask_dir(images, first, **places), first))
    return [folder for folder in folders if images.held_maps(*folder) or Path(*folder, split).is_dir()]


def note_images(run: Path, images: ImageList, *, everyone: ImageList) -> None:
    """Note which images the maps of a run are made for, where these are not all of its listing, `everyone`."""
    note = _note(run, images.split)
    if len(images) < len(everyone):
        write_json(note, [images.name(index) for index in range(len(images))])
    else:
        note.unlink(missing_ok=True)


def _with_maps(run: Path, images: ImageList) -> ImageList:
    """Those of a listing that `note_images` named, or all."""
    note = _note(run, images.split)
    if not note.is_file():
        return images
    names = set(read_json(note))
    kept = [index for index in range(len(images)) if images.name(index) in names]
    if not kept:
        raise UserError(f"{note}: none of its images is in {images.root}; make the maps again: tools.region_maps {run}")
    return images.select(kept)


def _note(run: Path, split: str) -> Path:
    return run / "masks" / f"images_{split}.json"
