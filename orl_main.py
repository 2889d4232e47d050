"""Pretrain a backbone with ORL, or with BYOL alone: `python orl_main.py --cfg orl/coco_800ep`, alone or under torchrun.

    --stage 1      BYOL on whole images; with model.variant: byol it is all there is
    --stage 2      nearest images, boxes, and which boxes of neighbours show the same
    --stage 3      ORL on images, boxes and pairs of boxes
    --stage all    what is not done of the three, in order

The stages share a folder, --out or the newest of this config. Wiring only: config (schema in orl_config.py) -> data -> method ->
loop; what other methods share is in wiring.py, the second stage in orl_stages.py.
"""

import utils.threads  # noqa: F401  isort: skip  before torch

import argparse
import copy
import logging
import sys
from pathlib import Path
from typing import Any

import torch

import wiring
from data.box_views import BoxViews
from data.boxes import Jitter
from data.loader import Loader
from data.photometric import prepare_views
from data.views import TwoViews
from engine.checkpoint import save_state
from engine.place import Place, find_run, note_run
from models.byol import BYOL
from models.encoder import encoder_state
from models.heads import make_heads, start_as_kaiming
from models.orl import BRANCHES, ORL
from orl_config import ORLConfig, image_level
from orl_stages import discover, found_correspondence, require_done
from tools.orl_pictures import PatchPictures
from utils.cli import run_main
from utils.distributed import barrier, is_main, on_main
from utils.errors import UserError
from utils.files import write_json
from wiring import Parts, Schedule

_log = logging.getLogger(__name__)
STAGES = ("1", "2", "3")


def main(argv: list[str] | None = None) -> int:
    return run_main("orl", ORLConfig, train, description=__doc__, argv=argv, add_arguments=add_arguments)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stage", choices=(*STAGES, "all"), default="all", help="which stage to run, see above")


def train(config: ORLConfig, arguments: argparse.Namespace, device: torch.device) -> None:
    resumes = bool(arguments.resume or config.checkpoint.resume_path)
    if config.model.variant == "byol":
        if arguments.stage not in ("1", "all"):
            raise UserError(f"--stage {arguments.stage}: model.variant: byol is stage 1 alone")
        place = find_run("orl", config, out=arguments.out, resume=arguments.resume)
        pretrain(config, place, device, max_steps=arguments.max_steps)
        return
    root, stages = find_root(config, arguments), stages_to_run(config, arguments.stage)
    on_main(lambda: begin(config, root, stages[0]))
    for stage in stages:
        folder = root.folder / f"stage{stage}"
        if stage == "2":
            # What is done is only compared with what it would be made of now.
            discover(config, folder, encoder_path=find_encoder(config, root.folder), device=device)
        elif arguments.stage == "all" and on_main(lambda: (folder / "done.json").exists()):
            _log.info("stage %s is done: %s", stage, folder)
        else:
            own = config if stage == "3" else image_level(config)
            place = find_run("orl", own, out=str(folder), resume="auto" if resumes else None)
            place = place._replace(stamp=f"{root.stamp}_stage{stage}")
            if not pretrain(own, place, device, max_steps=arguments.max_steps, found=root.folder / "stage2"):
                _log.info("stage %s ended early, by --max_steps; --resume auto goes on with it", stage)
                return


def stages_to_run(config: ORLConfig, asked: str) -> tuple[str, ...]:
    """The stages that `--stage` means with this config, in order."""
    if asked == "1" and config.model.init is not None:
        raise UserError(f"--stage 1: model.init: {config.model.init} takes its place; leave out one of the two")
    if config.files.correspondence is not None and asked in ("3", "all"):
        # The second stage then only reads the file.
        return ("2", "3")
    if asked == "all":
        return ("2", "3") if config.model.init is not None else STAGES
    return (asked,)


def find_root(config: ORLConfig, arguments: argparse.Namespace) -> Place:
    """The folder that the stages share."""
    # Later stages belong to the run that the first one began.
    resume = arguments.resume or ("auto" if arguments.stage in ("2", "3") else None)
    root = find_run("orl", config, out=arguments.out, resume=resume)
    is_stage = root.folder.name in ("stage1", "stage3") and (root.folder.parent / "run.json").exists()
    if root.checkpoint is not None or is_stage:
        raise UserError(
            f"--resume {arguments.resume}: ORL goes on from the folder that holds all its stages: give that, or `auto`"
        )
    return root


