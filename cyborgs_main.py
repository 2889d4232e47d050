"""Pretrain a backbone with CYBORGS: `python cyborgs_main.py --cfg cyborgs/coco_800ep`, alone or under torchrun.

Wiring only: config (schema in cyborgs_config.py) -> data -> method -> loop; what other methods share is in wiring.py. Between
epochs the run makes its own masks (tools/bootstrap.py).
"""

import utils.threads  # noqa: F401  isort: skip  before torch

import argparse
import logging
import re
import sys
from pathlib import Path

import torch

import wiring
from cyborgs_config import CyborgsConfig
from data.label_maps import check_label_maps, generation_type
from data.listing import ImageList
from data.loader import Loader
from data.mask_makers import maker_of
from data.masked_views import BootstrappedViews, Generations, MaskFolder
from engine.place import find_run
from engine.run import Run
from models.backbone import Trunk
from models.cyborgs import VMF, Cyborgs
from models.heads import make_heads
from tools.bootstrap import Clustering, ensure_generation
from tools.make_masks import ensure_masks
from tools.pictures import SampledMaskPictures
from tools.visualize_masks import GenerationPictures
from utils.cli import run_main
from utils.distributed import on_main
from wiring import Parts, Schedule, prepare

_log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    return run_main("cyborgs", CyborgsConfig, train, description=__doc__, argv=argv)


def train(config: CyborgsConfig, arguments: argparse.Namespace, device: torch.device) -> None:
    place = find_run("cyborgs", config, out=arguments.out, resume=arguments.resume)
    parts = build(config, device, max_steps=arguments.max_steps, run_folder=place.folder)
    run = wiring.start_run(place, config, parts, device)
    dataset, count = parts.loader.dataset, config.log.num_pictures
    sheet, views = GenerationPictures(dataset.images, count=count), SampledMaskPictures(dataset, count=count)
    for epoch in parts.epochs(run, prepare):
        make_generation(config, parts, run, epoch, device)
        number, steps = dataset.generations.number(epoch), parts.plan.steps_per_epoch
        since = dataset.generations.first_epoch(number) * steps
        sheet.draw(since, [dataset.generations.folder(one) for one in range(number + 1)], run.log)
        views.draw(parts.method, epoch, parts.plan.progress(epoch * steps), run.log)
    wiring.finish_run(run, parts.method)


def make_generation(config: CyborgsConfig, parts: Parts, run: Run, epoch: int, device: torch.device) -> None:
    """Make the label maps of an epoch's generation, if the run makes them and they are not there; all processes together."""
    generations, settings = parts.loader.dataset.generations, config.bootstrap
    number = generations.number(epoch)
    if number == 0 and settings.first_weights is None:
        return
    start = generations.first_epoch(number)
    # Resumed within the epoch, or in a later one, the weights are no longer those that the maps are made of.
    may_make = epoch == start and run.first_step <= start * parts.plan.steps_per_epoch
    is_first = number == 0 and may_make
    ensure_generation(
        parts.loader.dataset.images,
        generations.mask_dir,
        number,
        load_first_network(config) if is_first else parts.method.backbone,
        epoch=start,
        clustering=clustering_of(config),
        workers=config.data.data_workers,
        device=device,
        may_make=may_make,
    )


def clustering_of(config: CyborgsConfig) -> Clustering:
    """How the run's generations are made.

    Raises:
        ValueError: there are more clusters than a label map has labels.
    """
    settings = config.bootstrap
    return Clustering(
        layer=settings.layer_name,
        images_per_group=settings.imgs_per_batch,
        min_clusters=settings.min_clusters,
        max_clusters=settings.max_clusters,
        max_iter=settings.max_iter,
        seed=config.seed,
    )


