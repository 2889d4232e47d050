"""The last step of each run of the benchmark: evaluate its frozen features, and write all that was found as result.json.

python -m benchmarks.results.measure --size cpu --name r2o --seed 0 --folder runs/results/cpu/r2o/seed0
"""

import utils.threads  # noqa: F401  isort: skip  before torch

import argparse
import importlib
import math
import os
import platform
import re
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.results.execution import SECONDS
from benchmarks.results.manifest import Manifest, read_manifest
from benchmarks.results.steps import RESULT, all_settings, evaluator_arguments, is_pretrained
from engine.schedules import NO_CLUSTERING
from evaluation.backbones import load_backbone, run_folder, weights_checksum
from evaluation.mask_quality import MaskQuality
from evaluation.probe_data import read_probe_data
from evaluation.probes import probe_backbone
from evaluation.results import RESULTS, read_results
from evaluation.settings import Network
from tools.judge_masks import judge_masks
from tools.probe import feature_map, probe_history
from tools.region_maps import make_region_maps
from tools.report_data import read_metrics
from utils.cli import shows_errors
from utils.cores import processor_name
from utils.files import read_json, write_json
from utils.launch import launch

DATA = Path("demo_data")
SEGMENTATION, REGIONS = "linear segmentation mIoU", "region accuracy"
# Points of a loss curve, at most.
_POINTS = 100

Row = dict[str, Any]


def measure(size: str, manifest: Manifest, name: str, seed: int, folder: Path, *, device: torch.device) -> Row:
    """What result.json holds; docs/results.md shows it."""
    entry, trained = manifest.runs[name], run_folder(folder / "pretrain")
    logged, _ = read_metrics(trained / "metrics.jsonl")
    has_method = is_pretrained(entry)
    return {
        "name": name,
        "title": entry.title,
        "seed": seed,
        "size": Path(size).stem,
        "program": entry.program,
        "config": entry.cfg,
        "settings": all_settings(manifest, entry, seed),
        "group": entry.group,
        "images": sum(images_seen(one) for one in {trained, folder / "pretrain" / "stage1"}),
        "cost": cost(manifest, folder, logged),
        "metrics": metrics(manifest, folder, trained, device=device),
        "history": history(manifest, trained, device=device) if has_method else [],
        "losses": curve(logged, "total_loss"),
        "clusters": clusters(logged) if entry.program == "r2o" else None,
        "regions": regions(manifest, entry.program, trained, device=device) if has_method else None,
        "hardware": hardware(),
        "date": time.strftime("%Y-%m-%d"),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
    }


def images_seen(run: Path) -> int:
    """Images that a run was shown, each with its two views."""
    logged, _ = read_metrics(run / "metrics.jsonl")
    if not logged:
        return 0
    config = yaml.safe_load((run / "config.yaml").read_text())
    return logged[-1]["step"] * config["data"]["train_batch_size"] * config["optimizer"]["accumulate_steps"]


def cost(manifest: Manifest, folder: Path, logged: list[Row]) -> Row | None:
    """Seconds of the whole program, with what it does beside training, and the usual rate of training itself."""
    if not logged:
        return None
    noted = read_json(folder / SECONDS) if (folder / SECONDS).is_file() else {}
    if "pretrain" not in noted:
        # The benchmark was killed while it went on, so nobody knows.
        return None
    return {
        "seconds": noted["pretrain"]["seconds"],
        "images_per_second": statistics.median(row["images_per_second"] for row in logged),
        "at_once": noted["pretrain"]["at_once"],
        "threads": manifest.threads,
    }


