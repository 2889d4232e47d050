"""Processes watch each other: one that is lost or stuck ends the run, with a message that names it.

Every process has a thread that says through a store that it lives, and where its main thread is. Rank 0's thread judges, and the
others' threads end their processes by its word, or where they cannot hear it any more. Only the steps of the training loop are
timed: what a process does outside of them (masks, pictures, checkpoints) may take as long as it will, while the process lives.
"""

import itertools
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch.distributed as dist

from utils.errors import LostError

READING, COMPUTING = "reading images", "computing"
# Where several wait for each other, the one that is least far is waited for.
_ORDER = (READING, COMPUTING)
_log = logging.getLogger(__name__)
_watch: "_Watch | None" = None


def start(store: dist.Store, rank: int, world_size: int, *, seconds: float) -> None:
    """Begin to watch.

    Args:
        store: a connection that nothing else uses.
        seconds: after which one that is not heard of is lost, and one that does not move is stuck.
    """
    global _watch
    _watch = _Watch(dist.PrefixStore("watch", store), rank, world_size, seconds)


def stop() -> None:
    """Watch no longer, and be watched no longer."""
    global _watch
    if _watch is not None:
        _watch.stop()
    _watch = None


def at(step: int, doing: str) -> None:
    """Say where the training loop is; costs next to nothing."""
    if _watch is not None:
        _watch.place = (step, doing, time.monotonic())


def outside() -> None:
    """Say that what comes now is no step of the training loop."""
    if _watch is not None:
        _watch.place = None


class Heard(NamedTuple):
    """What one process was last heard of."""

    rank: int
    ago: float  # seconds since it said anything
    host: str = ""
    step: int | None = None  # None outside of the training loop
    doing: str = ""
    still: float = 0.0  # seconds that its main thread had been there for

    def where(self) -> str:
        host = f" on {self.host}" if self.host else ""
        place = "outside of the training loop" if self.step is None else f"at step {self.step}, {self.doing}"
        return f"rank {self.rank}{host} ({place})"


def judge(everyone: Sequence[Heard], seconds: float) -> str | None:
    """Who is lost or stuck, and what is known of it; None where all is well."""
    if lost := [one for one in everyone if one.ago > seconds]:
        return _lost(lost)
    if any(one.step is None or one.still <= seconds for one in everyone):
        return None
    # All wait for those that are least far.
    least = min((one.step, _ORDER.index(one.doing)) for one in everyone)
    stuck = [one for one in everyone if (one.step, _ORDER.index(one.doing)) == least]
    # Who is stuck still has a thread that says so; of a stopped process the last word may have been that it did not move.
    if silent := [one for one in stuck if one.ago > seconds / 2]:
        return _lost(silent)
    whom = "all ranks" if len(stuck) == len(everyone) else "; ".join(one.where() for one in stuck)
    return f"stuck for {min(one.still for one in stuck):.0f} s: {whom}" + (
        f" at step {least[0]}, {stuck[0].doing}" if len(stuck) == len(everyone) else ""
    )


def _lost(who: Sequence[Heard]) -> str:
    return f"lost: {'; '.join(one.where() for one in who)}, not heard of for {max(one.ago for one in who):.0f} s"


class _Watch:
    def __init__(self, store: dist.Store, rank: int, world_size: int, seconds: float):
        self.place: tuple[int, str, float] | None = None
        self._store, self._rank, self._world_size, self._seconds = store, rank, world_size, seconds
        self._interval = min(5.0, seconds / 5)
        self._stopping = threading.Event()
        self._answered = time.monotonic()
        self._heard: dict[int, tuple[str, float]] = {}
        self._main = threading.main_thread().ident
        for body in (self._talk, self._mind):
            threading.Thread(target=body, name=f"watch-{body.__name__}", daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()

    def _talk(self) -> None:
        for count in itertools.count():
            try:
                word = self._exchange(count)
                self._answered = time.monotonic()
            except RuntimeError:
                word = ""  # `_mind` counts the seconds
            if self._stopping.wait(self._interval):
                return
            if word:
                self._end(word)

    def _exchange(self, count: int) -> str:
        """Say that this process lives; what rank 0 has found, "" for nothing."""
        place = self.place
        state = {"count": count, "host": socket.gethostname()}
        if place is not None:
            state |= {"step": place[0], "doing": place[1], "still": time.monotonic() - place[2]}
        self._store.set(f"of/{self._rank}", json.dumps(state))
        if self._rank:
            return self._store.get("word").decode() if self._store.check(["word"]) else ""
        word = judge([self._hear(rank) for rank in range(self._world_size)], self._seconds)
        if word is None:
            return ""
        self._store.set("word", word)
        time.sleep(self._interval)  # and one more before it ends: until the others have read it
        return word

    def _hear(self, rank: int) -> Heard:
        key, now = f"of/{rank}", time.monotonic()
        said = self._store.get(key).decode() if self._store.check([key]) else "{}"
        if self._heard.get(rank, ("", 0.0))[0] != said or rank not in self._heard:
            self._heard[rank] = (said, now)
        state = json.loads(said)
        ago = now - self._heard[rank][1]
        still = state.get("still", 0.0) + ago
        return Heard(rank, ago, state.get("host", ""), state.get("step"), state.get("doing", ""), still)

    def _mind(self) -> None:
        """A question to a machine that is cut off waits for ever, so that another thread must look at the clock."""
        while not self._stopping.wait(min(1.0, self._interval)):
            silence = time.monotonic() - self._answered
            if silence > self._seconds:
                self._end(f"lost: rank 0's machine does not answer for {silence:.0f} s")

    def _end(self, word: str) -> None:
        frame = sys._current_frames().get(self._main)
        where = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "unknown"
        _log.error(
            "rank %d ends: %s. Its main thread is in %s. --resume auto goes on from the last checkpoint",
            self._rank,
            word,
            where,
        )
        for handler in logging.getLogger().handlers:
            handler.flush()
        # The main thread may be waiting in something that cannot be interrupted.
        os._exit(LostError.exit_code)
