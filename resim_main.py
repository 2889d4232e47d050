"""Pretrain a backbone with ReSim or MoCo v2: `python resim_main.py --cfg resim/fpn_imagenet_200ep`, alone or under torchrun.

Wiring only: config (schema in resim_config.py) -> data -> method -> loop; what other methods share is in wiring.py.
"""

import utils.threads  # noqa: F401  isort: skip  before torch

import argparse
import logging
import sys

import torch

import wiring
from data.loader import Loader
from data.views import TwoViews
from engine.place import find_run
from models.backbone import LEVELS, Trunk
from models.fpn import FPN
from models.heads import make_heads
from models.queue import check_queue
from models.resim import ReSim, Windows
from resim_config import ReSimConfig, window_levels
from tools.window_pictures import WindowPictures
from utils.cli import run_main
from utils.distributed import world_size
from wiring import Parts, Schedule, prepare

_log = logging.getLogger(__name__)
# Share of the key network that may be new by the time a key leaves the queue: as published 23 %. At 48 % whole images taught
# little in docs/results.md: their loss fell while the network moved fast, and rose to chance as it came to rest.
MOST_FORGOTTEN = 0.3


def main(argv: list[str] | None = None) -> int:
    return run_main("resim", ReSimConfig, train, description=__doc__, argv=argv)


def train(config: ReSimConfig, arguments: argparse.Namespace, device: torch.device) -> None:
    place = find_run("resim", config, out=arguments.out, resume=arguments.resume)
    parts = build(config, device, max_steps=arguments.max_steps)
    run = wiring.start_run(place, config, parts, device)
    pictures = WindowPictures(parts.loader.dataset, count=config.log.num_pictures)
    for epoch in parts.epochs(run, prepare):
        pictures.draw(parts.method, epoch, parts.plan.progress(epoch * parts.plan.steps_per_epoch), run.log)
    wiring.finish_run(run, parts.method)


def build(config: ReSimConfig, device: torch.device, *, max_steps: int | None = None) -> Parts:
    """Config -> data, method, optimiser and schedules; every process of the group calls it."""
    momentum = wiring.target_momentum(config, rises=False)
    with wiring.refusals():
        check_queue(config.model.queue_size, batch=config.data.train_batch_size, processes=world_size())
        method = make_method(config, momentum=momentum)
    method, optimizer, precision = wiring.put_on_device(method, config, device)
    loader = make_data(config, device)
    plan = wiring.make_plan(config, loader, max_steps=max_steps)
    warn(config, num_images=loader.num_images, momentum=momentum(plan.progress(0)))
    return Parts(
        loader,
        method,
        optimizer,
        precision,
        plan,
        wiring.learning_rate(config, plan),
        schedules={"target_momentum": momentum},
    )


def make_data(config: ReSimConfig, device: torch.device) -> Loader:
    """The listing, and batches of two views; ReSim mirrors them alike, MoCo v2 each on its own."""
    images = wiring.list_images(config.data)
    spec = wiring.view_spec(config.data, shared_flip=config.model.variant != "mocov2")
    return wiring.make_loader(TwoViews(images, spec=spec, seed=config.seed), config, device)


def warn(config: ReSimConfig, *, num_images: int, momentum: float) -> None:
    """Say what will run, but may not teach what it should.

    Args:
        momentum: of the key network, at this batch.
    """
    if world_size() == 1:
        _log.warning(
            "one process: BatchNorm normalises a query and its key by the same images, which can give the answer away. "
            "Several processes shuffle or synchronise it (amp.sync_bn)"
        )
    if config.model.queue_size > num_images:
        _log.warning(
            "model.queue_size: %d keys of %d images: images will be negatives of themselves; a smaller queue avoids that",
            config.model.queue_size,
            num_images,
        )
    steps = config.model.queue_size // wiring.global_batch(config)
    forgotten = 1 - momentum**steps
    if forgotten > MOST_FORGOTTEN:
        _log.warning(
            "model.base_momentum: %s: while the queue keeps a key, %d steps, the key network forgets %.0f %% of itself, so that "
            "queries are told to be today's, whatever they show; raise it, or take a smaller model.queue_size",
            config.model.base_momentum,
            steps,
            100 * forgotten,
        )


def make_method(config: ReSimConfig, *, momentum: Schedule) -> ReSim:
    model, loss = config.model, config.loss
    trunk = wiring.build_trunk(model, seed=config.seed)
    head, _ = make_heads(trunk.levels["c5"].channels, model.projection, None, norm=False)
    levels = window_levels(model.variant)
    return ReSim(
        trunk,
        head,
        make_neck(config, trunk),
        windows=tuple(Windows(level, **getattr(loss, level).model_dump()) for level in levels),
        queue_size=model.queue_size,
        dim=model.projection.output_dim,
        momentum=momentum,
        temperature=loss.temperature,
        gather_dtype=torch.bfloat16 if loss.gather_dtype == "bfloat16" else None,
        # Synchronised statistics are the same wherever a key is made.
        shuffle_seed=None if config.amp.sync_bn else config.seed,
    )


def make_neck(config: ReSimConfig, trunk: Trunk) -> FPN | None:
    """What makes the features that windows are compared in.

    Raises:
        ValueError: where a level's grid is too small for it.
    """
    outputs = window_levels(config.model.variant)
    if not outputs:
        return None
    for level in outputs:
        grid = -(-config.data.resize_size // trunk.levels[level].stride)
        if grid < 3:
            raise ValueError(
                f"data.resize_size: {config.data.resize_size} px leave {level} a grid of {grid} x {grid}, but negatives are "
                "3 x 3 cells; use larger views, or model.variant: mocov2"
            )
    # ReSim-C4's windows see C4 alone.
    levels = LEVELS[LEVELS.index("c3") :] if config.model.variant == "fpn" else outputs
    channels = {level: trunk.levels[level].channels for level in levels}
    return FPN(channels, out_channels=config.model.fpn_channels, outputs=outputs, norm=config.model.fpn_norm)


if __name__ == "__main__":
    sys.exit(main())