def build(config: CyborgsConfig, device: torch.device, *, run_folder: Path, max_steps: int | None = None) -> Parts:
    """Config -> data, method, optimiser and schedules; every process of the group calls it."""
    momentum = wiring.target_momentum(config, rises=False)
    with wiring.refusals():
        method = make_method(config, momentum=momentum)
        layer = clustering_of(config).layer
        method.backbone.until(layer)
        if config.bootstrap.first_weights and not Path(run_folder, "masks", generation_type(0)).exists():
            load_first_network(config).until(layer)
    cells = method.pool_size**2
    method, optimizer, precision = wiring.put_on_device(method, config, device)
    # Last, since it may make a grid for every image: what is wrong with the model is known by now.
    loader = make_data(config, device, run_folder=run_folder, cells=cells)
    plan = wiring.make_plan(config, loader, max_steps=max_steps)
    if not config.baseline:
        # Whatever happens to a generation, the weights that it was made of are there to make it again.
        plan = plan._replace(kept_epochs=(*plan.kept_epochs, config.bootstrap.boot_freq))
    schedules = {"target_momentum": momentum}
    return Parts(loader, method, optimizer, precision, plan, wiring.learning_rate(config, plan), schedules)


def make_data(config: CyborgsConfig, device: torch.device, *, run_folder: Path, cells: int) -> Loader:
    """The listing, its first masks, and batches of views of as many `cells` each."""
    settings = config.data
    images = wiring.list_images(settings)
    dataset = BootstrappedViews(
        images,
        spec=wiring.view_spec(settings),
        generations=Generations(
            first=find_first_masks(config, images, run_folder / "masks"),
            mask_dir=run_folder / "masks",
            every=None if config.baseline else config.bootstrap.boot_freq,
        ),
        num_uniforms=max(config.loss.mask_rois, cells),
        scrambled=settings.scramble_masks,
        seed=config.seed,
    )
    return wiring.make_loader(dataset, config, device)


def find_first_masks(config: CyborgsConfig, images: ImageList, own: Path) -> MaskFolder:
    """Where the first generation lies, or will: masks on disk, a grid, made where it is missing, or the run's `own` folder."""
    if config.bootstrap.first_weights is not None:
        return MaskFolder(own, generation_type(0))
    mask_type = config.data.mask_type
    mask_dir = wiring.mask_dir(config.data, images, mask_type)
    if re.fullmatch(r"grid\d+x\d+", mask_type):
        ensure_masks(images, mask_dir, [maker_of(mask_type)])
    on_main(lambda: check_label_maps(mask_dir, mask_type, images))
    return MaskFolder(mask_dir, mask_type)


def load_first_network(config: CyborgsConfig) -> Trunk:
    """The network whose features make the first generation."""
    path = config.bootstrap.first_weights
    return wiring.load_encoder(path, config.model.backbone, key="bootstrap.first_weights").backbone


def make_method(config: CyborgsConfig, *, momentum: Schedule) -> Cyborgs:
    model, loss, bootstrap = config.model, config.loss, config.bootstrap
    trunk = wiring.build_trunk(model, seed=config.seed)
    top = model.levels[-1]
    if top != "c5":
        trunk.freeze_above(top)
        _log.warning("model.levels ends at %s, so the stages above it are not trained", top)
    channels = sum(trunk.levels[level].channels for level in model.levels)
    projector, predictor = make_heads(channels, model.projection, model.predictor, per_slot=model.norm_per_slot)
    vmf = VMF(
        weight=loss.vmf_weight,
        temperature=loss.vmf_temperature,
        min_clusters=bootstrap.min_clusters,
        max_clusters=bootstrap.max_clusters,
        every=loss.vmf_epochs,
        released=loss.vmf_released_sign,
    )
    return Cyborgs(
        trunk,
        projector,
        predictor,
        levels=tuple(model.levels),
        pool_size=-(-config.data.resize_size // trunk.levels[top].stride),
        num_regions=loss.mask_rois,
        momentum=momentum,
        temperature=loss.temperature,
        shared_regions=loss.shared_regions,
        joint_views=model.joint_views,
        vmf=vmf if loss.vmf_weight else None,
    )


if __name__ == "__main__":
    sys.exit(main())
