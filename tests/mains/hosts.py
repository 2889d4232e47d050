"""Two machines on one: network namespaces joined by a cable that can be cut, or is slow and loses packets."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.mains.cable import LossyCable

ADDRESSES = ("10.77.0.1", "10.77.0.2")


class TwoHosts:
    """Use as a context; skips the test where namespaces are not allowed.

    Args:
        loss, delay: of `LossyCable`; by default a pair of veth joins them, which is fast and loses nothing.
    """

    def __init__(self, *, loss: float = 0.0, delay: tuple[float, float] = (0.0, 0.0)):
        self.cable: LossyCable | None = None
        self._loss, self._delay = loss, delay
        self.names = tuple(f"pretrain{os.getpid()}{letter}" for letter in "ab")
        self._cables = tuple(f"vp{os.getpid()}{letter}" for letter in "ab")

    def __enter__(self) -> "TwoHosts":
        if os.geteuid() != 0 or not all(shutil.which(name) for name in ("ip", "unshare")):
            pytest.skip("two hosts take root, ip (iproute2) and unshare (util-linux)")
        try:
            self._lay()
        except (subprocess.CalledProcessError, OSError) as error:
            self._clear()
            pytest.skip(f"no network namespaces or cable here: {error} {getattr(error, 'stderr', '')}".strip())
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def start(self, number: int, command: list[str], log: Path) -> subprocess.Popen:
        """A command on one of them, in a process group of its own; what it says goes to `log`."""
        name = self.names[number]
        named = ["unshare", "--uts", "sh", "-c", f'hostname {name} && exec "$@"', "sh", *command]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        environment |= {"GLOO_SOCKET_IFNAME": self._cables[number], "TP_SOCKET_IFNAME": self._cables[number]}
        with open(log, "ab") as file:
            return subprocess.Popen(
                ["ip", "netns", "exec", name, *named],
                cwd=Path(__file__).parents[2],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def cut(self) -> None:
        """Pull the cable: nothing arrives any more, and nobody is told."""
        _do("ip", "-n", self.names[1], "link", "set", self._cables[1], "down")

    def _lay(self) -> None:
        for name in self.names:
            _do("ip", "netns", "add", name)
            # ip-netns puts this in the place of /etc/hosts.
            hosts = Path("/etc/netns") / name / "hosts"
            hosts.parent.mkdir(parents=True)
            lines = [f"{address} {other}" for address, other in zip(ADDRESSES, self.names)]
            hosts.write_text("\n".join(["127.0.0.1 localhost", *lines]) + "\n")
        if self._loss or any(self._delay):
            self.cable = LossyCable(self._cables, loss=self._loss, delay=self._delay)
        else:
            _do("ip", "link", "add", self._cables[0], "type", "veth", "peer", self._cables[1])
        for name, cable, address in zip(self.names, self._cables, ADDRESSES):
            _do("ip", "link", "set", cable, "netns", name)
            _do("ip", "-n", name, "address", "add", f"{address}/24", "dev", cable)
            for link in (cable, "lo"):
                _do("ip", "-n", name, "link", "set", link, "up")

    def _clear(self) -> None:
        if self.cable is not None:
            self.cable.close()
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)
            shutil.rmtree(Path("/etc/netns") / name, ignore_errors=True)
        subprocess.run(["ip", "link", "delete", self._cables[0]], capture_output=True)


def _do(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
