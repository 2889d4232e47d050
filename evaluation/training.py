"""What the evaluators have in common: a command line, and training on labels by the loop of pretraining."""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.utils.data import Dataset

from data.loader import Loader
from data.sampler import EpochSampler
from data.views import collate as collate_items
from engine.lars import parameter_groups
from engine.loop import Plan, train_epochs
from engine.optimizers import build_optimizer
from engine.place import find_run, note_run
from engine.precision import Precision, memory_format
from engine.run import Run
from engine.schedules import rate_schedule
from evaluation.backbones import hold_weights
from evaluation.settings import Evaluator, Solver, TrainedEvaluator
from utils.cli import run_main
from utils.config import dump_config
from utils.distributed import all_reduce_sum, is_main, rank, world_size
from utils.files import atomic_write_bytes
from utils.log import setup_logging
from utils.method import Progress
from utils.sync_batch_norm import convert_sync_batchnorm

Collate = Callable[[list[dict]], dict]


class Trained(NamedTuple):
    """A run that came to its end, or to `--max_steps`."""

    folder: Path
    steps: int
    total_steps: int


def run_evaluator(
    program: str,
    schema: type[Evaluator],
    evaluate: Callable[[Any, argparse.Namespace, torch.device], None],
    *,
    description: str,
    argv: list[str] | None = None,
) -> int:
    """An evaluator's `main`: the command line of the mains, with `--weights`, and configs of configs/evaluation/PROGRAM."""
    return run_main(
        f"evaluation/{program}", schema, evaluate, description=description, argv=argv, add_arguments=_add_weights
    )


def train_method(
    name: str,
    method: nn.Module,
    dataset: Dataset,
    config: TrainedEvaluator,
    arguments: argparse.Namespace,
    device: torch.device,
    *,
    prepare: Callable[[dict], dict] = lambda batch: batch,
    collate: Collate = collate_items,
) -> Trained:
    """Train a method on labels, in place, from its newest checkpoint on; every process calls it.

    Args:
        name: of the program; its runs lie in runs/evaluation/NAME.
        method: see utils.method.Method; put on the device, with SyncBN where the config asks for it.
        dataset: takes (epoch, index), gives what `collate` takes.
        prepare: a batch's normalisation, on the device.
    Returns:
        The run's folder, and how far the run came; the method's BatchNorm statistics are the same on every process. A backbone
        that began untrained and was trained to the end lies in the folder as backbone.pth, to be judged as a run's.
    """
    settings, solver = config.data, config.optimizer
    sampler = EpochSampler(
        len(dataset),
        batch_size=settings.train_batch_size,
        world_size=world_size(),
        rank=rank(),
        accumulate_steps=solver.accumulate_steps,
        seed=config.seed,
    )
    loader = Loader(dataset, sampler, workers=settings.data_workers, device=device, collate=collate)
    steps_per_epoch = len(loader) // solver.accumulate_steps
    total_steps = solver.total_steps or solver.total_epochs * steps_per_epoch
    plan = Plan(
        math.ceil(total_steps / steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
        accumulate_steps=solver.accumulate_steps,
        seed=config.seed,
        log_step=config.log.log_step,
        kept_epochs=(config.checkpoint.save_epoch,),
        max_steps=min(total_steps, arguments.max_steps or total_steps),
        max_bad_fraction=settings.max_bad_fraction,
    )
    run = Run(
        find_run(f"evaluation/{name}", config, out=arguments.out, resume=arguments.resume),
        config,
        steps_per_epoch=steps_per_epoch,
        long_in_epochs=solver.total_steps is None,
    )
    hold_weights(run.folder, config.model)
    run.log.text(
        f"{len(dataset)} images, {world_size()} processes on {device.type}, {plan.last_step} of {total_steps} steps; "
        f"everything goes to {run.folder}"
    )
    optimizer, precision = _put_on_device(method, config, device)
    epochs = train_epochs(
        method,
        loader,
        optimizer,
        plan=plan,
        run=run,
        precision=precision,
        prepare=prepare,
        learning_rate=_learning_rate(config, steps_per_epoch, total_steps),
        schedules={},
    )
    # Set here and not by the loop: a frozen backbone stays in eval mode by its method's own `train`.
    method.train()
    for _ in epochs:
        pass
    share_statistics(method)
    is_trained = any(weight.requires_grad for weight in method.backbone.parameters())
    # One that came from elsewhere may have strides that config.yaml does not tell.
    if is_trained and config.model.weights is None and plan.last_step == total_steps:
        run.export(method.backbone)
    run.log.close()
    return Trained(run.folder, max(run.first_step, plan.last_step), total_steps)


@torch.no_grad()
def share_statistics(method: nn.Module) -> None:
    """The mean of all processes' BatchNorm statistics, which differ where training did not synchronise them."""
    for layer in method.modules():
        if isinstance(layer, _BatchNorm) and layer.track_running_stats:
            for statistic in (layer.running_mean, layer.running_var):
                statistic.copy_(all_reduce_sum(statistic) / world_size())


def open_folder(name: str, config: Evaluator, arguments: argparse.Namespace) -> Path:
    """The folder of an evaluation that trains nothing; what is in it from an earlier start is kept.

    Raises:
        UserError: it holds another evaluation, and `--resume` does not say to go on.
    """
    place = find_run(f"evaluation/{name}", config, out=arguments.out, resume=arguments.resume)
    setup_logging(place.folder)
    if is_main():
        atomic_write_bytes(place.folder / "config.yaml", dump_config(config).encode())
        note_run(place, config)
    hold_weights(place.folder, config.model)
    return place.folder


def _add_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        metavar="PATH",
        dest="overrides",
        action="append",
        # Quoted, or a name such as 20261122_003000 would be a number to YAML.
        type=lambda path: f"model.weights={json.dumps(path)}",
        default=[],
        help="a run's folder, or any checkpoint that evaluation.convert reads; without it the backbone is untrained",
    )


