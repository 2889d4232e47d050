"""Every evaluator in small, on a demo's backbone and on the same backbone untrained: `make eval-demo`, or

    python -m tools.eval_demo [--method detconb] [--only knn svm]

What is done already is not done again; what was stopped goes on.
"""

import argparse
import shutil
import sys
from itertools import product
from pathlib import Path

import yaml

from evaluation.backbones import run_folder, weights_checksum
from evaluation.results import RESULTS, format_results, read_results
from tools.demo import DATA, run_python
from tools.make_eval_data import make_eval_data
from utils.cli import shows_errors
from utils.files import read_json

# Program and its config, in the order of their time.
PROTOCOLS = {
    "classification": ("linear_demo", "finetune_demo"),
    "knn": ("demo",),
    "svm": ("demo",),
    "object_segmentation": ("demo",),
    "segmentation": ("voc_demo", "cityscapes_demo"),
    "detection": ("demo", "voc_demo"),
}


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="detconb", help="whose demo")
    parser.add_argument("--only", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS), metavar="PROGRAM")
    arguments = parser.parse_args(argv)
    run = run_folder(Path("runs/demo") / arguments.method)
    if not (run / "backbone.pth").is_file():
        print(f"No backbone in {run}: pretraining first.", flush=True)
        code = run_python("-m", "tools.demo", "--method", arguments.method)
        if code:
            return code
        run = run_folder(Path("runs/demo") / arguments.method)
    make_eval_data(DATA, DATA / "layouts")
    entries = []
    protocols = [(program, protocol) for program in arguments.only for protocol in PROTOCOLS[program]]
    for (program, protocol), weights in product(protocols, (None, run)):
        name = "pretrained" if weights else "untrained"
        folder = Path("runs/eval-demo") / arguments.method / program / protocol / name
        if not _is_done(folder, weights):
            code = run_python("-m", f"evaluation.{program}", *_arguments(protocol, folder, run, weights))
            if code:
                return code
        entries.append(read_results(folder))
    print(f"\nAll in per cent; the same evaluators on both, {run} as pretrained without labels:\n")
    print(format_results(entries))
    return 0


def _is_done(folder: Path, weights: Path | None) -> bool:
    """Whether there are results of today's weights; what is left of others is removed."""
    note = folder / "weights.json"
    if note.is_file() and read_json(note)["sha256"] != weights_checksum(weights and str(weights)):
        shutil.rmtree(folder)
    return (folder / RESULTS).is_file()


def _arguments(protocol: str, folder: Path, run: Path, weights: Path | None) -> list[str]:
    command = ["--cfg", protocol, "--out", str(folder), "--resume", "auto"]
    if weights is not None:
        return [*command, "--weights", str(weights)]
    # The same backbone as the run's, whose width and strides are its demo's own.
    backbone = yaml.safe_load((run / "config.yaml").read_text())["model"]["backbone"]
    return [
        *command,
        "--set",
        *(f"model.backbone.{key}={backbone[key]}" for key in ("type", "width", "blocks", "strides")),
    ]


if __name__ == "__main__":
    sys.exit(main())
