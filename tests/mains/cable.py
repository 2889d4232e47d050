"""A cable between two network namespaces that is slow and loses packets; needs no kernel module but tun's."""

import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import threading
import time
from collections.abc import Sequence

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_LARGEST_PACKET = 65535


class LossyCable:
    """Makes two interfaces, one for each end, and carries packets between them until closed.

    Args:
        names: the interfaces' names; they may be moved into other namespaces.
        delay: least and most seconds that a packet takes; one may overtake another.
        loss: the share of packets that never arrive.
    """

    def __init__(self, names: Sequence[str], *, delay: tuple[float, float], loss: float):
        self.carried = self.lost = 0
        self._delay, self._loss, self._random = delay, loss, random.Random(0)
        self._ends = [_open_end(name) for name in names]
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """The interfaces go with it."""
        self._closing.set()
        self._thread.join()
        for end in self._ends:
            os.close(end)

    def _carry(self) -> None:
        # (when it arrives, serial, where, packet)
        under_way: list[tuple[float, int, int, bytes]] = []
        serials = itertools.count()
        while not self._closing.is_set():
            pause = min(0.05, max(0.0, under_way[0][0] - time.monotonic())) if under_way else 0.05
            for end in select.select(self._ends, [], [], pause)[0]:
                packet = os.read(end, _LARGEST_PACKET)
                if self._random.random() < self._loss:
                    self.lost += 1
                    continue
                other = self._ends[1 - self._ends.index(end)]
                arrival = time.monotonic() + self._random.uniform(*self._delay)
                heapq.heappush(under_way, (arrival, next(serials), other, packet))
            while under_way and under_way[0][0] <= time.monotonic():
                *_, other, packet = heapq.heappop(under_way)
                try:
                    os.write(other, packet)
                except OSError:  # that end is not up yet, or no more
                    continue
                self.carried += 1


def _open_end(name: str) -> int:
    end = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return end
