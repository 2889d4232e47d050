"""Sheets of the regions that runs of the learning benchmark made, epoch by epoch: scenes evenly chosen, and the worst ones."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.label_maps import LabelMapError, missing_label_maps
from data.masked_views import MaskFolder
from evaluation.mask_quality import ScoreMap
from evaluation.truths import Truth, find_truth
from tools.pictures import save_flat, spread
from tools.run_masks import RunMasks, find_run_masks
from tools.visualize_masks import generation_sheet, spread_over
from utils.errors import UserError
from utils.files import write_json

SHOWN = ("r2o", "cyborgs")
_ROWS = 6
_COLUMNS = 8  # of label maps, at most
_COLOURS = 256
# Images of which the worst are found, evenly spaced over those that have label maps.
_JUDGED = 1000
# Types of what a run made itself.
_OWN = ("epoch_", "gen_")

_log = logging.getLogger(__name__)


def draw_galleries(runs: Path, folder: Path, size: str) -> list[dict[str, Any]]:
    """Draw SIZE_NAME.png and SIZE_NAME_worst.png of each run of SHOWN whose label maps are there, and note them.

    Args:
        runs: the size's folder of runs; of a run the lowest seed with label maps is drawn.
        folder: gets the sheets, and SIZE_galleries.json; earlier sheets of runs that have none now are removed.
    Returns:
        An entry a sheet: its file, run, seed, kind ("even" or "worst"), the columns' types, and of each scene its name and best
        IoU in the last column; the "worst" say of how many.
    """
    entries = []
    for name in SHOWN:
        for kind in ("even", "worst"):
            (folder / f"{size}_{name}_{kind}.png").unlink(missing_ok=True)
        entries += _of_run(sorted((runs / name).glob("seed*")), folder, f"{size}_{name}")
    write_json(folder / f"{size}_galleries.json", entries)
    return entries


def _of_run(seeds: list[Path], folder: Path, prefix: str) -> list[dict[str, Any]]:
    """The entries of the first seed that has sheets."""
    for seed in seeds:
        try:
            masks = find_run_masks(seed / "pretrain")
            own = [one for one in masks.folders if one.mask_type.startswith(_OWN)]
            if own:
                return _sheets(masks, own, folder, prefix, seed)
        except UserError as error:
            _log.warning("no gallery of %s: %s", seed, error)
    return []


def _sheets(masks: RunMasks, own: list[MaskFolder], folder: Path, prefix: str, seed: Path) -> list[dict[str, Any]]:
    given = [one for one in masks.folders if one not in own]
    columns = [*given, *spread_over(own, _COLUMNS - len(given))]
    truth = find_truth(masks.dataset_dir, masks.images.split)
    fits = best_overlap_of_each(masks, own[-1], truth)
    if not fits:
        raise UserError(f"{Path(*own[-1])}: no label map of an image with objects there")
    indices = list(fits)
    chosen = {
        "even": [indices[place] for place in np.unique(spread(_ROWS, len(indices)))],
        "worst": sorted(indices, key=fits.get)[:_ROWS],
    }
    entries = []
    for kind, scenes in chosen.items():
        file = f"{prefix}_{kind}.png"
        sheet = generation_sheet(masks.images, columns, scenes, truth=truth)
        save_flat(Image.fromarray(sheet), folder / file, colours=_COLOURS)
        entries.append(
            {
                "file": file,
                "run": seed.parent.name,
                "seed": int(seed.name.removeprefix("seed")),
                "kind": kind,
                "columns": [one.mask_type for one in columns],
                "scenes": [{"image": masks.images.name(i), "best IoU": round(fits[i], 4)} for i in scenes],
                "of": len(fits),
            }
        )
    return entries


def best_overlap_of_each(masks: RunMasks, folder: MaskFolder, truth: Truth) -> dict[int, float]:
    """Best IoU of images that have a label map in a folder and an object, by their index: the mean over their objects."""
    score = ScoreMap(masks.images, *folder, truth)
    where = Path(*folder, masks.images.split)
    without = set(missing_label_maps(where, masks.images))
    made, fits = [index for index in range(len(masks.images)) if index not in without], {}
    for place in spread(min(_JUDGED, len(made)), len(made)):
        try:
            found = score(made[place])
        except LabelMapError as error:
            _log.warning("left out: %s", error)
            continue
        if found.objects:
            fits[made[place]] = found.overlap / found.objects
    return fits
