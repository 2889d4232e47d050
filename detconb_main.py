"""Pretrain a backbone with DetCon-B or DetCon-S: `python detconb_main.py --cfg detconb/imagenet_300ep`, alone or under torchrun.

Wiring only: config (schema in detconb_config.py) -> data -> method -> loop; what other methods share is in wiring.py.
The masks come first: `python -m tools.make_masks`.
"""

import utils.threads  # noqa: F401  isort: skip  before torch

import argparse
import sys

import torch

import wiring
from data.label_maps import check_label_maps
from data.loader import Loader
from data.masked_views import MaskedViews
from detconb_config import DetConBConfig
from engine.place import find_run
from models.backbone import LEVELS, Trunk
from models.detconb import DetCon
from models.fpn import FPN
from models.heads import make_heads
from tools.pictures import SampledMaskPictures
from utils.cli import run_main
from utils.distributed import on_main
from wiring import Parts, Schedule, prepare


def main(argv: list[str] | None = None) -> int:
    return run_main("detconb", DetConBConfig, train, description=__doc__, argv=argv)


def train(config: DetConBConfig, arguments: argparse.Namespace, device: torch.device) -> None:
    place = find_run("detconb", config, out=arguments.out, resume=arguments.resume)
    parts = build(config, device, max_steps=arguments.max_steps)
    run = wiring.start_run(place, config, parts, device)
    pictures = SampledMaskPictures(parts.loader.dataset, count=config.log.num_pictures)
    for epoch in parts.epochs(run, prepare):
        pictures.draw(parts.method, epoch, parts.plan.progress(epoch * parts.plan.steps_per_epoch), run.log)
    wiring.finish_run(run, parts.method)


def build(config: DetConBConfig, device: torch.device, *, max_steps: int | None = None) -> Parts:
    """Config -> data, method, optimiser and schedules; every process of the group calls it."""
    momentum = wiring.target_momentum(config)
    with wiring.refusals():
        method = make_method(config, momentum=momentum)
    method, optimizer, precision = wiring.put_on_device(method, config, device)
    loader = make_data(config, device)
    plan = wiring.make_plan(config, loader, max_steps=max_steps)
    schedules = {"target_momentum": momentum} if config.model.variant == "b" else {}
    return Parts(loader, method, optimizer, precision, plan, wiring.learning_rate(config, plan), schedules)


def make_data(config: DetConBConfig, device: torch.device) -> Loader:
    """The listing, its masks, which must be there, and batches of views."""
    settings = config.data
    images = wiring.list_images(settings)
    mask_dir = wiring.mask_dir(settings, images, settings.mask_type)
    on_main(lambda: check_label_maps(mask_dir, settings.mask_type, images))
    dataset = MaskedViews(
        images,
        spec=wiring.view_spec(settings),
        mask_dir=mask_dir,
        mask_type=settings.mask_type,
        num_uniforms=config.loss.mask_rois,
        seed=config.seed,
    )
    return wiring.make_loader(dataset, config, device)


def make_method(config: DetConBConfig, *, momentum: Schedule) -> DetCon:
    model, loss = config.model, config.loss
    trunk = wiring.build_trunk(model, seed=config.seed)
    level = level_of_grid(trunk, loss.pool_size, size=config.data.resize_size)
    top, neck = trunk.levels["c5"].channels, None
    if level != "c5":
        channels = {name: trunk.levels[name].channels for name in LEVELS[LEVELS.index(level) :]}
        neck = FPN(channels, out_channels=model.fpn_channels or top, outputs=(level,))
        top = model.fpn_channels or top
    # DetCon-S has no predictor.
    projector, predictor = make_heads(top, model.projection, model.predictor if model.variant == "b" else None)
    return DetCon(
        trunk,
        projector,
        predictor,
        neck=neck,
        level=level,
        pool_size=loss.pool_size,
        momentum=momentum,
        temperature=loss.temperature,
        shared_regions=loss.shared_regions,
        joint_views=model.joint_views,
    )


def level_of_grid(trunk: Trunk, pool_size: int, *, size: int) -> str:
    """The highest level whose features of a view of `size` pixels are a grid of this side.

    Raises:
        ValueError: there is none.
    """
    grids = {name: -(-size // level.stride) for name, level in trunk.levels.items()}
    for name in reversed(LEVELS):
        if grids[name] == pool_size:
            return name
    found = ", ".join(f"{grid} ({name})" for name, grid in grids.items())
    raise ValueError(f"loss.pool_size: {pool_size}, but views of data.resize_size = {size} px have grids of {found}")


if __name__ == "__main__":
    sys.exit(main())
