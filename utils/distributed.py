"""One process or many: who this process is, and what processes tell each other. Alone, all works without a group.

utils.launch makes the group.
"""

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from utils.errors import LostError, UserError

# Host-side waits (rank 0 makes masks, the others wait) may take hours, and where processes watch each other (utils.watch), so may
# all: who waits for somebody that is lost is told so.
_LONG = timedelta(days=2)
# gloo's errors have no class of their own.
_BROKEN = re.compile("gloo|NCCL|Connection (closed|reset|refused)|Broken pipe|ProcessGroup", re.IGNORECASE)
_host_group: dist.ProcessGroup | None = None
_local_rank = 0


def join(
    store: dist.Store, *, rank: int, world_size: int, local_rank: int, device: torch.device, watched: bool
) -> None:
    """Make the process group, NCCL on GPUs and gloo on the CPU, and beside it one for what the host says; all call it.

    Args:
        store: that all processes see.
        watched: somebody else ends what waits in vain; False leaves that to NCCL's and gloo's own limits.
    """
    global _host_group, _local_rank
    on_gpu = device.type == "cuda"
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=store,
        rank=rank,
        world_size=world_size,
        timeout=_LONG if watched else None,
        device_id=device if on_gpu else None,
    )
    _host_group = dist.new_group(backend="gloo", timeout=_LONG)
    _local_rank = local_rank


def leave() -> None:
    """Leave the process group, if there is one."""
    global _host_group
    if dist.is_initialized():
        dist.destroy_process_group()
    _host_group = None


def lost_contact(error: RuntimeError) -> LostError | None:
    """What a failed exchange between processes is to the user; None for any other error."""
    if world_size() == 1 or not (isinstance(error, dist.DistError) or _BROKEN.search(str(error))):
        return None
    reason = str(error).strip().splitlines()[0]
    return LostError(
        f"rank {rank()} on {socket.gethostname()} lost contact with other processes ({reason}); their logs say why. "
        "--resume auto goes on from the last checkpoint"
    )


def rank() -> int:
    """This process' number among all, 0 alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def local_rank() -> int:
    """This process' number among those of its machine, 0 alone."""
    return _local_rank if dist.is_initialized() else 0


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


def barrier_within(minutes: float | None) -> None:
    """As `barrier`, where nobody may be late.

    Args:
        minutes: None waits as long as it takes.
    Raises:
        LostError: on rank 0, naming those that did not come; the others' calls fail as well.
    """
    if world_size() == 1:
        return
    if minutes is None:
        return barrier()
    try:
        dist.monitored_barrier(_host_group, timedelta(minutes=minutes), wait_all_ranks=True)
    except RuntimeError as error:
        raise LostError(f"rank {rank()}: {str(error).splitlines()[0]}") from error


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
