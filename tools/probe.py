"""What a run's backbone has learned: linear probes on its frozen features, beside the same backbone untrained.

python -m tools.probe RUN [--data_dir demo_data]
python -m tools.probe RUN --history [--limit 1000]        # of every checkpoint, kept as RUN/probe_history.json
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from data.photometric import normalise
from engine.checkpoint import load_checkpoint
from engine.run import find_checkpoints
from evaluation.calibration import recalibrate_on
from evaluation.probe_data import ProbeData, read_probe_data
from evaluation.probes import (
    Comparison,
    FeatureMap,
    compare_backbones,
    extract_features,
    feature_spread,
    format_comparisons,
    probe_backbone,
)
from models.backbone import Trunk, load_trunk, make_trunk
from tools.run_masks import read_config
from utils.cli import positive, shows_errors
from utils.errors import UserError
from utils.files import file_sha256, read_json, write_json
from utils.launch import launch

_SHOWN = ("segmentation mIoU", "region accuracy", "feature spread")


def probe_run(
    run: Path, data_dir: Path, *, limit: int | None = None, device: torch.device | None = None
) -> dict[str, Comparison]:
    """Compare a run's `backbone.pth` with the weights that the run began with.

    Args:
        run: a run's folder.
        data_dir: data with ground truth in the demo data's layout.
        limit: fit the probes to the first `limit` training images.
        device: by default the CPU.
    Raises:
        UserError: where the run has not been finished; DataError where there is no ground truth.
    """
    if not (run / "backbone.pth").is_file():
        raise UserError(f"{run}: no backbone.pth there; finish the run first")
    config = read_config(run)
    train, val = _read_data(config, data_dir, limit)
    maps = []
    for weights in (run / "backbone.pth", None):
        trunk = _make_trunk(config)
        if weights is not None:
            load_trunk(trunk, str(weights))
        maps.append(feature_map(trunk, train, level=_size_and_level(config)[1], device=device or torch.device("cpu")))
    return compare_backbones(*maps, train, val)


def probe_history(
    run: Path, data_dir: Path, *, limit: int | None, device: torch.device | None = None
) -> list[dict[str, Any]]:
    """Both probes on the weights that a run began with and on those of each checkpoint that is kept, finished or not.

    A probe is fitted once, to a half of the training images. RUN/probe_history.json holds the rows after each of them is done;
    those that are there and were made of the same are not made again.

    Args:
        run: a run's folder; of ORL's run, a stage's.
        data_dir: data with ground truth in the demo data's layout.
        limit: fit the probes to the first `limit` training images; None for all.
        device: by default the CPU.
    Returns:
        One row a number of steps, rising: "step", "epoch" (finished), "segmentation mIoU", "region accuracy", "feature spread"
        (see `feature_spread`; of the images that are judged) and "made_of", a checksum of what went into them.
    Raises:
        UserError: no run there, or a damaged checkpoint; DataError where there is no ground truth.
    """
    config, note = read_config(run), run / "probe_history.json"
    basis = [file_sha256(data_dir / "annotations" / f"instances_{split}.json") for split in ("train", "val")]
    basis += [limit, config["model"]["backbone"], config["seed"], _size_and_level(config)]
    checkpoints = (None, *find_checkpoints(run, config))
    made_of = {one: _checksum([*basis, one and file_sha256(one)]) for one in checkpoints}
    kept = {row["made_of"]: row for row in (read_json(note) if note.is_file() else [])}
    rows = {one: kept[made_of[one]] for one in checkpoints if made_of[one] in kept}
    lacking = [one for one in checkpoints if one not in rows]
    data = _read_data(config, data_dir, limit) if lacking else None
    for one in lacking:
        rows[one] = {**_probe_once(config, one, *data, device or torch.device("cpu")), "made_of": made_of[one]}
        write_json(note, _by_step(rows[one] for one in checkpoints if one in rows))
    return _by_step(rows.values())


def _by_step(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of two of one step, the later: the run went back and passed it again."""
    by_step = {row["step"]: row for row in rows}
    return [by_step[step] for step in sorted(by_step)]


def _probe_once(
    config: dict[str, Any], checkpoint: Path | None, train: ProbeData, val: ProbeData, device: torch.device
) -> dict[str, Any]:
    """The row of a checkpoint, or of the weights that the run began with."""
    trunk, state = _make_trunk(config), {"step": 0, "epoch": 0}
    if checkpoint is not None:
        state = load_checkpoint(checkpoint)
        prefix = "backbone."
        own = {name: value for name, value in state["method"].items() if name.startswith(prefix)}
        trunk.load_state_dict({name.removeprefix(prefix): value for name, value in own.items()})
    features = feature_map(trunk, train, level=_size_and_level(config)[1], device=device)
    scores = probe_backbone(features, train, val, num_seeds=1)
    row = {name: one.mean for name, one in scores.items()}
    row["feature spread"] = feature_spread(extract_features(features, val.images))
    return {"step": state["step"], "epoch": state["epoch"], **{name: row[name] for name in _SHOWN}}


def format_history(history: list[dict[str, Any]]) -> str:
    """A table, one row a checkpoint."""
    lines = [f"{'step':>8}{'epoch':>7}" + "".join(f"{name:>19}" for name in _SHOWN)]
    for row in history:
        miou, accuracy, spread = (row[name] for name in _SHOWN)
        lines.append(f"{row['step']:>8}{row['epoch']:>7}{miou:>19.1%}{accuracy:>19.1%}{spread:>19.3f}")
    return "\n".join(lines)


def _size_and_level(config: dict[str, Any]) -> tuple[int, str]:
    """Side of the images, and the level that is probed: the highest that R2O trains, else C5."""
    return config["data"]["resize_size"], config["model"].get("region_level", "c5")


def _read_data(config: dict[str, Any], data_dir: Path, limit: int | None) -> tuple[ProbeData, ProbeData]:
    size, _ = _size_and_level(config)
    return read_probe_data(data_dir, "train", size=size, limit=limit), read_probe_data(data_dir, "val", size=size)


def _checksum(parts: list) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _make_trunk(config: dict[str, Any]) -> Trunk:
    """The trunk with the weights that a run of this config starts from."""
    torch.manual_seed(config["seed"])
    return make_trunk(**config["model"]["backbone"])


def feature_map(trunk: Trunk, train: ProbeData, *, level: str, device: torch.device) -> FeatureMap:
    """Features of a level in eval mode, after all backbones alike have seen the probe's images for their BatchNorm."""
    recalibrate_on(trunk.to(device), train.images[:1024], device=device)
    return lambda images: trunk(normalise(images.to(device) / 255), last=level)[level]


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("--data_dir", type=Path, default=Path("demo_data"), help="the demo data, or data in its layout")
    parser.add_argument("--limit", type=positive, help="fit the probes to this many training images")
    parser.add_argument("--history", action="store_true", help="probe every checkpoint; kept as RUN/probe_history.json")
    arguments = parser.parse_args(argv)
    options = {"limit": arguments.limit, "device": launch(None, several=False)}
    if arguments.history:
        print(format_history(probe_history(arguments.run, arguments.data_dir, **options)))
        return 0
    print(format_comparisons(probe_run(arguments.run, arguments.data_dir, **options)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
