"""What the mains have in common: from a config's shared sections to data, optimiser, plan and run."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from data.label_maps import find_mask_dir
from data.listing import ImageList, find_images
from data.loader import Loader
from data.photometric import PHOTOMETRIC, prepare_views
from data.sampler import EpochSampler, find_windows
from data.views import ViewSpec
from engine.checkpoint import load_checkpoint
from engine.compiled import compile_network
from engine.lars import parameter_groups
from engine.loop import Plan, train_epochs
from engine.optimizers import build_optimizer
from engine.place import Place
from engine.precision import Precision, memory_format
from engine.run import Run
from engine.schedules import momentum_schedule, rate_schedule
from models.backbone import Trunk, make_trunk
from models.encoder import Encoder, make_encoder
from models.heads import MLP
from models.networks import networks_of
from utils.agreement import check_listing
from utils.distributed import main_first, rank, world_size
from utils.errors import UserError
from utils.method import Progress
from utils.sections import CUDA_GRAPHS, Backbone, Common, Data, SlowAverage
from utils.shared import share_from_main
from utils.sync_batch_norm import convert_sync_batchnorm

_log = logging.getLogger(__name__)

# A number that changes over a run: the learning rate, the target's momentum.
Schedule = Callable[[Progress], float]


class Parts(NamedTuple):
    """What a main hands to the loop."""

    loader: Loader
    method: nn.Module
    optimizer: Optimizer
    precision: Precision
    plan: Plan
    learning_rate: Schedule
    schedules: dict[str, Schedule]  # logged beside the rate

    def epochs(self, run: Run, prepare: Callable[[dict], dict]) -> Iterator[int]:
        """Train, yielding each epoch before it begins; see engine.loop.train_epochs."""
        return train_epochs(
            self.method,
            self.loader,
            self.optimizer,
            plan=self.plan,
            run=run,
            precision=self.precision,
            prepare=prepare,
            learning_rate=self.learning_rate,
            schedules=self.schedules,
        )


def start_run(place: Place, config: Common, parts: Parts, device: torch.device) -> Run:
    """Open the run's folder and say what is about to happen."""
    plan, loader = parts.plan, parts.loader
    listing = loader.dataset.images
    # In the shuffled order it does not matter in which shards they lie.
    images = listing.listing_hash + (listing.packing if config.data.order == "windows" else "")
    run = Run(place, config, steps_per_epoch=plan.steps_per_epoch, images=images)
    run.log.text(
        f"{loader.num_images} images, {world_size()} processes on {device.type}, {global_batch(config)} images a step, "
        f"{plan.steps_per_epoch} steps an epoch; everything goes to {run.folder}"
    )
    return run


def global_batch(config: Common) -> int:
    """Images an optimiser step, over all processes."""
    return config.data.train_batch_size * world_size() * config.optimizer.accumulate_steps


def list_images(settings: Data) -> ImageList:
    """The images to train on; rank 0 lists and all share its list, which must be that of every machine."""

    def find() -> ImageList:
        return find_images(settings.image_dir, split=settings.split, subset=settings.subset)

    images = share_from_main(find)
    check_listing(images, find)
    if settings.num_examples not in (None, len(images)):
        found = len(images)
        _log.warning(
            "data.num_examples says %d, but %s holds %d, which counts", settings.num_examples, images.root, found
        )
    return images


def mask_dir(settings: Data, images: ImageList, mask_type: str) -> Path:
    """Where label maps of a type lie."""
    return find_mask_dir(images, mask_type, mask_dir=settings.mask_dir, image_dir=settings.image_dir)


def view_spec(settings: Data, *, shared_flip: bool = False) -> ViewSpec:
    """How an image's views are drawn."""
    photometric = tuple(
        replace(view.at_size(settings.resize_size), grey_probability=settings.grey_probability)
        for view in PHOTOMETRIC[settings.photometric]
    )
    return ViewSpec(
        size=settings.resize_size,
        scale=(settings.min_crop, 1.0),
        flip_probability=settings.flip_probability,
        photometric=photometric,
        shared_flip=shared_flip,
        dct_scaling=settings.dct_scaling,
    )


def make_loader(dataset: Dataset, config: Common, device: torch.device) -> Loader:
    """This process' batches."""
    sampler = EpochSampler(
        len(dataset),
        batch_size=config.data.train_batch_size,
        world_size=world_size(),
        rank=rank(),
        accumulate_steps=config.optimizer.accumulate_steps,
        seed=config.seed,
        windows=find_windows(dataset.images, order=config.data.order, shards=config.data.window_shards),
    )
    return Loader(dataset, sampler, workers=config.data.data_workers, device=device)