def begin(config: ORLConfig, root: Place, stage: str) -> None:
    """Note in the stages' folder whose it is, if `stage` finds there what it needs; else nothing is written."""
    if stage == "2":
        find_encoder(config, root.folder)
    elif stage == "3":
        require_done(root.folder / "stage2")
    note_run(root, config)


def find_encoder(config: ORLConfig, root: Path) -> Path | None:
    """The weights in whose features stage 2 compares.

    Raises:
        UserError: there are none.
    """
    if config.files.correspondence is not None:
        return None
    if config.model.init is not None:
        if not Path(config.model.init).is_file():
            raise UserError(f"{config.model.init}: no such file, whose features stage 2 compares: check model.init")
        return Path(config.model.init)
    path = root / "stage1" / "encoder.pth"
    if not (path.is_file() and (root / "stage1" / "done.json").is_file()):
        raise UserError(
            f"{path}: stage 2 compares its features, but stage 1 is not done there: run --stage 1 first with the same --out and "
            "config, or set model.init"
        )
    return path


def pretrain(
    config: ORLConfig, place: Place, device: torch.device, *, max_steps: int | None, found: Path | None = None
) -> bool:
    """Stage 1 or 3, in a folder of its own; whether it ran to its end, and is marked as done."""
    parts = build(config, device, max_steps=max_steps, found=found)
    plan, method = parts.plan, parts.method
    run = wiring.start_run(place, config, parts, device)
    pictures = PatchPictures(parts.loader.dataset, count=config.log.num_pictures)
    for epoch in parts.epochs(run, prepare):
        pictures.draw(method, epoch, plan.progress(epoch * plan.steps_per_epoch), run.log)
    wiring.finish_run(run, method)
    is_done = plan.last_step == plan.total_epochs * plan.steps_per_epoch
    if is_main():
        settings = config.model.backbone.model_dump()
        save_state(encoder_state(method.backbone, method.projector, settings=settings), run.folder / "encoder.pth")
        if is_done:
            write_json(run.folder / "done.json", {"steps": plan.last_step})
    barrier()
    return is_done


def build(config: ORLConfig, device: torch.device, *, max_steps: int | None = None, found: Path | None = None) -> Parts:
    """Config -> data, method, optimiser and schedules; every process of the group calls it.

    Args:
        found: the folder of the second stage, for model.variant: orl.
    """
    momentum = wiring.target_momentum(config)
    with wiring.refusals():
        method = make_method(config, momentum=momentum)
    method, optimizer, precision = wiring.put_on_device(method, config, device)
    loader = make_data(config, device, found=found)
    plan = wiring.make_plan(config, loader, max_steps=max_steps)
    rate = wiring.learning_rate(config, plan)
    return Parts(loader, method, optimizer, precision, plan, rate, schedules={"target_momentum": momentum})


def make_data(config: ORLConfig, device: torch.device, *, found: Path | None) -> Loader:
    """The listing, and batches of views, with patches for model.variant: orl."""
    images, spec = wiring.list_images(config.data), wiring.view_spec(config.data)
    if config.model.variant == "byol":
        return wiring.make_loader(TwoViews(images, spec=spec, seed=config.seed), config, device)
    dataset = BoxViews(
        images,
        found_correspondence(config, found, images),
        spec=spec,
        patch_size=config.data.patch_size,
        jitter=Jitter(**config.jitter.model_dump()),
        seed=config.seed,
    )
    return wiring.make_loader(dataset, config, device)


def prepare(batch: dict[str, Any]) -> dict[str, Any]:
    """Photometric augmentation and normalisation of a batch's views and patches, on the device."""
    batch = wiring.prepare(batch)
    if "patches" in batch:
        batch["patches"] = prepare_views(batch["patches"], batch["patch_photometric"])
    return batch


def make_method(config: ORLConfig, *, momentum: Schedule) -> BYOL | ORL:
    model, loss = config.model, config.loss
    trunk = wiring.build_trunk(model, seed=config.seed)
    branches = BRANCHES if model.variant == "orl" else ("global",)
    channels = trunk.levels["c5"].channels
    projector, first = make_heads(channels, model.projection, model.predictor, output_bias=False)
    predictors = [first, *(copy.deepcopy(first) for _ in branches[1:])]
    for head in (projector, *predictors):
        start_as_kaiming(head)
    options = {"momentum": momentum, "joint_views": model.joint_views}
    if model.variant == "byol":
        return BYOL(trunk, projector, first, **options)
    weights = {branch: getattr(loss, f"{branch}_weight") for branch in branches}
    return ORL(trunk, projector, dict(zip(branches, predictors)), weights=weights, **options)


if __name__ == "__main__":
    sys.exit(main())
