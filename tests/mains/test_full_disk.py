"""A disk that is full, or becomes so: a message that names the file, nothing half-written, and with room the run goes on."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.mains import orl_runs, test_cyborgs, test_r2o, test_resim
from tests.mains.runs import assert_same, launched, make_pictures, newest, write_own_config

pytestmark = pytest.mark.slow
CONFIGS = {
    "r2o": test_r2o.CONFIG,
    "resim": test_resim.CONFIG,
    "orl": orl_runs.CONFIG,
    "cyborgs": test_cyborgs.CONFIG,
}


@pytest.fixture
def disk(tmp_path):
    """A folder on a disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and os.geteuid() == 0
    if not mounted or subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder]).returncode:
        pytest.skip("a small disk takes root and the right to mount")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)


def train(method: str, folder: Path, out: str, *arguments: str) -> tuple[int, str]:
    process = launched(method, folder, out, *arguments)
    said = process.communicate(timeout=200)[1]
    return process.returncode, said


@pytest.mark.parametrize("method", CONFIGS)
def test_a_disk_that_fills_up_ends_the_run_which_goes_on_when_there_is_room(tmp_path, disk, method):
    make_pictures(tmp_path)
    # Every epoch's checkpoint is kept.
    write_own_config(tmp_path, CONFIGS[method], checkpoint={"save_epoch": 1})
    stage = "stage3" if method == "orl" else "."
    assert train(method, tmp_path, "whole")[0] == 0
    needed = sum(path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file())
    for share in (0.3, 0.7):
        remount(disk, f"size={int(share * needed) // 1024}k")
        code, said = train(method, tmp_path, "disk/run", "--resume", "auto")
        assert code == 6 and "No space left on device" in said and "make room" in said and "Traceback" not in said, said
        assert str(disk) in said.splitlines()[-1]
        assert not list(disk.rglob(".tmp-*"))
    remount(disk, "size=64m")
    code, said = train(method, tmp_path, "disk/run", "--resume", "auto")
    assert code == 0, said
    assert_same(newest(tmp_path / "whole" / stage), newest(disk / "run" / stage))


def test_a_folder_that_may_not_be_written_ends_the_run_at_its_start(tmp_path, disk):
    make_pictures(tmp_path)
    write_own_config(tmp_path, CONFIGS["r2o"])
    remount(disk, "ro")
    code, said = train("r2o", tmp_path, "disk/run")
    assert code == 6 and str(disk) in said and "Read-only file system" in said and "Traceback" not in said, said
