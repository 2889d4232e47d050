"""What a run's backbone has learned: linear probes on its frozen features, beside the same backbone untrained.

python -m tools.probe RUN [--data_dir demo_data]
"""

import argparse
import sys
from pathlib import Path

import torch
import yaml

from data.photometric import normalise
from evaluation.calibration import recalibrate_on
from evaluation.probe_data import ProbeData, read_probe_data
from evaluation.probes import Comparison, FeatureMap, compare_backbones, format_comparisons
from models.backbone import Trunk, load_trunk, make_trunk
from utils.cli import shows_errors
from utils.errors import UserError


def probe_run(run: Path, data_dir: Path, *, limit: int | None = None) -> dict[str, Comparison]:
    """Compare a run's `backbone.pth` with the weights that the run began with.

    Args:
        run: a run's folder.
        data_dir: data with ground truth in the demo data's layout.
        limit: fit the probes to the first `limit` training images.
    Raises:
        UserError: where the run has not been finished; DataError where there is no ground truth.
    """
    if not (run / "backbone.pth").is_file():
        raise UserError(f"{run}: no backbone.pth there; finish the run first")
    config = yaml.safe_load((run / "config.yaml").read_text())
    size, level = config["data"]["resize_size"], config["model"].get("region_level", "c5")
    train = read_probe_data(data_dir, "train", size=size, limit=limit)
    val = read_probe_data(data_dir, "val", size=size)
    maps = []
    for weights in (run / "backbone.pth", None):
        trunk = _make_trunk(config)
        if weights is not None:
            load_trunk(trunk, str(weights))
        maps.append(_feature_map(trunk, level, train))
    return compare_backbones(*maps, train, val)


def _make_trunk(config: dict) -> Trunk:
    """The trunk with the weights that a run of this config starts from."""
    torch.manual_seed(config["seed"])
    return make_trunk(**config["model"]["backbone"])


def _feature_map(trunk: Trunk, level: str, train: ProbeData) -> FeatureMap:
    """Features of a level in eval mode, after both backbones alike have seen the probe's images for their BatchNorm."""
    recalibrate_on(trunk, train.images[:1024], device=torch.device("cpu"))
    return lambda images: trunk(normalise(images / 255), last=level)[level]


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("--data_dir", type=Path, default=Path("demo_data"), help="the demo data, or data in its layout")
    parser.add_argument("--limit", type=int, help="fit the probes to this many training images")
    arguments = parser.parse_args(argv)
    print(format_comparisons(probe_run(arguments.run, arguments.data_dir, limit=arguments.limit)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
