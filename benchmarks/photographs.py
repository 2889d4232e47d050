"""The regions that R2O and CYBORGS find in real photographs as they learn, beside what people drew.

    python -m benchmarks.photographs --bsds DIR [--folder runs/results/bsds500] [--docs docs/results] [--set KEY=VALUE ...]

DIR holds images/train and segments/train of BSDS500. Both methods are pretrained on the photographs, by r2o/bsds500_24ep and
cyborgs/bsds500_48ep; stopped, the same command goes on. Beside their regions: those that the same procedures find in networks
that have learned nothing, with as many clusters, or one could not tell learning from fewer clusters; superpixels; and FH's
segments. Writes DOCS/bsds500.json and two sheets, DOCS/bsds500_r2o.png and DOCS/bsds500_cyborgs.png.
"""

import utils.threads  # noqa: F401  isort: skip  before torch

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image

import wiring
from cyborgs_config import CyborgsConfig
from cyborgs_main import clustering_of
from data.derived import read_meta
from data.label_maps import generation_type
from data.listing import find_images
from data.mask_makers import maker_of
from evaluation.calibration import recalibrate_on_dataset
from evaluation.frozen import Pictures
from evaluation.map_scores import MaskQuality
from evaluation.mask_quality import format_scores, score_types
from evaluation.truths import HumanSegments, Truth
from r2o_config import R2OConfig
from tools.bootstrap import ensure_generation
from tools.demo import run_python
from tools.judge_masks import judge_masks
from tools.make_masks import make_masks
from tools.pictures import save_flat
from tools.region_maps import make_region_maps
from tools.run_masks import find_run_masks
from tools.visualize_masks import run_sheet
from utils.cli import shows_errors
from utils.config import load_config
from utils.files import atomic_write_bytes, read_json, write_json

CONFIGS = {"r2o": "bsds500_24ep", "cyborgs": "bsds500_48ep"}
# What needs no network, and what it is called; FH as published, and smaller.
FIXED = {
    "slic25_224": "SLIC, 25",
    "slic50_224": "SLIC, 50",
    "slic100_224": "SLIC, 100",
    "fh_s300_m300": "FH, 300",
    "fh": "FH",
}
_ROWS, _COLUMNS = 5, 6  # of a sheet, without the photo and the truth
_PALETTE = 128  # colours of a sheet's PNG
_CPU = torch.device("cpu")


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bsds", type=Path, required=True, help="holds images/train and segments/train")
    parser.add_argument("--folder", type=Path, default=Path("runs/results/bsds500"), help="of the runs and masks")
    parser.add_argument("--docs", type=Path, default=Path("docs/results"), help="where the figures go")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="overrides", help="of both configs")
    arguments = parser.parse_args(argv)
    truth, masks = HumanSegments(arguments.bsds / "segments" / "train"), arguments.folder / "masks"
    overrides = [f"data.image_dir={arguments.bsds}", f"data.mask_dir={masks}", *arguments.overrides]
    for method, config in CONFIGS.items():
        out = str(arguments.folder / method)
        code = run_python(
            f"{method}_main.py", "--cfg", f"{method}/{config}", "--out", out, "--resume", "auto", "--set", *overrides
        )
        if code:
            return code
    entries = score_r2o(arguments.folder, truth) + score_cyborgs(arguments.folder, truth)
    entries += score_fixed(arguments.bsds, masks, truth)
    print(format_scores({one["masks"]: MaskQuality(*(one[key] for key in MaskQuality._fields)) for one in entries}))
    write_json(arguments.docs / "bsds500.json", entries)
    for method in CONFIGS:
        write_sheet(arguments.docs / f"bsds500_{method}.png", arguments.folder / method, truth)
    return 0


