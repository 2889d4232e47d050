"""One process or many: who this process is, and what processes tell each other. Alone, all works without a group."""

import argparse
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from utils.errors import UserError

# Host-side waits (rank 0 makes masks, the others wait) may take hours; NCCL's own limit on gradients stays short.
_HOST_TIMEOUT = timedelta(days=2)
_host_group: dist.ProcessGroup | None = None


class _Place(NamedTuple):
    rank: int
    local_rank: int
    world_size: int


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """Accept the argument that torch.distributed.launch passes, in both of its spellings."""
    parser.add_argument("--local_rank", "--local-rank", type=int, default=None, help="set by torch.distributed.launch")


def launch(local_rank: int | None, *, distributed: bool | None = None) -> torch.device:
    """Join the process group that the launcher describes, and choose this process' device.

    Args:
        local_rank: what `--local_rank` gave; the variable LOCAL_RANK goes before it.
        distributed: False refuses to run as one of several processes; True and None follow the launcher.
    Returns:
        This process' GPU, or the CPU where no GPU is visible. The group is NCCL on GPUs and gloo on the CPU; one
        process alone gets none.
    Raises:
        UserError: where the launcher's variables are incomplete or there are fewer GPUs than processes on this machine.
    """
    place = _place(os.environ, local_rank)
    if place.world_size > 1 and distributed is False:
        raise UserError(
            f"this is one of {place.world_size} processes, but the config says `distributed: false`: "
            "set it to true, or start one process"
        )
    device = _choose_device(place.local_rank)
    if place.world_size > 1 and not dist.is_initialized():
        _join(place, device)
    return device


def shutdown() -> None:
    """Leave the process group, if there is one."""
    global _host_group
    if dist.is_initialized():
        dist.destroy_process_group()
    _host_group = None


def rank() -> int:
    """This process' number among all, 0 alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes there are, 1 alone."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process is the one that writes files and prints."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        dist.barrier(group=_host_group)


@contextmanager
def main_first() -> Iterator[None]:
    """Run the body on rank 0, then on the others: what rank 0 downloads or makes is there for them."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


def broadcast_object(obj: Any) -> Any:
    """Rank 0's object, on every rank; what the others hand in is ignored."""
    if world_size() == 1:
        return obj
    box = [obj if is_main() else None]
    dist.broadcast_object_list(box, src=0, group=_host_group)
    return box[0]


def on_main(function: Callable[[], Any]) -> Any:
    """What `function` returns on rank 0, on every rank; an error there is raised on every rank, so that none waits."""
    outcome = None
    if is_main():
        try:
            outcome = function()
        except UserError as error:
            outcome = error
        except Exception as error:
            # Others may lack what it takes to unpickle any other error; its text says enough to them.
            broadcast_object(RuntimeError(f"rank 0: {type(error).__name__}: {error}"))
            raise
    outcome = broadcast_object(outcome)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def gather_objects(obj: Any) -> list[Any]:
    """Every rank's object, in rank order, on every rank."""
    if world_size() == 1:
        return [obj]
    box: list[Any] = [None] * world_size()
    dist.all_gather_object(box, obj, group=_host_group)
    return box


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum over ranks as a new tensor without gradient; alone, the tensor itself, detached."""
    return _all_reduce(tensor, dist.ReduceOp.SUM)


def all_reduce_max(tensor: Tensor) -> Tensor:
    """The maximum over ranks as a new tensor without gradient; alone, the tensor itself, detached."""
    return _all_reduce(tensor, dist.ReduceOp.MAX)


def all_gather_rows(tensor: Tensor) -> Tensor:
    """Every rank's rows (N, ...), in rank order, as one tensor (W N, ...) without gradient, held once."""
    tensor = tensor.detach().contiguous()
    if world_size() == 1:
        return tensor
    gathered = tensor.new_empty(world_size() * len(tensor), *tensor.shape[1:])
    dist.all_gather_into_tensor(gathered, tensor, group=_group_for(tensor))
    return gathered


