"""What each of several processes hands in to collectives while it trains, for test_traffic.py, which starts it.

The loop, DDP and SyncBN are the real ones; pictures and regions are random.
"""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import wiring
from benchmarks.counted import CountCollectives
from engine.place import find_run
from engine.run import Run
from tools.config_table import schema_of
from utils.config import find_config, load_config
from utils.distributed import barrier, rank
from utils.launch import launch, shutdown
from utils.method import Progress
from utils.sections import Common
from wiring import Parts

SIDE, PATCH, BATCH, REGIONS = 48, 24, 4, 5
# DDP finds the order of its buckets in the first steps; after the last one a checkpoint is written.
STEPS, PLAIN, LOGGED = 6, 2, 3
TINY = (
    "model.backbone.width=4",
    "model.projection={hidden_dim: 16, output_dim: 8}",
    f"data={{image_dir: none, resize_size: {SIDE}, train_batch_size: {BATCH}}}",
    f"log={{log_step: {LOGGED + 1}}}",
    "optimizer={type: sgd, base_lr: 0.01, total_epochs: 1, warmup_epochs: 0}",
)
_PREDICTOR = "model.predictor={hidden_dim: 16, output_dim: 8}"
OWN = {
    "r2o": (_PREDICTOR, "clustering.images_per_kmeans=2"),
    "detconb": (_PREDICTOR, f"loss.mask_rois={REGIONS}"),
    "resim": ("model.queue_size=64", "model.fpn_channels=6"),
    "orl": (_PREDICTOR, f"data.patch_size={PATCH}"),
    "cyborgs": (_PREDICTOR, f"loss.mask_rois={REGIONS}", "bootstrap.max_clusters=4"),
}
# What a case is called -> its method, and what its config has otherwise.
CASES = {
    "R2O": ("r2o", "model.region_level=c5"),
    "R2O by view": ("r2o", "model.joint_views=false"),
    "R2O on superpixels": ("r2o", "clustering.scheduler={type: constant, epochs: [0], values: [9999]}"),
    "R2O in two micro-batches": ("r2o", "optimizer.accumulate_steps=2"),
    "R2O without SyncBN": ("r2o", "amp.sync_bn=false"),
    "R2O in two buckets": ("r2o", "model.backbone.width=32"),
    "DetCon-B": ("detconb",),
    "DetCon-B in bfloat16": ("detconb", "amp.opt_level=O1"),
    "DetCon-B with an FPN": ("detconb", "loss.pool_size=12"),
    "DetCon-B by view": ("detconb", "model.joint_views=false"),
    "DetCon-S": ("detconb", "model.variant=s"),
    "ReSim": ("resim",),
    "ReSim in bfloat16": ("resim", "amp.opt_level=O1"),
    "ReSim with rounded negatives": ("resim", "loss.gather_dtype=bfloat16"),
    "ReSim that gathers C3 too": ("resim", "loss.c3.gather=true"),
    "ReSim with SyncBN": ("resim", "amp.sync_bn=true", "model.fpn_norm=true"),
    "ReSim-C4": ("resim", "model.variant=c4"),
    "MoCo v2": ("resim", "model.variant=mocov2"),
    "ORL": ("orl",),
    "ORL with joint views": ("orl", "model.joint_views=true", "amp.opt_level=O1"),
    "BYOL": ("orl", "model.variant=byol"),
    "CYBORGS": ("cyborgs",),
    "CYBORGS slot by slot": ("cyborgs", "model.norm_per_slot=true"),
    "CYBORGS on C4": ("cyborgs", "model.levels=[c3, c4]"),
    "CYBORGS with its clustering loss": ("cyborgs", "loss.vmf_weight=1", "model.joint_views=true"),
}


def load_case(case: str) -> tuple[str, Common]:
    """The method of a case, and its config."""
    method, *changes = CASES[case]
    overrides = _one_by_one([*TINY, *OWN[method], *changes])
    return method, load_config(find_config("demo", method=method), schema_of(method), overrides=overrides)[0]


def _one_by_one(overrides: list[str]) -> list[str]:
    """Keys of a section that are set together, one after the other, so that the section's others stay."""
    found = []
    for text in overrides:
        section, _, value = text.partition("={")
        parts = value.removesuffix("}").split(", ") if value and "scheduler" not in section else []
        found += [f"{section}.{part.replace(': ', '=')}" for part in parts] or [text]
    return found


class RandomBatches:
    """Batches as `data.loader.Loader` gives them, already prepared; every one the same."""

    num_images, batch_size, unreadable = STEPS * BATCH, BATCH, {}

    def __init__(self, accumulate_steps: int, num_uniforms: int):
        generator = torch.Generator().manual_seed(rank())
        images = torch.randn(BATCH, 2, 3, SIDE, SIDE, generator=generator)
        self._count = STEPS * accumulate_steps
        self._batch = {
            "images": images,
            "spanning": images[:, 0],
            "superpixels": _grid(8).expand(BATCH, SIDE, SIDE),
            "num_superpixels": 64,
            "boxes": torch.tensor([[0.0, 0, 0.8, 0.9], [0.1, 0, 1, 1]]).expand(BATCH, 2, 4),
            "flips": torch.zeros(BATCH, 2, dtype=torch.bool),
            "seed": torch.arange(BATCH) + BATCH * rank(),
            "labels": _grid(3).expand(BATCH, 2, SIDE, SIDE),
            "num_labels": 9,
            "uniforms": torch.rand(BATCH, 2, 2, num_uniforms, generator=generator),
            "patches": torch.randn(BATCH, 4, 3, PATCH, PATCH, generator=generator),
            "replaced": torch.zeros(BATCH, dtype=torch.bool),
        }

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (dict(self._batch) for _ in range(self._count))

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        pass


def _grid(cells: int) -> Tensor:
    line = torch.arange(SIDE) * cells // SIDE
    return line[:, None] * cells + line


def count(case: str, folder: Path, device: torch.device) -> list[tuple[int, str, str, int]]:
    """What this process hands in, call by call."""
    name, config = load_case(case)
    program, momentum = importlib.import_module(f"{name}_main"), wiring.target_momentum(config)
    clusters = {"clusters": program.make_curriculum(config.clustering.scheduler)} if name == "r2o" else {}
    method = program.make_method(config, momentum=momentum, **clusters)
    method, optimizer, precision = wiring.put_on_device(method, config, device)
    # CYBORGS needs one for every cell of a grid as well.
    num_uniforms = {"detconb": REGIONS}.get(name, 64)
    loader = RandomBatches(config.optimizer.accumulate_steps, num_uniforms)
    plan = wiring.make_plan(config, loader, max_steps=None)
    counted = CountCollectives()

    def rate(progress: Progress) -> float:
        # Asked as a step begins.
        counted.step = progress.step
        return 1e-3

    parts = Parts(loader, method, optimizer, precision, plan, rate, {})
    run = Run(find_run(name, config, out=str(folder / case), resume=None), config, steps_per_epoch=plan.steps_per_epoch)
    with counted:
        for _ in parts.epochs(run, lambda batch: batch):
            pass
    run.log.close()
    return [tuple(call) for call in counted.calls]


def main(folder: Path, *cases: str) -> None:
    device = launch(None)
    torch.set_num_threads(1)
    torch.save({case: count(case, folder, device) for case in cases}, folder / f"{rank()}.pth")
    barrier()
    shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
