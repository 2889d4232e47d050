"""Pretrain a backbone with R2O: `python r2o_main.py --cfg r2o/imagenet_300ep`, alone or under torchrun.

Wiring only: config (schema in r2o_config.py) -> data -> method -> loop; what other methods share is in wiring.py.
"""

import utils.threads  # noqa: F401  isort: skip  before torch

import argparse
import logging
import sys
from collections.abc import Callable
from typing import Any

import torch

import wiring
from data.loader import Loader
from data.mask_makers import Slic
from data.photometric import normalise_pixels, prepare_views
from data.views import R2OViews
from engine.place import find_run
from engine.schedules import NO_CLUSTERING, clusters_by_epoch
from models.heads import make_heads
from models.r2o import R2O
from r2o_config import ClusterSchedule, R2OConfig
from tools.make_masks import ensure_masks
from tools.pictures import RegionPictures
from utils.cli import run_main
from utils.method import Progress
from wiring import Parts, Schedule

_log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    return run_main("r2o", R2OConfig, train, description=__doc__, argv=argv)


def train(config: R2OConfig, arguments: argparse.Namespace, device: torch.device) -> None:
    place = find_run("r2o", config, out=arguments.out, resume=arguments.resume)
    parts = build(config, device, max_steps=arguments.max_steps)
    plan, method = parts.plan, parts.method
    run = wiring.start_run(place, config, parts, device)
    group = config.clustering.images_per_kmeans
    pictures = RegionPictures(parts.loader.dataset, count=config.log.num_pictures, group=group)
    for epoch in parts.epochs(run, prepare):
        pictures.draw(method, plan.progress(epoch * plan.steps_per_epoch), run.log, prepare, device)
    pictures.draw(method, plan.progress(plan.last_step), run.log, prepare, device)
    wiring.finish_run(run, method)


def build(config: R2OConfig, device: torch.device, *, max_steps: int | None = None) -> Parts:
    """Config -> data, method, optimiser and schedules; every process of the group calls it."""
    clusters = make_curriculum(config.clustering.scheduler)
    momentum = wiring.target_momentum(config)
    with wiring.refusals():
        method = make_method(config, momentum=momentum, clusters=clusters)
    method, optimizer, precision = wiring.put_on_device(method, config, device)
    # Last, since it may make superpixels for hours: what is wrong with the model is known by now.
    loader = make_data(config, device)
    plan = wiring.make_plan(config, loader, max_steps=max_steps)
    rate = scale_by_clusters(wiring.learning_rate(config, plan), clusters, config.optimizer.scale_lr_by_k)
    schedules = {"target_momentum": momentum, "clusters": lambda progress: clusters(progress) or NO_CLUSTERING}
    return Parts(loader, method, optimizer, precision, plan, rate, schedules)


def make_data(config: R2OConfig, device: torch.device) -> Loader:
    """The listing, its superpixels, and batches of views."""
    settings = config.data
    images = wiring.list_images(settings)
    mask_dir = None
    if settings.superpixels == "cached":
        slic = Slic(settings.slic_segments, settings.superpixel_size)
        mask_dir = wiring.mask_dir(settings, images, slic.type)
        ensure_masks(images, mask_dir, [slic])
    dataset = R2OViews(
        images,
        spec=wiring.view_spec(settings),
        superpixel_size=settings.superpixel_size,
        segments=settings.slic_segments,
        mask_dir=mask_dir,
        seed=config.seed,
    )
    return wiring.make_loader(dataset, config, device)


def prepare(batch: dict[str, Any]) -> dict[str, Any]:
    """Photometric augmentation of the views and normalisation of all images, on the device."""
    views = prepare_views(batch["images"], batch["photometric"])
    return batch | {"images": views, "spanning": normalise_pixels(batch["spanning"])}


def make_curriculum(schedule: ClusterSchedule) -> Callable[[Progress], int | None]:
    """K at a Progress, None for no clustering."""
    by_epoch = clusters_by_epoch(**schedule.model_dump())
    return lambda progress: by_epoch(progress.epoch)


def scale_by_clusters(rate: Schedule, clusters: Callable[[Progress], int | None], scale: float | None) -> Schedule:
    """The rate times K / scale, as released; R2O couples them."""
    if scale is None:
        return rate
    # Without clustering there is no K; the release multiplies by its stand-in 9999 there.
    return lambda progress: rate(progress) * (clusters(progress) or scale) / scale


def make_method(config: R2OConfig, *, momentum: Schedule, clusters: Callable[[Progress], int | None]) -> R2O:
    model, data, clustering = config.model, config.data, config.clustering
    last, total = clustering.scheduler.epochs[-1], config.optimizer.total_epochs
    if clustering.scheduler.type != "constant" and last != total:
        fate = "never gets to its end" if last > total else "stays at its end"
        _log.warning("clustering.scheduler.epochs ends at %d, optimizer.total_epochs is %d: K %s", last, total, fate)
    trunk = wiring.build_trunk(model, seed=config.seed)
    projector, predictor = make_heads(trunk.levels[model.region_level].channels, model.projection, model.predictor)
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
        region_size=clustering.region_size,
        images_per_kmeans=clustering.images_per_kmeans,
        max_iter=clustering.max_iter,
        soft_labels=clustering.soft_labels,
        overlap_indicator=data.overlap_indicator,
        weight_by_area=data.weight,
        joint_views=model.joint_views,
    )


if __name__ == "__main__":
    sys.exit(main())
