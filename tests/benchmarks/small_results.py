"""Made-up results of the learning benchmark, in the form that its runs leave."""

import json
from pathlib import Path
from typing import Any

QUALITIES = ("best IoU", "ARI", "boundary F")


def make_result(name: str, *, seed: int = 0, miou: float | None = 0.2, **changed: Any) -> dict[str, Any]:
    """One run's result.json; `miou` None leaves the metric out."""
    metrics = {"k-NN top-1": 0.5 + 0.01 * seed} | ({} if miou is None else {"linear segmentation mIoU": miou})
    return {
        "name": name,
        "title": name.upper(),
        "seed": seed,
        "size": "cpu",
        "program": "r2o",
        "config": "demo",
        "settings": {"optimizer.total_epochs": 10, "seed": seed},
        "group": "object",
        "images": 40000,
        "cost": {"seconds": 400 + seed, "images_per_second": 101.26, "at_once": 2, "threads": 1},
        "metrics": metrics,
        "history": [],
        "losses": [],
        "clusters": None,
        "regions": None,
        "hardware": {"cpu": "A processor", "cores": 2, "gpu": None},
        "date": "2026-11-22",
        "versions": {"python": "3.11.7", "torch": "2.15.0"},
    } | changed


def make_seeds(name: str, *mious: float | None, **changed: Any) -> list[dict[str, Any]]:
    """A seed for each score."""
    return [make_result(name, seed=seed, miou=miou, **changed) for seed, miou in enumerate(mious)]


def make_untrained(*mious: float, **changed: Any) -> list[dict[str, Any]]:
    """The untrained row, a seed for each score."""
    own = {"title": "Untrained", "group": "reference", "program": "untrained", "images": 0, "cost": None} | changed
    return make_seeds("untrained", *mious, **own)


def make_history(first: float, last: float) -> list[dict[str, Any]]:
    """Six checkpoints of a run of 620 steps and 10 epochs."""
    shares = [first + (last - first) * (1 - 0.5**place) for place in range(6)]
    return [
        {"step": 124 * place, "epoch": 2 * place, "linear segmentation mIoU": share, "feature spread": 0.4 + share}
        for place, share in enumerate(shares)
    ]


def make_regions(first: float, last: float, *, kind: str = "epoch") -> list[dict[str, Any]]:
    """Regions at six epochs, after the superpixels that an R2O run starts from."""
    made = [
        {"epoch": 2 * place, "masks": f"{kind}_{2 * place:04d}", "labels": 20 - 2 * place}
        | {quality: first + (last - first) * place / 5 for quality in QUALITIES}
        for place in range(6)
    ]
    start = {"epoch": 0, "masks": "slic50_96", "labels": 47.0} | dict.fromkeys(QUALITIES, 0.05)
    return [start, *made] if kind == "epoch" else made


def write_runs(folder: Path, results: list[dict[str, Any]]) -> Path:
    """Each as FOLDER/NAME/seedN/result.json."""
    for one in results:
        path = folder / one["name"] / f"seed{one['seed']}" / "result.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(one))
    return folder


def cells(text: str, title: str) -> list[str]:
    """Those of the first line of a table that begins with a title."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {title} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def make_photograph(masks: str, method: str, epoch: int | None, ari: float) -> dict[str, Any]:
    """An entry of bsds500.json."""
    scores = {"best_iou": 0.3, "boundary_f": 0.5, "ari": ari, "labels_per_image": 12.34, "images": 200}
    return {"masks": masks, "method": method, "epoch": epoch} | scores


PHOTOGRAPHS = [
    make_photograph("R2O, epoch 2", "r2o", 2, 0.4),
    make_photograph("R2O, epoch 0", "r2o", 0, 0.2),
    make_photograph("SLIC, 100", "slic", None, 0.1),
]
