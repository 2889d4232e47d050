"""What lies between ORL's two trainings: its stages' folders, and what the second stage finds for the third."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import wiring
from data.box_views import check_boxes, count_unmatched
from data.correspondence import Correspondence, load_correspondence
from data.listing import ImageList
from data.orl_files import read_all_proposals, read_correspondence, read_names, read_neighbours
from data.proposals import proposal_type
from data.ragged import Ragged, save_array
from engine.stop import stops_at_once
from models.encoder import Encoder
from orl_config import ORLConfig
from tools.box_pairs import count_forwards, find_pairs
from tools.kept_boxes import BoxRule, ProposalFiles, keep_boxes
from tools.make_proposals import ensure_proposals
from tools.neighbours import find_neighbours
from tools.orl_pictures import neighbour_sheet, pair_sheet, proposal_sheet
from tools.pictures import spread
from utils.config import dump_config
from utils.distributed import on_main
from utils.errors import UserError
from utils.files import TEMPORARY_PREFIX, atomic_write_bytes, file_sha256, read_json, write_json
from utils.log import RunLog, setup_logging

_log = logging.getLogger(__name__)


def discover(config: ORLConfig, folder: Path, *, encoder_path: Path | None, device: torch.device) -> None:
    """Stage 2: neighbours, boxes, pairs. All processes together; what is in `folder` already is not made again.

    Args:
        folder: of the stage, seen by all processes.
        encoder_path: whose features are compared: stage 1's, or `model.init`; None where `files.correspondence` has all.
    """
    setup_logging(folder)
    images = wiring.list_images(config.data)
    on_main(lambda: _note(folder, config, made_of(config, images) | _fingerprint(encoder_path)))
    if on_main(lambda: (folder / "done.json").exists()):
        _log.info("stage 2 is done: %s", folder)
        return
    with stops_at_once():
        if config.files.correspondence is not None:
            on_main(lambda: _read_correspondence(config, images).save(folder))
            counts = {}
        else:
            encoder = _load_encoder(encoder_path, config).to(device)
            counts = _discover(config, images, encoder, folder, device)
        found = load_correspondence(folder)
        on_main(lambda: _finish(config, images, found, folder, counts))


def require_done(folder: Path) -> None:
    """Refuse a second stage that is not done."""
    if not (folder / "done.json").exists():
        raise UserError(f"{folder}: stage 2 is not done; run --stage 2 first, or set files.correspondence")


def found_correspondence(config: ORLConfig, folder: Path, images: ImageList) -> Correspondence:
    """What stage 2 left for these images.

    Raises:
        UserError: it is not done, or was made of other images or by other settings.
    """

    def check() -> None:
        require_done(folder)
        _compare(folder, made_of(config, images))

    on_main(check)
    return load_correspondence(folder)


def _discover(
    config: ORLConfig, images: ImageList, encoder: Encoder, folder: Path, device: torch.device
) -> dict[str, int]:
    files, workers = config.files, config.data.data_workers
    # What can be refused is refused before hours go into proposals.
    if files.neighbours is not None:
        neighbours = on_main(lambda: _keep_neighbours(config, images, folder))
    else:
        neighbours = find_neighbours(
            encoder,
            images,
            folder,
            size=config.data.resize_size,
            workers=workers,
            device=device,
            **config.neighbours.model_dump(),
        )
    boxes = _boxes(config, images, folder)
    if files.proposals:
        on_main(lambda: check_boxes(images, boxes))
    find_pairs(
        encoder,
        images,
        boxes,
        neighbours,
        folder,
        share=config.pairs.share,
        size=config.pairs.patch_size,
        batch_size=config.pairs.batch_size,
        store=config.pairs.store,
        parts=config.pairs.parts,
        workers=workers,
        device=device,
    )
    return {"images_embedded": 0 if files.neighbours else len(images)} | count_forwards(
        boxes, neighbours, parts=config.pairs.parts
    )


def _boxes(config: ORLConfig, images: ImageList, folder: Path) -> Ragged:
    if not on_main(lambda: Ragged.exists(folder / "boxes")):
        rule = BoxRule(**config.proposals.model_dump(exclude={"dir", "max_side"}))
        keep_boxes(images, _proposals(config, images, folder), folder, rule=rule)
    on_main(lambda: Ragged.delete(folder / "proposals"))
    return Ragged.load(folder / "boxes")


def _proposals(config: ORLConfig, images: ImageList, folder: Path) -> Sequence[np.ndarray | None]:
    """All proposals of every image: those of files.proposals, or what selective search finds."""
    files, settings = config.files, config.proposals
    if files.proposals:
        stem = folder / "proposals"
        if not on_main(lambda: Ragged.exists(stem)):
            # One process reads gigabytes; the others, and their workers, share the pages of what it writes.
            on_main(lambda: _read_proposals(config, images).save(stem))
        return Ragged.load(stem)
    where = Path(settings.dir or Path(config.data.image_dir, "proposals"))
    ensure_proposals(images, where, max_side=settings.max_side)
    return ProposalFiles(images, where, proposal_type(settings.max_side))


def _read_proposals(config: ORLConfig, images: ImageList) -> Ragged:
    files = config.files
    sources = files.names or [files.neighbours] * (files.neighbours is not None)
    names = [name for source in sources for name in read_names(source)]
    return read_all_proposals(files.proposals, images, names=names or None)


def _keep_neighbours(config: ORLConfig, images: ImageList, folder: Path) -> np.ndarray:
    path = config.files.neighbours
    neighbours = read_neighbours(path, images)
    count = _checked_count(config, path, neighbours.shape[1])
    save_array(folder / "neighbours.npy", neighbours[:, :count])
    return neighbours[:, :count]


def _read_correspondence(config: ORLConfig, images: ImageList) -> Correspondence:
    """The file's, with the first `neighbours.count` neighbours of each image."""
    path = config.files.correspondence
    found = read_correspondence(path, images)
    check_boxes(images, found.boxes)
    return found.nearest(_checked_count(config, path, found.neighbours.shape[1]))


