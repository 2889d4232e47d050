"""What an R2O run knew at its start and at each checkpoint: the target network that finds regions, and how many."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from engine.checkpoint import load_checkpoint
from engine.run import find_checkpoints
from engine.schedules import clusters_by_epoch
from models.backbone import make_trunk
from models.r2o import R2O


class Moment(NamedTuple):
    """A network of a run.

    epoch: finished ones.
    clusters: K of the epoch that begins; None for no clustering, where superpixels are the regions.
    target: state of the target's trunk; None for the one that the run began with.
    """

    epoch: int
    step: int
    clusters: int | None
    target: dict[str, Tensor] | None


def find_moments(run: Path, config: dict[str, Any]) -> Iterator[Moment]:
    """The start, and the checkpoints at epochs' ends that are kept, the later of two of one epoch.

    Raises:
        UserError: a checkpoint is damaged.
    """
    clusters = clusters_by_epoch(**config["clustering"]["scheduler"])
    yield Moment(0, 0, clusters(0), None)
    found: dict[int, Path] = {}
    for path in find_checkpoints(run, config):
        state = load_checkpoint(path)
        if state["step"] == state["epoch"] * state["steps_per_epoch"]:
            found[state["epoch"]] = path
    for epoch, path in sorted(found.items()):
        state, prefix = load_checkpoint(path), "target.0."
        target = {name: value for name, value in state["method"].items() if name.startswith(prefix)}
        target = {name.removeprefix(prefix): value for name, value in target.items()}
        yield Moment(epoch, state["step"], clusters(epoch), target)


def make_finder(config: dict[str, Any]) -> R2O:
    """What finds regions as the run does, with the weights that it began with, on the grid of its superpixels."""
    model, clustering = config["model"], config["clustering"]
    torch.manual_seed(config["seed"])
    return R2O(
        make_trunk(**model["backbone"]),
        nn.Identity(),
        nn.Identity(),
        momentum=lambda progress: 1.0,
        num_clusters=lambda progress: None,
        cluster_level=model["cluster_level"],
        region_level=model["region_level"],
        region_size=config["data"]["superpixel_size"],
        images_per_kmeans=clustering["images_per_kmeans"],
        max_iter=clustering["max_iter"],
    )
