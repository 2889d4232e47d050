"""What lies between ORL's two trainings: its stages' folders, and what the second stage finds for the third."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import wiring
from data.correspondence import Correspondence, load_correspondence
from data.listing import ImageList
from data.orl_files import read_all_proposals, read_correspondence, read_names, read_neighbours
from data.proposals import proposal_type
from data.ragged import Ragged, save_array
from engine.checkpoint import load_checkpoint
from engine.run import stops_at_once
from models.encoder import Encoder, make_encoder
from orl_config import ORLConfig
from tools.box_pairs import count_forwards, find_pairs
from tools.kept_boxes import BoxRule, ProposalFiles, keep_boxes
from tools.make_proposals import ensure_proposals
from tools.neighbours import find_neighbours
from tools.orl_pictures import neighbour_sheet, pair_sheet, proposal_sheet
from tools.pictures import spread
from utils.distributed import on_main
from utils.errors import UserError
from utils.files import read_json, write_json
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
    on_main(lambda: _note(folder, _made_of(config, images, encoder_path)))
    if (folder / "done.json").exists():
        _log.info("stage 2 is done: %s", folder)
        return
    with stops_at_once():
        if config.files.correspondence is not None:
            on_main(lambda: read_correspondence(config.files.correspondence, images).save(folder))
            counts = {}
        else:
            with wiring.refusals():
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
        UserError: it is not done, or was made of other images.
    """

    def check() -> None:
        require_done(folder)
        made_of = read_json(folder / "meta.json")
        if made_of["listing"] != images.listing_hash:
            raise UserError(
                f"{folder}: stage 2 was made of other images than {images.root} has now (or data.subset chooses); "
                "make it again in another --out, or restore them"
            )

    on_main(check)
    return load_correspondence(folder)


def _discover(
    config: ORLConfig, images: ImageList, encoder: Encoder, folder: Path, device: torch.device
) -> dict[str, int]:
    files, workers = config.files, config.data.data_workers
    # What needs no GPU comes first, and is shared by all runs on these images.
    boxes = _boxes(config, images, folder)
    if files.neighbours is not None:
        neighbours = on_main(lambda: _keep_neighbours(files.neighbours, images, folder))
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
        settings = config.proposals
        rule = BoxRule(settings.min_size, settings.max_ratio, settings.max_iou, settings.top_n)
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


def _keep_neighbours(path: str, images: ImageList, folder: Path) -> np.ndarray:
    neighbours = read_neighbours(path, images)
    save_array(folder / "neighbours.npy", neighbours)
    return neighbours


def _load_encoder(path: Path, config: ORLConfig) -> Encoder:
    try:
        return make_encoder(load_checkpoint(path), settings=config.model.backbone.model_dump())
    except (ValueError, KeyError) as error:
        raise UserError(f"model.init: {path}: {error}") from error


def _made_of(config: ORLConfig, images: ImageList, encoder_path: Path | None) -> dict:
    """What decides what stage 2 finds."""
    if config.files.correspondence is not None:
        return {"listing": images.listing_hash, "files": config.files.model_dump()}
    pairs = config.pairs.model_dump(include={"share", "patch_size", "store"})
    return {
        "listing": images.listing_hash,
        "encoder": hashlib.sha256(encoder_path.read_bytes()).hexdigest(),
        "view_size": config.data.resize_size,
        "neighbours": config.neighbours.count,
        "proposals": config.proposals.model_dump(exclude={"dir"}),
        "pairs": pairs,
        "files": config.files.model_dump(),
    }


def _note(folder: Path, made_of: dict) -> None:
    path = folder / "meta.json"
    if path.exists():
        before = read_json(path)
        changed = [name for name in {**before, **made_of} if before.get(name) != made_of.get(name)]
        if changed:
            raise UserError(
                f"{folder}: stage 2 was begun with another {', '.join(changed)}; see its meta.json. Restore that, delete the "
                "folder, or give another --out"
            )
    else:
        write_json(path, made_of)


def _finish(config: ORLConfig, images: ImageList, found: Correspondence, folder: Path, counts: dict[str, int]) -> None:
    N, K = found.neighbours.shape
    summary = {
        "images": N,
        "neighbours": K,
        "boxes": len(found.boxes.values),
        "pairs": len(found.pairs.values),
        "images_without_boxes": int((found.boxes.lengths == 0).sum()),
        "images_without_pairs": int((found.pairs.lengths.reshape(N, K).sum(1) == 0).sum()),
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
