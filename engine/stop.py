"""Asked to stop: what a process makes of signals."""

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from utils.distributed import all_reduce_max, world_size
from utils.errors import PREEMPTED

_log = logging.getLogger(__name__)
# By which schedulers announce that a process will be killed.
WARNINGS = (signal.SIGTERM, signal.SIGUSR1)
# One request may come twice, from a scheduler and from the launcher that it went to as well.
_SAME_REQUEST_SECONDS = 2.0


class StopRequest:
    """Notes SIGTERM, SIGUSR1 and Ctrl-C instead of dying at once, so that the step is finished and saved.

    A second request ends the process at once, with 128 + the signal's number; files on disk are whole whenever that is.
    """

    SIGNALS = (*WARNINGS, signal.SIGINT)

    def __init__(self):
        self._asked_at: float | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in self.SIGNALS:
            # What started this process in the background may have told it to leave Ctrl-C alone.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
            # No logging here: the handler may have interrupted it.
            os.write(2, b"asked to stop: finishing the step and saving; ask again to stop at once\n")
        elif now - self._asked_at > _SAME_REQUEST_SECONDS:
            os.write(2, b"asked again: stopping at once, without a checkpoint of the last steps\n")
            # Neither worker processes nor threads are waited for: they end with this process.
            os._exit(128 + number)

    def asked(self, *, agree: bool) -> bool:
        """Whether any process was asked to stop; several processes agree at the steps where `agree` is set."""
        asked = self._asked_at is not None
        if world_size() == 1:
            return asked
        return agree and bool(all_reduce_max(torch.tensor(int(asked))))


@contextmanager
def stops_at_once() -> Iterator[None]:
    """For work whose files are whole or absent, whenever it ends: a scheduler's warning ends this process, with PREEMPTED."""

    def end(number: int, frame: object) -> None:
        os.write(2, b"asked to stop; the same command with --resume auto goes on where this one stopped\n")
        os._exit(PREEMPTED)

    previous = {number: signal.signal(number, end) for number in WARNINGS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
