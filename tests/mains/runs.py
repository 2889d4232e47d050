"""What the tests of the mains do with runs: make pictures, launch, wait, compare checkpoints."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

from tests.mains import train_in_float64
from tests.paths import ROOT
from tests.utils.two_ranks import run_two_ranks

# What every method's tests train: at 32 px its grids are 32, 16, 8 and 4 cells wide.
TINY_MODEL = {
    "backbone": {"type": "resnet_tiny", "width": 4},
    "projection": {"hidden_dim": 16, "output_dim": 8},
    "predictor": {"hidden_dim": 16, "output_dim": 8},
}


def make_pictures(folder: Path, count: int = 27) -> None:
    """Pictures of coloured rectangles, 60 x 48, in three classes below images/train."""
    rng = np.random.default_rng(0)
    for number in range(count):
        blocks = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        path = folder / "images" / "train" / f"class{number % 3}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.kron(blocks, np.ones((12, 12, 1), np.uint8))).save(path)


def write_own_config(folder: Path, basis: dict[str, dict], *, name: str = "own", **sections: dict) -> None:
    """FOLDER/NAME.yaml: `basis` with the given keys of some sections changed, on the folder's images."""
    config = {name: values | sections.get(name, {}) for name, values in basis.items()}
    config["data"]["image_dir"] = str(folder)
    config |= {name: values for name, values in sections.items() if name not in basis}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def newest(run: Path) -> dict:
    """The newest checkpoint of a run."""
    sidecars = {json.loads(path.read_text())["serial"]: path for path in (run / "checkpoints").glob("*.json")}
    return torch.load(sidecars[max(sidecars)].with_suffix(""), weights_only=True)


def assert_same(state: dict, other: dict) -> None:
    """Two checkpoints hold the same steps, parameters and optimiser state, to the bit."""
    assert state["step"] == other["step"]
    for part in ("method", "optimizer"):
        ours, theirs = dict(_leaves(state[part])), dict(_leaves(other[part]))
        assert ours.keys() == theirs.keys()
        different = [
            name for name in ours if not torch.equal(torch.as_tensor(ours[name]), torch.as_tensor(theirs[name]))
        ]
        assert different == []


def _leaves(tree, prefix=""):
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, f"{prefix}.{key}")
    elif isinstance(tree, (list, tuple)):
        for index, value in enumerate(tree):
            yield from _leaves(value, f"{prefix}.{index}")
    elif not isinstance(tree, str) and tree is not None:
        yield prefix, tree


def assert_two_processes_equal_one(
    folder: Path, method: str, basis: dict[str, dict], cases: dict[str, dict], *, found: Path | None = None
) -> None:
    """Five steps in float64, one process with a batch of 8 and two with 4 each: equal to 1e-9 of each tensor's size.

    Args:
        cases: name -> sections of a config; all are trained in one launch.
        found: what ORL's second stage left for the third.
    """
    if found is not None:
        (folder / "stage2").symlink_to(found)
    for name, sections in cases.items():
        write_own_config(folder, basis, name=name, **sections)
    one = train_in_float64.main(folder, method, *cases, out="one")
    for name, sections in cases.items():
        data = sections.get("data", {}) | {"train_batch_size": 4}
        write_own_config(folder, basis, name=name, **{**sections, "data": data})
    two = run_two_ranks(train_in_float64.__file__, folder, method, *cases)
    for case in cases:
        for name, value in one[case].items():
            for other in two:
                assert near(other[case][name], value), (case, name)


def near(value: torch.Tensor, expected: torch.Tensor) -> bool:
    """Equal but for the order of sums in float64."""
    # A bias that starts at zero in front of a BatchNorm has no gradient but rounding.
    floor = max(1e-9 * expected.abs().max().item(), 1e-14)
    return torch.allclose(value, expected, rtol=1e-9, atol=floor)


def launched(method: str, folder: Path, out: str, *arguments: str) -> subprocess.Popen:
    """METHOD_main.py by FOLDER/own.yaml as a process group of its own."""
    command = [sys.executable, f"{method}_main.py", "--cfg", str(folder / "own.yaml"), "--out", str(folder / out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *arguments],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
        # A shell that starts these tests in the background has Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_step(run: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists() or len((run / "metrics.jsonl").read_text().splitlines()) < step:
        assert time.monotonic() < deadline, "the run does not get going"
        time.sleep(0.01)


def assert_a_killed_run_goes_on(method: str, folder: Path, *, number: int = signal.SIGKILL, stage: str = ".") -> None:
    """METHOD by FOLDER/own.yaml, killed with its data workers past step 14 and resumed, equals an uninterrupted run.

    Args:
        stage: the run's folder below `--out`.
    """
    assert launched(method, folder, "whole").wait(timeout=200) == 0
    process = launched(method, folder, "killed")
    wait_for_step(folder / "killed" / stage, 14)
    os.killpg(process.pid, number)
    code = process.wait(timeout=60)
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 75), process.stderr.read()
    assert launched(method, folder, "killed", "--resume", "auto").wait(timeout=200) == 0
    assert_same(newest(folder / "whole" / stage), newest(folder / "killed" / stage))
