"""How the processes that read images begin, and what they make of a scheduler's signals."""

import atexit
import multiprocessing
import os
import signal
from collections.abc import Callable
from functools import partial
from multiprocessing.sharedctypes import Synchronized

import torch


def reader_start() -> Callable[[int], None]:
    """What a DataLoader of this process calls as each of its workers begins, `worker_init_fn`."""
    ending = multiprocessing.RawValue("b", 0)
    # Runs before multiprocessing's own exit handler, which ends the workers by SIGTERM and waits for them.
    atexit.register(_set, ending)
    return partial(_start, ending)


def _start(ending: Synchronized, worker: int) -> None:
    torch.set_num_threads(1)
    # A scheduler's warning goes to every process of a job. The process that computes saves and stops; workers that died at
    # once would take it down before it has. What that process itself sends as it ends, they obey.
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0) if ending.value else None)
    for number in (signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _set(ending: Synchronized) -> None:
    ending.value = 1