def _put_on_device(method: nn.Module, config: TrainedEvaluator, device: torch.device) -> tuple[Optimizer, Precision]:
    method.to(device, memory_format=memory_format(device))
    if world_size() > 1 and config.amp.sync_bn:
        convert_sync_batchnorm(method, device)
    solver = config.optimizer
    optimizer = build_optimizer(
        _groups(method, solver), type=solver.type, momentum=solver.momentum, nesterov=solver.nesterov
    )
    precision = Precision(config.amp.opt_level, dtype=config.amp.dtype, backend=config.amp.backend, device=device)
    return precision.prepare(method, optimizer)[1], precision


def _groups(method: nn.Module, solver: Solver) -> list[dict[str, Any]]:
    """Parameters that share a rate and a decay."""
    trunk = set(map(id, method.backbone.parameters()))
    groups = []
    for group in parameter_groups(method, weight_decay=solver.weight_decay, exclude_bias_and_bn=not solver.decay_norm):
        for of_trunk in (True, False):
            own = [parameter for parameter in group["params"] if (id(parameter) in trunk) == of_trunk]
            if own:
                groups.append({**group, "params": own, "lr_scale": 1.0 if of_trunk else solver.head_lr_scale})
    return groups


def _learning_rate(config: TrainedEvaluator, steps_per_epoch: int, total_steps: int) -> Callable[[Progress], float]:
    solver = config.optimizer
    unit = steps_per_epoch if solver.total_epochs else 1
    return rate_schedule(
        lr_type=solver.schedule,
        base_lr=solver.base_lr,
        base_batch=solver.base_batch,
        global_batch=config.data.train_batch_size * world_size() * solver.accumulate_steps,
        total_steps=total_steps,
        warmup_steps=solver.warmup_steps,
        warmup_start=solver.warmup_start,
        drop=solver.drop,
        final_lr=solver.final_lr,
        milestones=[place * unit for place in solver.milestones],
    )