def metrics(manifest: Manifest, folder: Path, trained: Path, *, device: torch.device) -> dict[str, float]:
    """Both linear probes, and what the evaluators found."""
    found = linear_probes(trained, size=manifest.size, device=device)
    for evaluation in manifest.evaluations:
        out = folder / evaluation.program
        if (out / RESULTS).is_file() and read_results(out).get("weights_sha256") != weights_checksum(str(trained)):
            # Of a backbone that has been trained anew since.
            shutil.rmtree(out)
        if not (out / RESULTS).is_file():
            # In this process: starting one takes longer than some evaluations.
            program = importlib.import_module(f"evaluation.{evaluation.program}")
            code = program.main(list(evaluator_arguments(evaluation, trained, out)))
            if code:
                sys.exit(code)
        own = read_results(out)["metrics"]
        found |= {name: own[key] for key, name in evaluation.metrics.items()}
    return found


def linear_probes(trained: Path, *, size: int, device: torch.device) -> dict[str, float]:
    """Mean scores of linear models on the frozen C5 of a run's backbone; see evaluation/probes.py."""
    trunk = load_backbone(Network(weights=str(trained)), seed=0)
    train, val = (read_probe_data(DATA, split, size=size) for split in ("train", "val"))
    scores = probe_backbone(feature_map(trunk, train, level="c5", device=device), train, val)
    return {SEGMENTATION: scores["segmentation mIoU"].mean, REGIONS: scores["region accuracy"].mean}


def history(manifest: Manifest, trained: Path, *, device: torch.device) -> list[Row]:
    rows = probe_history(trained, DATA, limit=manifest.probes.history_limit, device=device)
    kept = {"segmentation mIoU": SEGMENTATION, "region accuracy": REGIONS, "feature spread": "feature spread"}
    return [
        {"step": row["step"], "epoch": row["epoch"], **{name: row[key] for key, name in kept.items()}} for row in rows
    ]


def curve(logged: list[Row], key: str) -> list[tuple[int, float]]:
    """[step, value], thinned."""
    every = max(1, math.ceil(len(logged) / _POINTS))
    return [(row["step"], row[key]) for row in logged[::every] if row.get(key) is not None]


def clusters(logged: list[Row]) -> list[tuple[float, int | None]]:
    """[epoch, K], K None where superpixels stay apart."""
    return [(row["epoch"], None if row["clusters"] == NO_CLUSTERING else row["clusters"]) for row in logged]


def regions(manifest: Manifest, program: str, trained: Path, *, device: torch.device) -> list[Row] | None:
    """How well the regions that a method compares fit the objects, over its epochs; None for those that know no label map."""
    limit = manifest.probes.region_limit
    if program == "r2o":
        make_region_maps(trained, limit=limit, device=device)
    elif program not in ("detconb", "cyborgs"):
        return None
    config = yaml.safe_load((trained / "config.yaml").read_text())
    every = config.get("bootstrap", {}).get("boot_freq", 1)
    rows = [
        {"epoch": epoch_of(name, every), "masks": name, **in_words(quality)}
        for name, quality in judge_masks(trained, limit=limit).items()
    ]
    return sorted(rows, key=lambda row: row["epoch"])


def epoch_of(name: str, every: int) -> int:
    """When masks were made: R2O's folders tell the epoch, CYBORGS' the generation; others were there before."""
    kind, _, number = name.partition("_")
    if kind == "epoch":
        return int(number)
    return int(number) * every if re.fullmatch(r"gen_\d+", name) else 0


def in_words(quality: MaskQuality) -> Row:
    return {
        "best IoU": quality.best_iou,
        "boundary F": quality.boundary_f,
        "ARI": quality.ari,
        "labels": quality.labels_per_image,
    }


def hardware() -> Row:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": processor_name(), "cores": os.cpu_count(), "gpu": gpu}


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", required=True, help="cpu, gpu, or a manifest's file")
    parser.add_argument("--name", required=True, help="a run of the manifest")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="the run's")
    arguments = parser.parse_args(argv)
    result = measure(
        arguments.size,
        read_manifest(arguments.size),
        arguments.name,
        arguments.seed,
        arguments.folder,
        device=launch(None, several=False),
    )
    write_json(arguments.folder / RESULT, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
