"""The row of the untrained backbone: a run's folder whose backbone has its first weights, which every method begins with.

python -m benchmarks.results.untrained --backbone '{type: resnet_tiny}' --seed 0 --out DIR
"""

import argparse
import sys
from pathlib import Path

import torch
import yaml

from engine.checkpoint import export_backbone
from models.backbone import make_trunk
from utils.files import atomic_write_bytes
from utils.sections import Backbone


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", type=yaml.safe_load, required=True, help="model.backbone of a config")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    settings = Backbone(**arguments.backbone).model_dump()
    config = {"model": {"backbone": settings}, "seed": arguments.seed}
    atomic_write_bytes(arguments.out / "config.yaml", yaml.safe_dump(config).encode())
    torch.manual_seed(arguments.seed)
    export_backbone(make_trunk(**settings), arguments.out / "backbone.pth")
    return 0


if __name__ == "__main__":
    sys.exit(main())
