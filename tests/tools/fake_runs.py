"""Folders such as runs leave, for the tests of the report."""

import json
import math
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from utils.files import write_json

STEPS_PER_EPOCH = 10
LOG_STEP = 4


def make_run(
    folder: Path,
    *,
    epochs: int = 3,
    settings: dict | None = None,
    losses: tuple[str, ...] = ("loss",),
    clusters: bool = False,
    picture: str | None = "regions",
    seed: int = 0,
) -> Path:
    """A finished run's folder: falling losses, the numbers that the loop logs, a sheet before each epoch and at the end."""
    folder.mkdir(parents=True)
    config = {"model": {"base_momentum": 0.99}, "optimizer": {"base_lr": 0.1, "total_epochs": epochs}, "seed": seed}
    (folder / "config.yaml").write_text(yaml.safe_dump(config | (settings or {})))
    write_json(folder / "run.json", {"stamp": folder.name, "fingerprint": "0"})
    rng = np.random.default_rng(seed)
    steps = sorted({*range(LOG_STEP, epochs * STEPS_PER_EPOCH + 1, LOG_STEP), *_epoch_ends(epochs)})
    rows = [_row(step, losses, clusters, float(rng.uniform(0.9, 1.1))) for step in steps]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "backbone.pth").write_bytes(b"weights")
    for step in (0, *_epoch_ends(epochs)) if picture else ():
        draw(folder, picture, step)
    return folder


def draw(folder: Path, name: str, step: int, *, side: int = 24) -> None:
    """Keep a picture that no other step has."""
    path = folder / "pictures" / f"{name}_{step:08d}.png"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.full((side, side, 3), (step % 251, 90, 200), dtype=np.uint8)).save(path)


def charts_of(shown: dict) -> dict[str, dict]:
    """The charts of what `read_report` gave, by their names."""
    return {chart["id"]: chart for section in shown["sections"] for chart in section["charts"]}


def _epoch_ends(epochs: int) -> list[int]:
    return [STEPS_PER_EPOCH * epoch for epoch in range(1, epochs + 1)]


def _row(step: int, losses: tuple[str, ...], clusters: bool, noise: float) -> dict:
    parts = {name: noise * math.exp(-step / 20) / (place + 1) for place, name in enumerate(losses)}
    row = {"step": step, "learning_rate": 0.1 / step, "epoch": step / STEPS_PER_EPOCH, "gradient_norm": 2 * noise}
    row |= parts | {"regions_per_image": 10 * noise, "total_loss": sum(parts.values())}
    row |= {"images_per_second": 100 * noise, "step_seconds": 0.5, "data_wait_share": 0.1, "target_momentum": 0.99}
    return row | ({"clusters": 2 ** (5 - (step - 1) // STEPS_PER_EPOCH)} if clusters else {})
