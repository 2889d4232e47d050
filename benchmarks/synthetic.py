"""The methods as their published configs build them, and batches that no disk is needed for: what every benchmark steps on."""

import importlib
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

import wiring
from data.geometry import draw_crop
from engine.guard import FiniteGuard
from engine.loop import Plan, distribute, train_step
from engine.meter import Meter
from engine.precision import Precision
from tools.config_table import schema_of
from utils.config import find_config, load_config
from utils.sections import CUDA_GRAPHS, Common

_HEIGHT, _WIDTH = 375, 500  # of a photograph, that views are cut out of
_SEGMENTS = 12  # an FH map shows of it


class Recipe(NamedTuple):
    """Which main builds a method, of which config."""

    main: str
    config: str
    overrides: tuple[str, ...] = ()


METHODS = {
    "r2o": Recipe("r2o", "imagenet_300ep"),
    "detconb": Recipe("detconb", "imagenet_300ep"),
    "resim": Recipe("resim", "fpn_imagenet_200ep"),
    "orl": Recipe("orl", "coco_800ep"),
    "cyborgs": Recipe("cyborgs", "coco_800ep"),
}
VARIANTS = {
    "detcons": Recipe("detconb", "s_imagenet_300ep"),
    "mocov2": Recipe("resim", "mocov2_imagenet_200ep"),
    "byol": Recipe("orl", "byol_coco_800ep"),
    "cyborgs_vmf": Recipe("cyborgs", "coco_800ep", ("loss.vmf_weight=1",)),
}


class Trained(NamedTuple):
    """A method with all that a step of training needs; `step` is the loop's own."""

    method: nn.Module
    wrapped: nn.Module
    optimizer: Optimizer
    precision: Precision
    plan: Plan
    guard: FiniteGuard
    meter: Meter
    batch: dict[str, Any]  # prepared, on the device

    def step(self, number: int = 1) -> Tensor:
        """One step, from the batch to the target's average, that hardly moves the weights."""
        return train_step(
            self.wrapped,
            [self.batch] * self.plan.accumulate_steps,
            self.optimizer,
            step=number,
            plan=self.plan,
            rate=1e-6,
            precision=self.precision,
            guard=self.guard,
            meter=self.meter,
        )


def make_config(
    name: str,
    *,
    backbone: str = "resnet50",
    size: int = 224,
    batch: int = 32,
    precision: str = "O0",
    overrides: tuple[str, ...] = (),
) -> Common:
    """The published config of one of METHODS or VARIANTS, with another trunk, size, batch and precision."""
    recipe = (METHODS | VARIANTS)[name]
    changes = [
        "data.image_dir=synthetic",
        f"model.backbone.type={backbone}",
        "model.projection.input_dim=null",
        f"data.resize_size={size}",
        f"data.train_batch_size={batch}",
        f"amp.opt_level={precision}",
        "amp.dtype=bfloat16",
    ]
    if backbone == "resnet_tiny":
        # Levels with the strides that other trunks have.
        changes.append("model.backbone.strides=[2,2,2,2,2]")
    if recipe.main == "detconb":
        # C5's grid, as at 224 px.
        changes.append(f"loss.pool_size={-(-size // 32)}")
    if recipe.main == "orl":
        changes.append(f"data.patch_size={max(8, round(96 / 224 * size))}")
    if recipe.main == "r2o":
        changes.append(f"data.superpixel_size={size}")
    path = find_config(recipe.config, method=recipe.main)
    return load_config(path, schema_of(recipe.main), overrides=[*changes, *recipe.overrides, *overrides])[0]


def make_method(name: str, config: Common, *, clusters: int = 127) -> nn.Module:
    """The method as its main makes it; `clusters` is R2O's K, 127 in the first epoch."""
    main = importlib.import_module(f"{(METHODS | VARIANTS)[name].main}_main")
    schedules = {"momentum": lambda progress: config.model.base_momentum}
    if main.__name__ == "r2o_main":
        schedules["clusters"] = lambda progress: clusters
    return main.make_method(config, **schedules)


def make_trained(name: str, config: Common, device: torch.device, *, clusters: int = 127) -> Trained:
    """The method on its device with optimiser and precision as training has them, and a batch to step on."""
    method = make_method(name, config, clusters=clusters)
    method, optimizer, precision = wiring.put_on_device(method, config, device)
    accumulate = config.optimizer.accumulate_steps
    graphs = config.model.compile in CUDA_GRAPHS
    plan = Plan(config.optimizer.total_epochs, 10, accumulate, seed=config.seed, cuda_graphs=graphs)
    meter = Meter(device, images_per_step=config.data.train_batch_size * accumulate)
    batch = make_batch(name, config, device)
    return Trained(method, distribute(method), optimizer, precision, plan, FiniteGuard(device), meter, batch)


