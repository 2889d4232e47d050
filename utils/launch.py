"""How the processes of a run find each other: by torchrun, torch.distributed.launch or SLURM's srun; or one process alone."""

import argparse
import os
import re
import socket
from collections.abc import MutableMapping
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist

from utils import distributed, watch
from utils.errors import LostError, UserError
from utils.meeting import meet

# How long to wait for the others where nothing says so.
START_MINUTES = 30.0


class Place(NamedTuple):
    rank: int
    local_rank: int
    world_size: int


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """Accept the argument that torch.distributed.launch passes, in both of its spellings."""
    parser.add_argument("--local_rank", "--local-rank", type=int, default=None, help="set by torch.distributed.launch")


def launch(local_rank: int | None, *, several: bool | None = None, minutes: float | None = None) -> torch.device:
    """Join the process group that the launcher describes, and choose this process' device.

    Args:
        local_rank: what `--local_rank` gave; the variable LOCAL_RANK goes before it.
        several: False refuses to run as one of several processes; True and None follow the launcher.
        minutes: how long others may be missing, lost or stuck before all end; None waits for START_MINUTES at the start, and
            then for what the backends' own limits are.
    Returns:
        This process' GPU, or the CPU where no GPU is visible. The group is NCCL on GPUs and gloo on the CPU; one process alone
        gets none.
    Raises:
        UserError: where the launcher's variables are incomplete or there are fewer GPUs than processes on this machine.
        LostError: where others do not come; says which.
    """
    place = find_place(os.environ, local_rank)
    if place.world_size > 1 and several is False:
        raise UserError(
            f"this is one of {place.world_size} processes, but the config says `distributed: false`: "
            "set it to true, or start one process"
        )
    device = choose_device(place.local_rank)
    if place.world_size > 1 and not dist.is_initialized():
        timeout = timedelta(minutes=minutes or START_MINUTES)
        store = _connect(place, timeout)
        meeting = meet(store, rank=place.rank, world_size=place.world_size, seconds=timeout.total_seconds())
        distributed.join(
            dist.PrefixStore(f"{meeting}/group", store),
            rank=place.rank,
            world_size=place.world_size,
            local_rank=place.local_rank,
            device=device,
            watched=minutes is not None,
        )
        if minutes is not None:
            # A connection of its own: one that waits answers nobody else.
            own = dist.PrefixStore(meeting, _connect(place, timeout))
            watch.start(own, place.rank, place.world_size, seconds=60 * minutes)
    return device


def shutdown() -> None:
    """Leave the process group once all are here, if there is one."""
    if dist.is_initialized():
        distributed.barrier()
        watch.stop()
        # Rank 0 may hold what the others' last word goes through.
        distributed.barrier()
        distributed.leave()


def find_place(environment: MutableMapping[str, str], local_rank: int | None) -> Place:
    """Who this is, by torchrun's or torch.distributed.launch's variables, else SLURM's, else alone."""
    if "RANK" in environment or "WORLD_SIZE" in environment:
        missing = [name for name in ("RANK", "WORLD_SIZE") if name not in environment]
        if int(environment.get("WORLD_SIZE", 2)) > 1:
            missing += [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in environment]
        if missing:
            raise UserError(f"the launcher left {', '.join(missing)} unset: start with torchrun, or plain python alone")
        local = int(environment.get("LOCAL_RANK", local_rank or 0))
        return Place(int(environment["RANK"]), local, int(environment["WORLD_SIZE"]))
    # Only srun sets the step's variables: plain python inside an sbatch script is one process, whatever the job asked.
    if "SLURM_PROCID" in environment and int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        nodes = environment.get("SLURM_STEP_NODELIST") or environment["SLURM_NODELIST"]
        environment.setdefault("MASTER_ADDR", first_host(nodes))
        environment.setdefault("MASTER_PORT", str(20000 + int(environment.get("SLURM_JOB_ID", 0)) % 20000))
        return Place(
            int(environment["SLURM_PROCID"]),
            int(environment["SLURM_LOCALID"]),
            int(environment["SLURM_STEP_NUM_TASKS"]),
        )
    return Place(0, local_rank or 0, 1)


def first_host(nodes: str) -> str:
    """The first host of a SLURM list: "gpu[003-005,9],x" gives gpu003."""
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes).group())


def choose_device(local_rank: int) -> torch.device:
    """The GPU of a machine's process, or the CPU where no GPU is visible."""
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


def _connect(place: Place, timeout: timedelta) -> dist.Store:
    """A connection of this process' own to the store that rank 0, or torchrun, holds."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    holds = place.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        return dist.TCPStore(host, port, None, holds, timeout, wait_for_workers=False, multi_tenant=True)
    except RuntimeError as error:  # DistError is one
        reason = str(error).splitlines()[0]
        raise LostError(
            f"rank {place.rank} on {socket.gethostname()}: nobody answers at {host}:{port} (MASTER_ADDR, MASTER_PORT), where "
            f"rank 0 should be, for {timeout.total_seconds() / 60:g} minutes: {reason}"
        ) from error
