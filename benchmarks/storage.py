"""What benchmarks of storage ask of Linux: forget files, count those opened and the bytes that come from disks."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

DROP_CACHES = Path("/proc/sys/vm/drop_caches")


def evict(files: Iterable[Path], *, everything: bool) -> None:
    """Drop files from the page cache; with `everything` all that the kernel keeps of all files."""
    if everything:
        os.sync()
        DROP_CACHES.write_text("3")
        return
    for path in files:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class OpenedFiles:
    """Files that this process opens below a folder, while `on`; Python tells of each."""

    def __init__(self, folder: Path):
        self.on, self.opened, self._folder = False, 0, str(folder)
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple) -> None:
        if self.on and event == "open":
            self.opened += str(arguments[0]).startswith(self._folder)

    @contextmanager
    def counting(self) -> Iterator[None]:
        self.on, self.opened = True, 0
        yield
        self.on = False


def disk_bytes() -> int:
    """What this process has had read from disks, reading ahead included."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))
