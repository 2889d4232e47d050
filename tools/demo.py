"""The demo: pretrain on the embedded scenes, show regions becoming objects, and say what the backbone learned.

python -m tools.demo [--method r2o] [--long]
"""

import argparse
import subprocess
import sys
from pathlib import Path

from PIL import Image

from evaluation.probes import format_comparisons
from tools.pictures import story
from tools.probe import probe_run
from utils.files import write_json

DATA = Path("demo_data")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="r2o", help="which METHOD_main.py to run")
    parser.add_argument("--long", action="store_true", help="the longer setting, METHOD/demo_long")
    arguments = parser.parse_args(argv)
    name = "demo_long" if arguments.long else "demo"
    run = Path("runs") / name / arguments.method
    print(f"Pretraining with configs/{arguments.method}/{name}.yaml; after Ctrl-C it goes on from its last epoch.")
    command = [
        sys.executable,
        f"{arguments.method}_main.py",
        "--cfg",
        f"{arguments.method}/{name}",
        "--out",
        str(run),
        "--resume",
        "auto",
    ]
    try:
        code = subprocess.run(command).returncode
    except KeyboardInterrupt:
        return 130
    if code:
        return code
    if any((run / "pictures").glob("regions_*.png")):
        Image.fromarray(story(run / "pictures")).save(run / "regions.png")
    print("Probing: linear models on frozen features of the embedded scenes, fitted on train, judged on val ...")
    comparisons = probe_run(run, DATA)
    write_json(run / "probes.json", {name: row._asdict() for name, row in comparisons.items()})
    print(f"""
{format_comparisons(comparisons)}

regions becoming objects  {run}/regions.png (each epoch's in {run}/pictures)
backbone                  {run}/backbone.pth (torchvision's keys)
checkpoints               {run}/checkpoints
run folder                {run} (config.yaml, metrics.jsonl, log.txt, probes.json)
TensorBoard               tensorboard --logdir {run}/tensorboard
""")
    return 0


if __name__ == "__main__":
    sys.exit(main())
