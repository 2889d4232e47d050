"""Pretrain a backbone with R2O: `python r2o_main.py --cfg r2o/imagenet_300ep`, alone or under torchrun.

Wiring only: config (schema in r2o_config.py) -> data -> method -> loop.
"""

import utils.threads  # noqa: F401  isort: skip  before torch

import argparse
import logging
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import nn

from data.listing import find_images
from data.loader import Loader
from data.photometric import BYOL_VIEW_1, BYOL_VIEW_2, normalise, prepare_views
from data.sampler import EpochSampler
from data.views import R2OViews, ViewSpec
from engine.lars import parameter_groups
from engine.loop import Plan, train_epochs
from engine.optimizers import build_optimizer
from engine.place import find_run
from engine.precision import Precision, memory_format
from engine.run import Run
from engine.schedules import NO_CLUSTERING, momentum_schedule, num_clusters, rate_schedule
from models.backbone import make_trunk
from models.heads import make_heads
from models.r2o import R2O
from r2o_config import ClusterSchedule, R2OConfig, R2OOptimizer
from tools.make_superpixels import ensure_superpixels
from tools.pictures import RegionPictures
from utils.cli import run_main
from utils.distributed import main_first, on_main, rank, world_size
from utils.errors import UserError
from utils.method import Progress
from utils.sections import Optimizer
from utils.sync_batch_norm import convert_sync_batchnorm

_log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    return run_main("r2o", R2OConfig, train, description=__doc__, argv=argv)


def train(config: R2OConfig, arguments: argparse.Namespace, device: torch.device) -> None:
    place = find_run("r2o", config, out=arguments.out, resume=arguments.resume)
    parts = build(config, device, max_steps=arguments.max_steps)
    plan, loader, method = parts.plan, parts.loader, parts.method
    run = Run(place, config, steps_per_epoch=plan.steps_per_epoch)
    run.log.text(
        f"{loader.num_images} images, {world_size()} processes on {device.type}, {parts.global_batch} images a step, "
        f"{plan.steps_per_epoch} steps an epoch; everything goes to {run.folder}"
    )
    pictures = RegionPictures(loader.dataset, count=config.log.num_pictures, group=config.clustering.images_per_kmeans)
    for epoch in train_epochs(
        method,
        loader,
        parts.optimizer,
        plan=plan,
        run=run,
        precision=parts.precision,
        prepare=prepare,
        learning_rate=parts.learning_rate,
        schedules=parts.schedules,
    ):
        pictures.draw(method, plan.progress(epoch * plan.steps_per_epoch), run.log, prepare, device)
    pictures.draw(method, plan.progress(plan.last_step), run.log, prepare, device)
    run.export(method.backbone)
    run.log.close()


class Parts(NamedTuple):
    """What the loop puts together."""

    loader: Loader
    method: R2O
    optimizer: torch.optim.Optimizer
    precision: Precision
    plan: Plan
    global_batch: int
    learning_rate: Callable[[Progress], float]
    schedules: dict[str, Callable[[Progress], float]]


def build(config: R2OConfig, device: torch.device, *, max_steps: int | None = None) -> Parts:
    """Config -> data, method, optimiser and schedules; every process of the group calls it."""
    accumulate = config.optimizer.accumulate_steps
    global_batch = config.data.train_batch_size * world_size() * accumulate
    clusters = make_curriculum(config.clustering.scheduler)
    momentum = momentum_schedule(
        base=config.model.base_momentum,
        global_batch=global_batch,
        reference_batch=config.model.momentum_reference_batch,
    )
    method = make_method(config, momentum=momentum, clusters=clusters).to(device, memory_format=memory_format(device))
    if world_size() > 1 and config.amp.sync_bn:
        method = convert_sync_batchnorm(method, device)
    optimizer = make_optimizer(config.optimizer, method)
    precision = Precision(config.amp.opt_level, dtype=config.amp.dtype, backend=config.amp.backend, device=device)
    method, optimizer = precision.prepare(method, optimizer)
    # Last, since it may make superpixels for hours: what is wrong with the model is known by now.
    loader = make_data(config, device)
    plan = Plan(
        config.optimizer.total_epochs,
        steps_per_epoch=len(loader) // accumulate,
        accumulate_steps=accumulate,
        seed=config.seed,
        log_step=config.log.log_step,
        save_epoch=config.checkpoint.save_epoch,
        max_steps=max_steps,
        max_bad_fraction=config.data.max_bad_fraction,
    )
    learning_rate = make_learning_rate(config.optimizer, plan, global_batch, clusters)
    schedules = {"target_momentum": momentum, "clusters": lambda progress: clusters(progress) or NO_CLUSTERING}
    return Parts(loader, method, optimizer, precision, plan, global_batch, learning_rate, schedules)


