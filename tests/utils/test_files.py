import os
import signal
import subprocess
import sys

import pytest

from utils.files import atomic_path, atomic_write_bytes, read_json, write_json


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


def test_the_old_file_stands_until_the_body_is_over(tmp_path):
    path = tmp_path / "file.bin"
    atomic_write_bytes(path, b"old")
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_a_kill_in_the_middle_of_a_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.bin"
    atomic_write_bytes(path, b"old")
    code = (
        "import os, signal, sys; from utils.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as temporary:\n"
        "    temporary.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"


def test_writers_that_go_by_the_suffix_find_it(tmp_path):
    with atomic_path(tmp_path / "x.png") as temporary:
        assert temporary.suffix == ".png" and temporary.parent == tmp_path
        temporary.touch()
