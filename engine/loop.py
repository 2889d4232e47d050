"""The training loop of every method."""

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from engine.compiled import begin_pass
from engine.guard import FiniteGuard
from engine.meter import Meter
from engine.precision import Precision
from engine.run import Run
from engine.stop import StopRequest
from utils import watch
from utils.distributed import all_reduce_sum, rank, world_size
from utils.errors import DataError, Preempted
from utils.method import Method, Progress
from utils.seeding import torch_generator

# The rest is in metrics.jsonl, TensorBoard and wandb.
ON_CONSOLE = ("total_loss", "learning_rate", "images_per_second", "data_wait_share")


class Plan(NamedTuple):
    """How long to train, and how often to look up from it."""

    total_epochs: int
    steps_per_epoch: int
    accumulate_steps: int = 1
    seed: int = 0
    log_step: int = 10
    kept_epochs: tuple[int, ...] = (100,)  # checkpoints after every so many epochs are kept for good
    max_steps: int | None = None  # ends a run early; changes no schedule
    max_bad_fraction: float = 0.01
    cuda_graphs: bool = False  # networks live in them, see engine.compiled

    @property
    def last_step(self) -> int:
        total = self.total_epochs * self.steps_per_epoch
        return total if self.max_steps is None else min(total, self.max_steps)

    def keeps(self, epochs: int) -> bool:
        """Whether the checkpoint after so many epochs is kept for good."""
        return epochs == self.total_epochs or any(epochs % every == 0 for every in self.kept_epochs)

    def progress(self, step: int) -> Progress:
        return Progress(step, self.total_epochs * self.steps_per_epoch, step // self.steps_per_epoch)


def train_epochs(
    method: Method,
    loader: Any,
    optimizer: Optimizer,
    *,
    plan: Plan,
    run: Run,
    precision: Precision,
    prepare: Callable[[dict], dict],
    learning_rate: Callable[[Progress], float],
    schedules: dict[str, Callable[[Progress], float]],
) -> Iterator[int]:
    """Train, yielding each epoch before it begins, so that what belongs between epochs stands in the caller's body.

    A resumed run yields once more the epoch that it was stopped in: the body must be safe to run again.

    Args:
        method: see utils.method.Method; on its device.
        loader: gives batches on the device; has `set_epoch`, `unreadable`, `num_images`, `batch_size`.
        run: this run's checkpoints and log; its newest checkpoint is continued from.
        prepare: photometric work and normalisation of a batch, on the device.
        learning_rate: the rate at a Progress; a group of the optimiser may scale it by its `lr_scale`.
        schedules: further numbers to log, such as the target's momentum.
    Raises:
        DivergedError: a loss was not finite; nothing is saved after it.
        DataError: more than `plan.max_bad_fraction` of the images could not be read.
        Preempted: the process was asked to stop and has saved a checkpoint.
    """
    device = next(method.parameters()).device
    wrapped = distribute(method)

    def rate_at(step: int) -> float:
        return learning_rate(plan.progress(step))

    guard, meter = FiniteGuard(device), Meter(device, images_per_step=loader.batch_size * plan.accumulate_steps)
    step = run.restore(method, optimizer, precision)
    with StopRequest() as stop, run.progress_bar(total=plan.last_step, initial=step) as bar:
        while step < plan.last_step:
            epoch = step // plan.steps_per_epoch
            watch.outside()
            yield epoch
            loader.set_epoch(epoch, start_batch=step % plan.steps_per_epoch * plan.accumulate_steps)
            batches = meter.timed(loader)
            epoch_end = min(plan.last_step, (epoch + 1) * plan.steps_per_epoch)
            while step < epoch_end:
                progress, rate = plan.progress(step), rate_at(step)
                gradient_norm = train_step(
                    wrapped,
                    _micro_batches(batches, prepare, step, count=plan.accumulate_steps),
                    optimizer,
                    step=step,
                    plan=plan,
                    rate=rate,
                    precision=precision,
                    guard=guard,
                    meter=meter,
                )
                step += 1
                # What makes the host wait for the device, or a process for the others, happens at these steps only; but for
                # float16, whose scaler looks for overflows at every step.
                looks_up = step % plan.log_step == 0 or step == epoch_end
                if looks_up:
                    guard.check(rate_at)
                    _check_images(loader, plan.max_bad_fraction)
                    scalars = {
                        "learning_rate": rate,
                        "epoch": step / plan.steps_per_epoch,
                        "gradient_norm": float(gradient_norm),
                    }
                    scalars |= (
                        meter.read()
                        | precision.read()
                        | {name: schedule(progress) for name, schedule in schedules.items()}
                    )
                    run.log.scalars(step, scalars)
                    bar.update(step, {name: scalars[name] for name in ON_CONSOLE})
                stopping = stop.asked(agree=looks_up)
                if step == epoch_end or stopping or run.save_is_due(agree=looks_up):
                    guard.check(rate_at)
                    watch.outside()
                    finished = step % plan.steps_per_epoch == 0
                    kept = finished and plan.keeps(epoch + 1)
                    run.save(
                        method,
                        optimizer,
                        precision,
                        step=step,
                        epoch=epoch + finished,
                        permanent=kept,
                    )
                if stopping:
                    raise Preempted(f"asked to stop: saved at step {step}; start with --resume auto to go on")


def train_step(
    wrapped: nn.Module,
    micro_batches: Iterable[dict[str, Any]],
    optimizer: Optimizer,
    *,
    step: int,
    plan: Plan,
    rate: float,
    precision: Precision,
    guard: FiniteGuard,
    meter: Meter,
) -> torch.Tensor:
    """One optimiser step, all of it; the host queues work and never waits for the device, but for float16's scaler.

    Args:
        wrapped: what `distribute` made of the method.
        micro_batches: `plan.accumulate_steps` prepared batches, asked for one after the other.
        step: its number; with `plan.seed` it decides what is drawn.
        rate: of learning; a group of the optimiser may scale it by its `lr_scale`.
        guard, meter: are told of the step's losses and metrics.
    Returns:
        The norm of all gradients, on the device.
    """
    method = wrapped.module if isinstance(wrapped, DistributedDataParallel) else wrapped
    progress = plan.progress(step)
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1)
    method.before_step(progress)
    losses: dict[str, torch.Tensor] = {}
    for micro, batch in enumerate(micro_batches):
        if plan.cuda_graphs:
            begin_pass()
        generator = torch_generator(plan.seed, step, micro, rank())
        with _gradients_exchanged(wrapped, micro + 1 == plan.accumulate_steps):
            with precision.autocast():
                output = wrapped(batch, generator)
            precision.backward(sum(output.losses.values()) / plan.accumulate_steps)
        losses = {name: losses.get(name, 0) + loss.detach() for name, loss in output.losses.items()}
        meter.add(output)
    gradient_norm = precision.step(optimizer)
    optimizer.zero_grad()
    method.after_step(progress)
    # Overflowing gradients are float16's everyday; elsewhere they would spoil the next checkpoint unseen.
    guard.update(step, losses | ({} if precision.scales_loss else {"gradient_norm": gradient_norm}))
    meter.end_step()
    return gradient_norm


