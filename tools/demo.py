"""The demo: pretrain on the embedded scenes, show the regions, and say what the backbone learned.

python -m tools.demo [--method r2o|detconb|resim|orl|cyborgs|...] [--long]
"""

import argparse
import signal
import subprocess
import sys
from pathlib import Path

from PIL import Image

from engine.stop import WARNINGS
from evaluation.backbones import run_folder
from evaluation.mask_quality import format_scores, write_scores
from evaluation.probes import format_comparisons
from evaluation.truths import find_truth
from tools.config_table import schema_of
from tools.judge_masks import judge_masks
from tools.judge_pairs import judge_pairs
from tools.pictures import story
from tools.probe import probe_run
from tools.visualize_masks import run_sheet
from utils.cli import shows_errors
from utils.config import find_config, load_config
from utils.files import write_json

DATA = Path("demo_data")
_JUDGED = 1000  # scenes, by which masks are judged


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="r2o", help="which METHOD_main.py to run")
    parser.add_argument("--long", action="store_true", help="the longer setting, METHOD/demo_long")
    arguments = parser.parse_args(argv)
    name = "demo_long" if arguments.long else "demo"
    run = Path("runs") / name / arguments.method
    path = find_config(name, method=arguments.method)
    config, _ = load_config(path, schema_of(arguments.method))
    # Not every method has label maps, and a grid is made by the run that begins with it.
    mask_type = getattr(config.data, "mask_type", None)
    if mask_type is not None and not mask_type.startswith("grid"):
        making = ["tools.make_masks", "--dataset_dir", str(DATA), "--split", "train", "val"]
        making += ["--mask_type", mask_type]
        print(f"Making masks: python -m {' '.join(making)}")
        code = run_python("-m", *making)
        if code:
            return code
    print(f"Pretraining with configs/{arguments.method}/{name}.yaml; Ctrl-C saves, and the same command goes on.")
    code = run_python(
        f"{arguments.method}_main.py",
        "--cfg",
        f"{arguments.method}/{name}",
        "--out",
        str(run),
        "--resume",
        "auto",
    )
    if code:
        return code
    # ORL's stages have folders of their own.
    trained, stage_2 = run_folder(run), run / "stage2"
    picture = draw_picture(trained)
    print("Probing: linear models on frozen features of the embedded scenes, fitted on train, judged on val ...")
    comparisons = probe_run(trained, DATA)
    write_json(trained / "probes.json", {name: row._asdict() for name, row in comparisons.items()})
    print(f"""
{format_comparisons(comparisons)}
{describe_pairs(stage_2) if stage_2.is_dir() else ""}{describe_masks(trained) if (trained / "masks").is_dir() else ""}
{picture}
backbone                  {trained}/backbone.pth (torchvision's keys)
checkpoints               {trained}/checkpoints
run folder                {trained} (config.yaml, metrics.jsonl, log.txt, probes.json)
TensorBoard               tensorboard --logdir {run}
""")
    return 0


def run_python(*arguments: str) -> int:
    """Run this interpreter; its exit code, 128 + n where signal n ended it.

    Requests to stop go to it, and it is waited for: a run finishes its step and saves.
    """
    process = subprocess.Popen([sys.executable, *arguments])
    # A terminal's Ctrl-C reaches both by itself.
    handlers = {signal.SIGINT: lambda *_: None} | {
        number: lambda number, _: process.send_signal(number) for number in WARNINGS
    }
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        code = process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def describe_pairs(stage_2: Path) -> str:
    """What ORL's second stage found, as a number and as pictures."""
    return f"""
Boxes of neighbouring images that the second stage matched, by the objects they show:
{judge_pairs(stage_2, DATA)}

proposals, neighbours, matched pairs  {stage_2}/pictures
"""


def describe_masks(run: Path) -> str:
    """How well the masks of each of CYBORGS' generations fit the objects; keeps the figures as RUN/mask_quality.json."""
    scores = judge_masks(run, limit=_JUDGED)
    write_scores(run / "mask_quality.json", scores)
    return f"""
Masks of each generation beside the objects of {_JUDGED} scenes:
{format_scores(scores)}
"""


def draw_picture(run: Path) -> str:
    """The line that says what there is to see of the regions; makes the sheet of regions becoming objects where there is one."""
    folder = run / "pictures"
    if (run / "masks").is_dir():
        Image.fromarray(run_sheet(run, count=6, truth=find_truth(DATA, "train"))).save(run / "generations.png")
        return f"masks of each generation  {run}/generations.png"
    if any(folder.glob("regions_*.png")):
        Image.fromarray(story(folder)).save(run / "regions.png")
        return f"regions becoming objects  {run}/regions.png (each epoch's in {folder})"
    sheets = sorted(folder.glob("*.png"))
    return f"views and their regions   {sheets[-1] if sheets else 'none drawn'}"


if __name__ == "__main__":
    sys.exit(main())
