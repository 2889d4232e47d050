"""What rank 0 has made, on every rank, its arrays once in each machine's memory."""

import logging
import mmap
import pickle
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from utils.distributed import barrier, broadcast_object, gather_objects, on_main, rank, world_size
from utils.files import this_machine

_log = logging.getLogger(__name__)
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
    machines = gather_objects(this_machine())
    first = machines.index(machines[rank()])
    path = _MEMORY / f"pretraining-{broadcast_object(secrets.token_hex(8))}-{first}"
    is_there = gather_objects(rank() == first and _write(path, flat))[first]
    # A container may have little of such memory, or none: then each process keeps its own.
    buffers = _map(path, [len(one) for one in flat]) if is_there else flat
    barrier()
    if rank() == first:
        # What is mapped stays until the last process lets go of it.
        path.unlink(missing_ok=True)
    return pickle.loads(packed, buffers=buffers)  # nosec B301: from rank 0, not from a file


def _write(path: Path, arrays: list[np.ndarray]) -> bool:
    """Whether there was something to write, and room for it."""
    if not sum(map(len, arrays)):
        return False
    try:
        with open(path, "wb") as file:
            for one in arrays:
                file.write(one)
                file.write(bytes(-len(one) % _ALIGNMENT))
    except OSError as error:
        path.unlink(missing_ok=True)
        _log.warning("%s: %s; each process keeps lists of its own", _MEMORY, error.strerror)
        return False
    return True


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
