"""Threads of the processor. Imported by every main before torch, which reads the variable below when it loads."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

# OpenMP's threads spin while they wait, and so take the cores from the data workers that they wait for: on two cores with
# other work a step took ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch's operations on the CPU run in the calling thread."""
    import torch

    count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(count)
