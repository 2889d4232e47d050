"""How far a long job is, and when it will be done: a bar in a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

from utils.distributed import is_main

# Without a terminal, a job that has no numbers to show still says that it lives.
_SECONDS_BETWEEN_LINES = 15.0


class ProgressBar:
    """Progress of a job of known length on rank 0's standard error; other ranks are silent. A context manager.

    Args:
        total: steps, or images, to be done in all.
        initial: how many were done before, by an earlier process; the ETA leaves them out.
        desc: what is counted, such as "step".
    """

    def __init__(self, total: int, *, initial: int = 0, desc: str = "step") -> None:
        self._total, self._initial, self._desc = total, initial, desc
        self._begin = self._last_line = time.monotonic()
        self._shows = is_main()
        self._bar = None
        if self._shows and sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=initial, desc=desc, dynamic_ncols=True)

    def update(self, done: int, scalars: Mapping[str, float] | None = None) -> None:
        """Show that `done` of `total` are done (counted from 0, not from the last call).

        Args:
            scalars: numbers to show beside; without a terminal, their coming is what prints a line.
        """
        if self._bar is not None:
            self._bar.n = done
            if scalars:
                self._bar.set_postfix_str(_format(scalars), refresh=False)
            self._bar.update(0)
        elif self._shows and (scalars or done >= self._total or self._is_silent()):
            self._last_line = time.monotonic()
            words = [f"{self._desc} {done}/{self._total}", _format(scalars or {}), f"eta {self.eta(done)}"]
            print(*filter(None, words), file=sys.stderr, flush=True)

    def eta(self, done: int) -> str:
        """Time left at the pace since the start, as 1:02:03 or 2:03; `?` before the first step."""
        if done <= self._initial:
            return "?"
        seconds = (time.monotonic() - self._begin) / (done - self._initial) * max(self._total - done, 0)
        return tqdm.format_interval(seconds)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _is_silent(self) -> bool:
        return time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES


def _format(scalars: Mapping[str, float]) -> str:
    return " ".join(f"{name}={float(value):.4g}" for name, value in scalars.items())