def _checked_count(config: ORLConfig, path: str, count: int) -> int:
    if count < config.neighbours.count:
        raise UserError(
            f"{path}: {count} neighbours an image, but neighbours.count is {config.neighbours.count}; lower it"
        )
    return config.neighbours.count


def _load_encoder(path: Path, config: ORLConfig) -> Encoder:
    encoder = wiring.load_encoder(path, config.model.backbone, key="model.init")
    if encoder.projector is None:
        _log.warning("%s: no projector on C5 in it: neighbours are found by pooled C5 instead", path)
    return encoder


def made_of(config: ORLConfig, images: ImageList) -> dict:
    """What decides what stage 2 finds, beside the network."""
    made = {"listing": images.listing_hash, "files": config.files.model_dump(), "neighbours": config.neighbours.count}
    if config.files.correspondence is None:
        made["view_size"] = config.data.resize_size
        made["proposals"] = config.proposals.model_dump(exclude={"dir"})
        made["pairs"] = config.pairs.model_dump(include={"share", "patch_size", "store"})
    return made


def _fingerprint(encoder_path: Path | None) -> dict[str, str]:
    return {} if encoder_path is None else {"encoder": file_sha256(encoder_path)}


def _note(folder: Path, config: ORLConfig, made: dict) -> None:
    if (folder / "meta.json").exists():
        _compare(folder, made)
    else:
        write_json(folder / "meta.json", made)
    atomic_write_bytes(folder / "config.yaml", dump_config(config).encode())
    for leftover in folder.rglob(f"{TEMPORARY_PREFIX}*"):
        leftover.unlink(missing_ok=True)


def _compare(folder: Path, made: dict) -> None:
    """Refuse what was made of something else."""
    before = read_json(folder / "meta.json")
    changed = [name for name, value in made.items() if before.get(name) != json.loads(json.dumps(value))]
    if changed:
        raise UserError(
            f"{folder}: stage 2 was made with another {', '.join(changed)}; see its meta.json. Restore that, delete the folder "
            "and run --stage 2, or give another --out"
        )


def _finish(config: ORLConfig, images: ImageList, found: Correspondence, folder: Path, counts: dict[str, int]) -> None:
    N, K = found.neighbours.shape
    summary = {
        "images": N,
        "neighbours": K,
        "boxes": len(found.boxes.values),
        "pairs": len(found.pairs.values),
        "images_without_boxes": int((found.boxes.lengths == 0).sum()),
        "images_without_pairs": count_unmatched(found),
        **counts,
    }
    log = RunLog(folder)
    _draw(images, found, log, count=min(config.log.num_pictures, N))
    log.close()
    _log.info("found %s", ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in summary.items()))
    if summary["images_without_pairs"]:
        _log.warning("an image without pairs is compared with its own boxes' jitter instead, in stage 3")
    write_json(folder / "done.json", summary)


def _draw(images: ImageList, found: Correspondence, log: RunLog, *, count: int) -> None:
    chosen = spread(count, len(images))
    if count:
        log.pictures(0, "proposals", proposal_sheet(images, found.boxes, chosen))
        log.pictures(0, "neighbours", neighbour_sheet(images, found.neighbours, chosen))
        log.pictures(0, "pairs", pair_sheet(images, found, chosen))
