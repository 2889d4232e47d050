"""What rank 0 has made, on every rank, its arrays once in each machine's memory."""

import mmap
import pickle
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from utils.distributed import barrier, broadcast_object, gather_objects, on_main, rank, world_size

_MEMORY = Path("/dev/shm")  # nosec B108: files there are made by names that none can guess
_ALIGNMENT = 64


def share_from_main(function: Callable[[], Any]) -> Any:
    """As `utils.distributed.on_main`, for results whose NumPy arrays are large: processes of a machine share their memory.

    The first process of each machine writes the arrays to a file in memory, which all map and nobody may write to.
    """
    if world_size() == 1:
        return function()
    parts: list[pickle.PickleBuffer] = []
    # Every rank hears of an error of rank 0's.
    packed = on_main(lambda: pickle.dumps(function(), protocol=5, buffer_callback=parts.append))
    flat = broadcast_object([np.frombuffer(part.raw(), np.uint8) for part in parts])
    lengths = [len(one) for one in flat]
    hosts = gather_objects(socket.gethostname())
    first = hosts.index(hosts[rank()])
    path = _MEMORY / f"pretraining-{broadcast_object(secrets.token_hex(8))}-{first}"
    if rank() == first and sum(lengths):
        with open(path, "wb") as file:
            for one in flat:
                file.write(one)
                file.write(bytes(-len(one) % _ALIGNMENT))
    del flat
    barrier()
    buffers = _map(path, lengths) if sum(lengths) else [b"" for _ in lengths]
    barrier()
    if rank() == first:
        # What is mapped stays until the last process lets go of it.
        path.unlink(missing_ok=True)
    return pickle.loads(packed, buffers=buffers)  # nosec B301: from rank 0, not from a file


def _map(path: Path, lengths: list[int]) -> list[memoryview]:
    with open(path, "rb") as file:
        view = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
    found, at = [], 0
    for length in lengths:
        found.append(view[at : at + length])
        at += length + -length % _ALIGNMENT
    return found


def memory_of(process: int | str = "self") -> int:
    """Bytes that a process holds beside its files on disk, what it shares with others counted by its share (PSS); Linux only."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    # The pages of torch's libraries would be divided among whatever else runs.
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