def all_to_all_rows(tensor: Tensor, send: list[int], receive: list[int]) -> Tensor:
    """Rows handed out to the ranks, and theirs received, without gradient.

    Args:
        tensor: (sum of `send`, ...), the rows for rank 0 first.
        send, receive: how many rows go to and come from each rank.
    Returns:
        (sum of `receive`, ...), rank 0's rows first.
    """
    tensor = tensor.detach().contiguous()
    if world_size() == 1:
        return tensor
    received = tensor.new_empty(sum(receive), *tensor.shape[1:])
    dist.all_to_all_single(received, tensor, receive, send, group=_group_for(tensor))
    return received


def all_gather_with_grad(tensor: Tensor) -> Tensor:
    """Every rank's rows, in rank order, with gradient.

    Args:
        tensor: (N, ...), the same shape on every rank.
    Returns:
        (W N, ...). The gradient of a row is the sum of what all ranks' losses say about it, so that DDP's mean over
        ranks is the gradient of the mean of the ranks' losses.
    """
    return tensor if world_size() == 1 else _AllGather.apply(tensor)


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        return all_gather_rows(tensor)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> Tensor:
        return all_reduce_sum(gradient).chunk(world_size())[rank()]


def _all_reduce(tensor: Tensor, operation: dist.ReduceOp) -> Tensor:
    tensor = tensor.detach()
    if world_size() == 1:
        return tensor
    tensor = tensor.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(tensor, operation, group=_group_for(tensor))
    return tensor


def _group_for(tensor: Tensor) -> dist.ProcessGroup | None:
    # NCCL cannot carry CPU tensors; and on the CPU a group apart keeps SyncBN out of the order of DDP's own reductions.
    return None if tensor.is_cuda else _host_group


def _join(place: _Place, device: torch.device) -> None:
    global _host_group
    on_gpu = device.type == "cuda"
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        rank=place.rank,
        world_size=place.world_size,
        device_id=device if on_gpu else None,
    )
    _host_group = dist.new_group(backend="gloo", timeout=_HOST_TIMEOUT)


def _choose_device(local_rank: int) -> torch.device:
    num_gpus = torch.cuda.device_count()
    if num_gpus == 0:
        return torch.device("cpu")
    # SLURM's --gpus-per-task shows each process its own GPU alone.
    index = 0 if num_gpus == 1 and "SLURM_PROCID" in os.environ else local_rank
    if index >= num_gpus:
        raise UserError(
            f"process {local_rank} of this machine has no GPU: {num_gpus} visible. Start at most {num_gpus} processes "
            "here (--nproc_per_node), or hide the GPUs with CUDA_VISIBLE_DEVICES= to train on the CPU"
        )
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


def _place(environment: dict[str, str], local_rank: int | None) -> _Place:
    """Who this is, by torchrun's or torch.distributed.launch's variables, else SLURM's, else alone."""
    if "RANK" in environment or "WORLD_SIZE" in environment:
        missing = [name for name in ("RANK", "WORLD_SIZE") if name not in environment]
        if int(environment.get("WORLD_SIZE", 2)) > 1:
            missing += [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in environment]
        if missing:
            raise UserError(f"the launcher left {', '.join(missing)} unset: start with torchrun, or plain python alone")
        local = int(environment.get("LOCAL_RANK", local_rank or 0))
        return _Place(int(environment["RANK"]), local, int(environment["WORLD_SIZE"]))
    # Only srun sets the step's variables: plain python inside an sbatch script is one process, whatever the job asked.
    if "SLURM_PROCID" in environment and int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        nodes = environment.get("SLURM_STEP_NODELIST") or environment["SLURM_NODELIST"]
        environment.setdefault("MASTER_ADDR", _first_host(nodes))
        environment.setdefault("MASTER_PORT", str(20000 + int(environment.get("SLURM_JOB_ID", 0)) % 20000))
        return _Place(
            int(environment["SLURM_PROCID"]),
            int(environment["SLURM_LOCALID"]),
            int(environment["SLURM_STEP_NUM_TASKS"]),
        )
    return _Place(0, local_rank or 0, 1)


def _first_host(nodes: str) -> str:
    """The first host of a SLURM list: "gpu[003-005,9],x" gives gpu003."""
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes).group())