def _micro_batches(
    batches: Iterator[dict[str, Any]], prepare: Callable[[dict], dict], step: int, *, count: int
) -> Iterator[dict[str, Any]]:
    for _ in range(count):
        watch.at(step, watch.READING)
        batch = prepare(next(batches))
        watch.at(step, watch.COMPUTING)
        yield batch


def distribute(method: nn.Module) -> nn.Module:
    """The method as several processes train it: gradients are averaged in buckets while the backward pass goes on."""
    if world_size() == 1:
        return method
    # Buffers stay each process' own: a broadcast a step would cost time, and SyncBN keeps BatchNorm's equal anyway.
    # Without device_ids DDP leaves the batch alone: it would move to the GPU what is read on the host.
    with warnings.catch_warnings():
        # Newer torch announces another name for this argument, but not yet one that means the same.
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
        return DistributedDataParallel(method, broadcast_buffers=False, gradient_as_bucket_view=True)


def _gradients_exchanged(wrapped: nn.Module, now: bool) -> contextlib.AbstractContextManager:
    """DDP averages gradients over processes in the last micro-batch only."""
    if now or not isinstance(wrapped, DistributedDataParallel):
        return contextlib.nullcontext()
    return wrapped.no_sync()


def _check_images(loader: Any, max_bad_fraction: float) -> None:
    # Processes see different images within an epoch, so that their counts add up.
    bad = int(all_reduce_sum(torch.tensor(len(loader.unreadable))))
    if bad > max_bad_fraction * loader.num_images:
        some = "".join(f"\n  {name}: {reason}" for name, reason in list(loader.unreadable.items())[:10])
        raise DataError(
            f"{bad} of {loader.num_images} images could not be read in this epoch, more than "
            f"data.max_bad_fraction = {max_bad_fraction} allows. Repair or remove them, or raise the key.{some}"
        )