def make_batch(name: str, config: Common, device: torch.device) -> dict[str, Any]:
    """A prepared batch of this method, of smooth noise and of label maps with straight borders; always the same."""
    rng = np.random.default_rng(0)
    main, data = (METHODS | VARIANTS)[name].main, config.data
    B, S = data.train_batch_size, data.resize_size
    batch = _draw_views(rng, B) | {"images": _noise(rng, B, 2, S), "seed": torch.arange(B)}
    if main == "r2o":
        superpixels = _cells(rng, B, data.slic_segments, data.superpixel_size)
        count = int(superpixels.max()) + 1
        batch |= {"spanning": _noise(rng, B, 1, S)[:, 0], "superpixels": superpixels, "num_superpixels": count}
    if main in ("detconb", "cyborgs"):
        labels = _cut(_cells(rng, B, _SEGMENTS, S), batch["boxes"], batch["flips"])
        draws = max(config.loss.mask_rois, (-(-S // 32)) ** 2 if main == "cyborgs" else 0)
        batch |= {"labels": labels, "num_labels": int(labels.max()) + 1}
        batch["uniforms"] = torch.from_numpy(rng.random((B, 2, 2, draws), dtype=np.float32))
        batch["replaced"] = torch.zeros(B, dtype=torch.bool)
    if main == "orl":
        batch["patches"] = _noise(rng, B, 4, data.patch_size)
    # Seeds are read on the host, as the loader leaves them there.
    return {
        key: value.to(device) if isinstance(value, Tensor) and key != "seed" else value for key, value in batch.items()
    }


def _draw_views(rng: np.random.Generator, count: int) -> dict[str, Tensor]:
    options = {"scale": (0.2, 1.0), "ratio": (3 / 4, 4 / 3), "flip_probability": 0.5}
    crops = [[draw_crop(rng, _HEIGHT, _WIDTH, **options) for _ in range(2)] for _ in range(count)]
    return {
        "boxes": torch.tensor([[crop.box for crop in views] for views in crops], dtype=torch.float32),
        "flips": torch.tensor([[bool(crop.flip) for crop in views] for views in crops]),
    }


def _noise(rng: np.random.Generator, batch: int, views: int, side: int) -> Tensor:
    """(batch, views, 3, side, side) of mean 0 and deviation about 1, smooth in places as pictures are."""
    coarse = torch.from_numpy(rng.standard_normal((batch * views, 3, 6, 6), dtype=np.float32))
    fine = torch.from_numpy(rng.standard_normal((batch * views, 3, side, side), dtype=np.float32))
    return (F.interpolate(coarse, side, mode="bilinear") + 0.3 * fine).unflatten(0, (batch, views))


def _cells(rng: np.random.Generator, batch: int, count: int, side: int) -> Tensor:
    """(batch, side, side) uint8 or int32: each pixel has the number of the nearest of about `count` points."""
    grid = max(1, round(count**0.5))
    place = (np.stack(np.mgrid[:grid, :grid], -1) + 0.5) / grid
    pixels = torch.from_numpy((np.stack(np.mgrid[:side, :side], -1).reshape(-1, 2) + 0.5) / side)
    maps = []
    for _ in range(batch):
        points = torch.from_numpy(place.reshape(-1, 2) + rng.uniform(-0.4, 0.4, (grid * grid, 2)) / grid)
        maps.append(torch.cdist(pixels, points).argmin(1).view(side, side))
    return torch.stack(maps).to(torch.uint8 if grid * grid <= 256 else torch.int32)


def _cut(maps: Tensor, boxes: Tensor, flips: Tensor) -> Tensor:
    """(B, S, S) maps of whole images -> (B, V, S, S) of their views."""
    side = maps.shape[-1]
    middle = (torch.arange(side) + 0.5) / side
    views = []
    for labels, crops, mirrored in zip(maps, boxes, flips):
        for (x0, y0, x1, y1), flip in zip(crops.tolist(), mirrored.tolist()):
            rows = ((y0 + middle * (y1 - y0)) * side).long().clamp(max=side - 1)
            columns = ((x0 + (1 - middle if flip else middle) * (x1 - x0)) * side).long().clamp(max=side - 1)
            views.append(labels[rows[:, None], columns[None]])
    return torch.stack(views).unflatten(0, (len(maps), -1))
