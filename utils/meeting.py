"""How the processes of a run meet at a store that may remember earlier attempts: torchrun keeps its own over restarts.

Nothing in the environment tells attempts apart: torchrun counts its restarts on each node by itself.
"""

import json
import secrets
import socket
import time

import torch.distributed as dist

from utils.errors import LostError

_POLL_SECONDS = 0.1
# Rank 0 says who is missing, where it can; the others wait for its word a little longer.
_GRACE_SECONDS = 10.0


def meet(store: dist.Store, *, rank: int, world_size: int, seconds: float) -> str:
    """Wait until all processes are there.

    Args:
        store: that all of them see.
        seconds: how long to wait.
    Returns:
        This meeting's name, the same on all and never used before; keys below it are this attempt's alone.
    Raises:
        LostError: naming those that did not come.
    """
    own = f"{secrets.token_hex(8)} {socket.gethostname()}"
    store.set(f"here/{rank}", own)
    if rank:
        return _follow(store, rank, own, time.monotonic() + seconds + _GRACE_SECONDS)
    return _lead(store, world_size, seconds)


def _lead(store: dist.Store, world_size: int, seconds: float) -> str:
    """Say whom rank 0 sees, until each has answered that this is its present self."""
    name, seen, others = secrets.token_hex(8), None, range(1, world_size)
    deadline = time.monotonic() + seconds
    while True:
        now = {str(rank): said for rank in others if (said := _read(store, f"here/{rank}"))}
        if now != seen:
            seen = now
            store.set("meeting", json.dumps({"name": name, "seen": seen}))
        missing = [
            rank for rank in others if str(rank) not in seen or _read(store, f"{name}/{rank}") != seen[str(rank)]
        ]
        if not missing:
            store.set(f"{name}/word", "")
            return name
        if time.monotonic() > deadline:
            message = _describe(missing, {rank: said.split()[1] for rank, said in seen.items()}, world_size, seconds)
            store.set(f"{name}/word", message)
            time.sleep(5 * _POLL_SECONDS)  # until the others have read it: the store may end with this process
            raise LostError(message)
        time.sleep(_POLL_SECONDS)


def _follow(store: dist.Store, rank: int, own: str, deadline: float) -> str:
    while True:
        try:
            found = json.loads(_read(store, "meeting") or "{}")
            word = None
            if found.get("seen", {}).get(str(rank)) == own:
                store.set(f"{found['name']}/{rank}", own)
                word = _read(store, f"{found['name']}/word")
        except RuntimeError as error:  # DistError is one
            raise LostError(f"rank {rank}: rank 0 is gone before the run began; see its log") from error
        if word:
            raise LostError(word)
        if word is not None:
            return found["name"]
        if time.monotonic() > deadline:
            raise LostError(f"rank {rank}: rank 0 says nothing; see its log")
        time.sleep(_POLL_SECONDS)


def _read(store: dist.Store, key: str) -> str | None:
    return store.get(key).decode() if store.check([key]) else None


def _describe(missing: list[int], hosts: dict[str, str], world_size: int, seconds: float) -> str:
    here = [f"0 on {socket.gethostname()}"]
    here += [f"{rank} on {host}" for rank, host in hosts.items() if int(rank) not in missing]
    return (
        f"rank {', '.join(map(str, missing))} of {world_size} did not come within {seconds / 60:g} minutes; here are rank "
        f"{', '.join(here)}. See the log of the node that is missing, and that all nodes were started with the same number of "
        "processes"
    )
