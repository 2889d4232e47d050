"""Generations of label maps that a run makes of its own features, between epochs, all processes together."""

import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from data.derived import is_complete, read_meta, write_meta
from data.label_maps import generation_type, missing_label_maps
from data.listing import ImageList
from engine.checkpoint import weights_sha256
from engine.stop import stops_at_once
from models.backbone import Trunk
from tools.cluster_maps import Clustering, frozen_layers
from tools.group_maps import GroupMaps, why_unreadable
from tools.jobs import make_together, writing
from utils.distributed import barrier, gather_objects, is_main, rank, world_size
from utils.errors import UserError
from utils.files import TEMPORARY_PREFIX

_log = logging.getLogger(__name__)


def ensure_generation(
    images: ImageList,
    mask_dir: Path,
    number: int,
    trunk: Trunk,
    *,
    epoch: int,
    clustering: Clustering,
    workers: int,
    device: torch.device,
    may_make: bool = True,
) -> None:
    """Make the label maps of a generation unless they are there; all processes call it together.

    The trunk is left as it was. Images are clustered in groups, consecutive in the listing, each by one process: a map
    depends on its group alone, whatever the number of processes (on CPUs, of as many threads each: they round otherwise).
    Stopped at any moment, it goes on when called again with the same weights; maps of other weights or settings are removed
    and made anew.

    Args:
        images: the same on every process.
        mask_dir: maps go to MASK_DIR/gen_NNNN/SPLIT; a node that does not see the others' maps makes all of them itself.
        number: of the generation.
        trunk: whose features are clustered, with the weights and BatchNorm statistics of rank 0; on any device.
        epoch: the one that begins with this generation.
        workers: processes that read images, for each that computes.
        device: where features and clusters are computed.
        may_make: False where the weights have moved on since the generation was due: it must be there.
    Raises:
        UserError: on every process: maps cannot be written, or may not be made and are not there.
        ValueError: the trunk has no such layer.
    """
    folder = Path(mask_dir, generation_type(number), images.split)
    made_of = {"generation": number, "epoch": epoch, "listing": images.listing_hash, **asdict(clustering)}
    if may_make:
        layers = frozen_layers(trunk, clustering.layer, device=device)
        made_of["weights"] = weights_sha256(layers)
    if all(gather_objects(_is_made(folder, images, made_of))):
        return
    if not may_make:
        raise UserError(
            f"{folder}: the label maps of this generation are incomplete, or of other images or settings, and the weights that "
            f"they are made of have moved on: resume from the checkpoint of epoch {epoch}, which makes them (--resume PATH), "
            "or copy this folder of the run that the checkpoint comes from"
        )
    begin, job = time.monotonic(), GroupMaps(images, mask_dir, number, layers, clustering, workers, device)
    with stops_at_once():
        _in_turn(lambda: _make_room(folder, made_of))
        make_together(Path(mask_dir), job.make, lacks="label map")
        _raise_first(job.error)
        _in_turn(lambda: _note_complete(folder, images, made_of))
    made, uniform = np.sum(gather_objects((job.made, job.uniform)), axis=0)
    if is_main():
        seconds = time.monotonic() - begin
        _log.info("%s: %d label maps in %.1f s, %d of them one region alone", folder, made, seconds, uniform)


def _is_made(folder: Path, images: ImageList, made_of: dict) -> bool:
    return made_of.items() <= _noted(folder).items() and is_complete(folder, images)


def _noted(folder: Path) -> dict:
    return read_meta(folder).get("parameters", {})


def _make_room(folder: Path, made_of: dict) -> None:
    """Keep maps that were made of the same; remove others."""
    with writing(folder):
        if _noted(folder) == made_of:
            for leftover in folder.rglob(f"{TEMPORARY_PREFIX}*"):
                leftover.unlink(missing_ok=True)
            return
        if folder.exists():
            _log.info("%s: made of other weights or settings, or never finished: made anew", folder)
            # First, so that what a kill leaves of the maps belongs to nothing.
            (folder / "meta.json").unlink(missing_ok=True)
            shutil.rmtree(folder)
        _note(folder, None, made_of)


def _note_complete(folder: Path, images: ImageList, made_of: dict) -> None:
    """Note that every image that can be read has its map, and warn of the others."""
    if is_complete(folder, images):
        return
    reasons = {index: why_unreadable(images, index) for index in missing_label_maps(folder, images)}
    lacking = [images.name(index) for index, reason in reasons.items() if reason is None]
    if lacking:
        raise UserError(
            f"{folder}: {len(lacking)} label maps are not there, though they were made, such as that of {lacking[0]}: "
            "see that nothing else removes files there, and start again: it goes on"
        )
    for index, reason in reasons.items():
        _log.warning("%s: no label map: %s", images.path(index), reason)
    with writing(folder):
        _note(folder, images, made_of)


def _note(folder: Path, images: ImageList | None, made_of: dict) -> None:
    versions = {"torch": torch.__version__, "numpy": np.__version__}
    write_meta(folder, images, tool="bootstrap", parameters=made_of, versions=versions)


def _in_turn(function: Callable[[], None]) -> None:
    """Run once on each node, one after the other: disks may be shared, or each node's own. An error is raised on all."""
    error, first_of_node = None, int(os.environ.get("LOCAL_RANK", 0)) == 0
    for turn in range(world_size()):
        if turn == rank() and first_of_node:
            try:
                function()
            except UserError as own:
                error = own
        barrier()
    _raise_first(error)


def _raise_first(error: UserError | None) -> None:
    """Raise, on every process, the error of the first that has one."""
    for one in gather_objects(error):
        if one is not None:
            raise one
