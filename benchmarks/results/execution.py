"""Programs that are run side by side, until they are done or time is up."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from utils.errors import PREEMPTED, UserError
from utils.files import read_json, write_json

# Of a run's folder: what its programs took, over all pieces.
SECONDS = "seconds.json"
# Seconds that a program has after its SIGTERM.
_GRACE = 60
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Execution:
    """Runs programs of this interpreter, several threads' at a time.

    Args:
        threads: CPU threads of each.
        jobs: how many run at a time, which is noted beside their seconds.
        minutes: after so many, or after Ctrl-C, SIGTERM or SIGHUP, programs are asked to stop, and `stopped` is set; None for
            no end.
    """

    def __init__(self, *, threads: int, jobs: int = 1, minutes: float | None = None):
        self._jobs = jobs
        self._environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self._running: set[subprocess.Popen] = set()
        # Reentrant: a signal may come while it is held.
        self._lock = threading.RLock()
        self.stopped = False
        self._kill_at = float("inf")
        for number in _STOPS:
            signal.signal(number, lambda *_: self.stop())
        if minutes is not None:
            timer = threading.Timer(60 * minutes, self.stop)
            timer.daemon = True
            timer.start()

    def stop(self) -> None:
        """Ask what runs to save itself, and start nothing more."""
        with self._lock:
            if not self.stopped:
                self._kill_at = time.monotonic() + _GRACE
            self.stopped = True
            for process in self._running:
                process.send_signal(signal.SIGTERM)

    def run(
        self, arguments: tuple[str, ...], *, log: Path, folder: Path | None = None, is_parallel: bool = True
    ) -> tuple[int, float]:
        """Run `python ARGUMENTS`, what it says going to a file.

        Args:
            log: appended to.
            folder: whose SECONDS gain the time, under the log's name.
            is_parallel: others run beside it; False lets it have all cores, and refuses to go on where it fails.
        Returns:
            Its exit code, PREEMPTED where it was asked to stop; and its seconds.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with log.open("ab") as output:
            process = self._start(arguments, output, self._environment if is_parallel else None)
            code = PREEMPTED if process is None else self._wait(process)
        seconds = time.monotonic() - began
        if folder is not None and (code in (0, PREEMPTED) or self.stopped):
            self._note(folder, log.stem, seconds)
        if code and not self.stopped and not is_parallel:
            raise UserError(f"python {' '.join(arguments)} ended with exit code {code}: see {log}")
        return (PREEMPTED if code and self.stopped else code), seconds

    def _start(self, arguments: tuple[str, ...], output: object, environment: dict | None) -> subprocess.Popen | None:
        with self._lock:
            if self.stopped:
                return None
            # In a session of its own: Ctrl-C is told to it once, by `stop`.
            process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
            self._running.add(process)
            return process

    def _wait(self, process: subprocess.Popen) -> int:
        code = None
        while code is None:
            try:
                code = process.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                if time.monotonic() > self._kill_at:
                    # Its workers are in its session.
                    os.killpg(process.pid, signal.SIGKILL)
        with self._lock:
            self._running.discard(process)
        return code

    def _note(self, folder: Path, name: str, seconds: float) -> None:
        path = folder / SECONDS
        noted = read_json(path) if path.is_file() else {}
        before = noted.get(name, {"seconds": 0, "at_once": 0})
        now = {"seconds": before["seconds"] + seconds, "at_once": max(before["at_once"], self._jobs)}
        write_json(path, {**noted, name: now})
