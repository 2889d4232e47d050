"""TensorBoard's event files, written where the caller hears of a full disk: tensorboardX' own SummaryWriter writes in a thread,
whose death is not told and leaves the caller waiting at a full queue.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

_FLUSH_SECONDS = 60.0


class EventFile:
    """One more event file in a folder.

    Args:
        folder: TensorBoard's, made where missing.
        first_step: what is there of this step and later ones is hidden.
    Raises:
        OSError: as all its methods.
    """

    def __init__(self, folder: str | os.PathLike, *, first_step: int) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._file, self._flushed_at = EventsWriter(os.path.join(folder, "events")), time.monotonic()
        self._write(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, number in numbers.items():
            self._write(Event(step=step, summary=summary.scalar(name, number)))

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """`picture` is (H, W, 3) uint8 RGB."""
        self._write(Event(step=step, summary=summary.image(name, picture, dataformats="HWC")))

    def close(self) -> None:
        self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        try:
            self._file.write_event(event)
            if time.monotonic() - self._flushed_at > _FLUSH_SECONDS:
                self._file.flush()
                self._flushed_at = time.monotonic()
        except OSError as error:
            if error.errno is not None:
                error.filename = error.filename or str(self._folder)
            raise