def score_r2o(folder: Path, truth: Truth) -> list[dict[str, Any]]:
    """Regions of FOLDER/r2o every `checkpoint.save_epoch` epochs, and of the untrained network with the K of these epochs."""
    run, entries = folder / "r2o", []
    config, _ = load_config(run / "config.yaml", R2OConfig)
    made = make_region_maps(run, device=_CPU)
    # The newest checkpoints are there besides.
    chosen = [name for name in made if number(name) % config.checkpoint.save_epoch == 0]
    clusters = {name: read_meta(made[name])["parameters"]["clusters"] for name in chosen}
    images = find_run_masks(run).images
    for name, quality in score_types(images, run / "masks", chosen, truth).items():
        entries.append(entry_of("R2O", "r2o", number(name), quality, clusters[name]))
    # At the start it is the same.
    for name in chosen[1:]:
        control = make_untrained_run(run, folder / "r2o_untrained" / name, clusters=clusters[name])
        make_region_maps(control, device=_CPU)
        quality = score_types(images, control / "masks", ["epoch_0000"], truth)["epoch_0000"]
        entries.append(entry_of("untrained network, R2O's K", "r2o_untrained", number(name), quality, clusters[name]))
    return entries


def make_untrained_run(run: Path, folder: Path, *, clusters: int | None) -> Path:
    """A run of R2O like another one, which has not begun, with a K that stays."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["clustering"]["scheduler"] = {"type": "constant", "epochs": [0], "values": [clusters or 9999]}
    # Where `checkpoint.ckpt_path` leads, there are the other one's.
    config["checkpoint"]["ckpt_path"] = None
    write_json(folder / "run.json", read_json(run / "run.json"))
    atomic_write_bytes(folder / "config.yaml", yaml.safe_dump(config).encode())
    return folder


def score_cyborgs(folder: Path, truth: Truth) -> list[dict[str, Any]]:
    """The generations of FOLDER/cyborgs, by the epoch that begins with each, and what the untrained network would make."""
    run = folder / "cyborgs"
    config, _ = load_config(run / "config.yaml", CyborgsConfig)
    entries = []
    for name, quality in judge_masks(run, truth=truth).items():
        is_first = not name.startswith("gen_")
        epoch = 0 if is_first else number(name) * config.bootstrap.boot_freq
        entries.append(entry_of(f"CYBORGS, {name}" if is_first else "CYBORGS", "cyborgs", epoch, quality))
    images, masks = find_run_masks(run).images, folder / "cyborgs_untrained"
    trunk = wiring.build_trunk(config.model, seed=config.seed)
    options = {"clustering": clustering_of(config), "workers": config.data.data_workers, "device": _CPU}
    pictures = Pictures(images.path, len(images), size=config.data.resize_size, crop="whole")
    recalibrate_on_dataset(trunk, pictures, workers=config.data.data_workers, device=_CPU)
    # With as many clusters as the run's first own generation: their number is drawn by a generation's.
    ensure_generation(images, masks, 1, trunk, epoch=0, **options)
    quality = score_types(images, masks, [generation_type(1)], truth)[generation_type(1)]
    return [*entries, entry_of("untrained network, as CYBORGS clusters", "cyborgs_untrained", None, quality)]


def score_fixed(bsds: Path, masks: Path, truth: Truth) -> list[dict[str, Any]]:
    """Superpixels and segments of the photographs, made where they are missing."""
    images = find_images(bsds, split="train")
    make_masks(images, masks, [maker_of(one) for one in FIXED])
    scores = score_types(images, masks, list(FIXED), truth)
    return [
        entry_of(FIXED[name], name.partition("_")[0].rstrip("0123456789"), None, one) for name, one in scores.items()
    ]


def entry_of(
    title: str, method: str, epoch: int | None, quality: MaskQuality, clusters: int | None = None
) -> dict[str, Any]:
    """A row of bsds500.json; `clusters` is K of R2O."""
    masks = title if epoch is None else f"{title}, epoch {epoch}"
    return {"masks": masks, "method": method, "epoch": epoch, "clusters": clusters, **quality._asdict()}


def number(mask_type: str) -> int:
    """Of a generation or an epoch."""
    return int(mask_type.rpartition("_")[2])


def write_sheet(path: Path, run: Path, truth: Truth) -> None:
    """Some photographs by a run's epochs or generations, as a PNG of few colours."""
    sheet = Image.fromarray(run_sheet(run, count=_ROWS, columns=_COLUMNS, truth=truth))
    save_flat(sheet, path, colours=_PALETTE)


if __name__ == "__main__":
    sys.exit(main())