def prepare(batch: dict[str, Any]) -> dict[str, Any]:
    """Photometric augmentation and normalisation of a batch's views, on the device."""
    return batch | {"images": prepare_views(batch["images"], batch["photometric"])}


def build_trunk(model: SlowAverage, *, seed: int) -> Trunk:
    """The backbone with its first weights; what is built after it draws from the same stream, the same on every process."""
    torch.manual_seed(seed)
    settings = model.backbone
    # torchvision's weights are downloaded once a machine's cache, not by every process at once.
    with main_first() if settings.pretrained is True else nullcontext():
        return make_trunk(**settings.model_dump())


def load_encoder(path: str | Path, backbone: Backbone, *, key: str) -> Encoder:
    """The network of a checkpoint of any method here, or of a `backbone.pth`, frozen.

    Args:
        backbone: what a `backbone.pth` must fit; a checkpoint brings its own.
        key: of the config, that names the file.
    """
    if not Path(path).is_file():
        raise UserError(f"{key}: no file {path}")
    try:
        return make_encoder(load_checkpoint(path), settings=backbone.model_dump())
    except (ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path}: neither a checkpoint of these programs nor a backbone.pth that fits model.backbone ({reason}): check {key}"
        ) from error


@contextmanager
def refusals() -> Iterator[None]:
    """What models refuse as a ValueError becomes a message for the user, whose config asked for it."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error


def target_momentum(config: Common, *, rises: bool = True) -> Schedule:
    return momentum_schedule(
        base=config.model.base_momentum,
        global_batch=global_batch(config),
        reference_batch=config.model.momentum_reference_batch,
        rises=rises,
    )


def put_on_device(method: nn.Module, config: Common, device: torch.device) -> tuple[nn.Module, Optimizer, Precision]:
    """The method on its device, with SyncBN where asked, its optimiser, and the precision they run in."""
    method = method.to(device, memory_format=memory_format(device))
    if world_size() > 1 and config.amp.sync_bn:
        method = convert_sync_batchnorm(method, device)
    settings = config.optimizer
    groups = parameter_groups(
        method,
        weight_decay=settings.weight_decay,
        exclude_bias_and_bn=settings.exclude_bias_and_bn,
        decay_stem_norm=settings.decay_stem_norm,
    )
    optimizer = build_optimizer(
        groups, type=settings.type, momentum=settings.momentum, lars_variant=settings.lars_variant
    )
    precision = Precision(
        config.amp.opt_level,
        dtype=config.amp.dtype,
        backend=config.amp.backend,
        device=device,
        clip_norm=settings.clip_norm,
    )
    method, optimizer = precision.prepare(method, optimizer)
    if config.model.compile:
        for network in networks_of(method):
            # Heads take as many regions as there are.
            compile_network(network, config.model.compile, shapes_vary=isinstance(network, MLP))
    return method, optimizer, precision


def make_plan(config: Common, loader: Loader, *, max_steps: int | None) -> Plan:
    accumulate = config.optimizer.accumulate_steps
    return Plan(
        config.optimizer.total_epochs,
        steps_per_epoch=len(loader) // accumulate,
        accumulate_steps=accumulate,
        seed=config.seed,
        log_step=config.log.log_step,
        kept_epochs=(config.checkpoint.save_epoch,),
        max_steps=max_steps,
        max_bad_fraction=config.data.max_bad_fraction,
        cuda_graphs=config.model.compile in CUDA_GRAPHS,
    )


def learning_rate(config: Common, plan: Plan) -> Schedule:
    settings = config.optimizer
    return rate_schedule(
        lr_type=settings.lr_type,
        base_lr=settings.base_lr,
        global_batch=global_batch(config),
        total_steps=plan.total_epochs * plan.steps_per_epoch,
        warmup_steps=int(settings.warmup_epochs * plan.steps_per_epoch),
        warmup_start=settings.warmup_start,
        final_lr=settings.final_lr,
        milestones=[epoch * plan.steps_per_epoch for epoch in settings.milestones],
    )


def finish_run(run: Run, method: Any) -> None:
    """Write the backbone and close the logs."""
    run.export(method.backbone)
    run.log.close()
