import os
import signal
import subprocess
import sys

import pytest

from tests.paths import ROOT
from utils.files import atomic_path, atomic_write_bytes, read_json, remove_leftovers, write_json


def test_json_comes_back_and_replaces_what_was_there(tmp_path):
    path = tmp_path / "deep" / "meta.json"
    write_json(path, {"a": [1, 2.5, None]})
    write_json(path, {"b": "é"})
    assert read_json(path) == {"b": "é"}
    assert os.listdir(path.parent) == ["meta.json"]


def test_a_failing_write_leaves_the_old_file_and_no_trace(tmp_path):
    path = tmp_path / "file.bin"
    atomic_write_bytes(path, b"old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.bin"]


def test_who_is_reading_the_old_file_reads_it_to_its_end(tmp_path):
    path = tmp_path / "file.bin"
    atomic_write_bytes(path, b"old")
    with open(path, "rb") as reader:
        atomic_write_bytes(path, b"new")
        assert reader.read() == b"old"


def test_the_old_file_stands_until_the_body_is_over(tmp_path):
    path = tmp_path / "file.bin"
    atomic_write_bytes(path, b"old")
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def killed_in_a_child(work):
    """Run `work` in a child process, which must end by SIGKILL."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_in_the_middle_of_a_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.bin"
    atomic_write_bytes(path, b"old")

    def write_half():
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            die()

    killed_in_a_child(write_half)
    assert path.read_bytes() == b"old"
    assert len(os.listdir(tmp_path)) == 2


def test_writers_that_go_by_the_suffix_find_it(tmp_path):
    with atomic_path(tmp_path / "x.png") as temporary:
        assert temporary.suffix == ".png" and temporary.parent == tmp_path
        temporary.touch()


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_kept(tmp_path):
    script = "import os, sys\nfrom utils.files import atomic_path\n"
    script += "with atomic_path(sys.argv[1]) as path: path.touch(); os._exit(9)"
    dead = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "a" / "x.png"], env=os.environ | {"PYTHONPATH": ROOT}
    )
    assert dead.returncode == 9
    (of_the_dead,) = tmp_path.rglob(".tmp-*")
    unknown, old = tmp_path / ".tmp-elsewhere-00000001-y.png", tmp_path / ".tmp-elsewhere-00000002-y.png"
    unknown.touch()
    old.touch()
    os.utime(old, (0, 0))
    with atomic_path(tmp_path / "z.png") as mine:
        mine.touch()
        remove_leftovers(tmp_path)
        assert mine.exists() and unknown.exists() and not old.exists() and not of_the_dead.exists()
    assert (tmp_path / "z.png").exists()


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="tells the dead by /proc")
def test_a_dead_process_that_nobody_waited_for_is_dead(tmp_path):
    script = "import os, sys\nfrom utils.files import atomic_path\n"
    script += "with atomic_path(sys.argv[1]) as path: path.touch(); os._exit(9)"
    dead = subprocess.Popen([sys.executable, "-c", script, tmp_path / "x.png"], env=os.environ | {"PYTHONPATH": ROOT})
    # Looks, and leaves it to be waited for.
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert dead.wait() == 9