def make_data(config: R2OConfig, device: torch.device) -> Loader:
    """The listing, its superpixels, and batches of views; rank 0 lists and all share its list."""
    settings = config.data
    images = on_main(lambda: find_images(settings.image_dir, split=settings.split, subset=settings.subset))
    if settings.num_examples not in (None, len(images)):
        found = len(images)
        _log.warning(
            "data.num_examples says %d, but %s holds %d, which counts", settings.num_examples, images.root, found
        )
    mask_dir = None
    if settings.superpixels == "cached":
        mask_dir = settings.mask_dir or f"{settings.image_dir}/masks"
        ensure_superpixels(images, mask_dir, size=settings.superpixel_size, segments=settings.slic_segments)
    photometric = tuple(
        replace(view.at_size(settings.resize_size), grey_probability=settings.grey_probability)
        for view in (BYOL_VIEW_1, BYOL_VIEW_2)
    )
    spec = ViewSpec(
        size=settings.resize_size,
        scale=(settings.min_crop, 1.0),
        flip_probability=settings.flip_probability,
        photometric=photometric,
    )
    dataset = R2OViews(
        images,
        spec=spec,
        superpixel_size=settings.superpixel_size,
        segments=settings.slic_segments,
        mask_dir=mask_dir,
        seed=config.seed,
    )
    sampler = EpochSampler(
        len(images),
        batch_size=settings.train_batch_size,
        world_size=world_size(),
        rank=rank(),
        accumulate_steps=config.optimizer.accumulate_steps,
        seed=config.seed,
    )
    return Loader(dataset, sampler, workers=settings.data_workers, device=device)


def prepare(batch: dict[str, Any]) -> dict[str, Any]:
    """Photometric augmentation of the views and normalisation of all images, on the device."""
    views = prepare_views(batch["images"], batch["photometric"])
    return batch | {"images": views, "spanning": normalise(batch["spanning"] / 255)}


def make_curriculum(schedule: ClusterSchedule) -> Callable[[Progress], int | None]:
    """K at a Progress, None for no clustering; the release counts epochs from 1."""

    def clusters(progress: Progress) -> int | None:
        k = num_clusters(progress.epoch + 1, type=schedule.type, epochs=schedule.epochs, values=schedule.values)[1]
        return None if k == NO_CLUSTERING else k

    return clusters


def make_learning_rate(
    settings: R2OOptimizer, plan: Plan, global_batch: int, clusters: Callable[[Progress], int | None]
) -> Callable[[Progress], float]:
    rate = rate_schedule(
        lr_type=settings.lr_type,
        base_lr=settings.base_lr,
        global_batch=global_batch,
        total_steps=plan.total_epochs * plan.steps_per_epoch,
        warmup_steps=int(settings.warmup_epochs * plan.steps_per_epoch),
    )
    if settings.scale_lr_by_k is None:
        return rate
    # Without clustering there is no K; the release multiplies by its stand-in 9999 there.
    return lambda progress: rate(progress) * (clusters(progress) or settings.scale_lr_by_k) / settings.scale_lr_by_k


def make_method(
    config: R2OConfig, *, momentum: Callable[[Progress], float], clusters: Callable[[Progress], int | None]
) -> R2O:
    model, data, clustering = config.model, config.data, config.clustering
    # The same start on every process, whatever was drawn before.
    torch.manual_seed(config.seed)
    tiny = {"width": model.backbone.width, "blocks": model.backbone.blocks, "strides": model.backbone.strides}
    last, total = clustering.scheduler.epochs[-1], config.optimizer.total_epochs
    if clustering.scheduler.type != "constant" and last != total:
        fate = "never gets to its end" if last > total else "stays at its end"
        _log.warning("clustering.scheduler.epochs ends at %d, optimizer.total_epochs is %d: K %s", last, total, fate)
    # torchvision's weights are downloaded once a machine's cache, not by every process at once.
    download = main_first() if model.backbone.pretrained is True else nullcontext()
    try:
        with download:
            trunk = make_trunk(model.backbone.type, pretrained=model.backbone.pretrained, tiny=tiny)
        projector, predictor = make_heads(trunk.levels[model.region_level].channels, model.projection, model.predictor)
    except ValueError as error:
        raise UserError(str(error)) from error
    if model.region_level != "c5":
        trunk.freeze_above(model.region_level)
        _log.warning("model.region_level: %s, so the stages above it are not trained", model.region_level)
    return R2O(
        trunk,
        projector,
        predictor,
        momentum=momentum,
        num_clusters=clusters,
        cluster_level=model.cluster_level,
        region_level=model.region_level,
        images_per_kmeans=clustering.images_per_kmeans,
        max_iter=clustering.max_iter,
        soft_labels=clustering.soft_labels,
        overlap_indicator=data.overlap_indicator,
        weight_by_area=data.weight,
        joint_views=model.joint_views,
    )


def make_optimizer(settings: Optimizer, method: nn.Module) -> torch.optim.Optimizer:
    groups = parameter_groups(
        method,
        weight_decay=settings.weight_decay,
        exclude_bias_and_bn=settings.exclude_bias_and_bn,
        decay_stem_norm=settings.decay_stem_norm,
    )
    return build_optimizer(groups, type=settings.type, momentum=settings.momentum, lars_variant=settings.lars_variant)


if __name__ == "__main__":
    sys.exit(main())
