"""The backbone that an evaluator judges, out of a run, any checkpoint, or untrained."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import yaml

from evaluation.checkpoints.reading import read_checkpoint
from evaluation.settings import Network
from models.backbone import Trunk, make_trunk
from utils.distributed import main_first
from utils.errors import UserError


def load_backbone(network: Network, *, seed: int) -> Trunk:
    """The backbone that is judged; with weights or without, what is built after it begins with the same numbers.

    Raises:
        UserError: the weights are not there, are no checkpoint that `evaluation.convert` knows, or do not fit the backbone.
    """
    torch.manual_seed(seed)
    settings = network.backbone.model_dump()
    if network.weights is None:
        try:
            with main_first() if settings["pretrained"] is True else nullcontext():
                return make_trunk(**settings)
        except ValueError as error:
            raise UserError(str(error)) from error
    path = Path(network.weights)
    if path.is_dir():
        settings, path = _of_run(path, network.network)
    weights = read_checkpoint(path, network=network.network)
    settings = weights.settings or settings
    try:
        trunk = make_trunk(**{**settings, "pretrained": False})
        trunk.load_state_dict(weights.trunk)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path}: does not fit model.backbone.type: {settings['type']}: {error}") from error
    return trunk


def _of_run(folder: Path, network: str) -> tuple[dict[str, Any], Path]:
    """A run's backbone settings and its file."""
    path, config = folder / "backbone.pth", folder / "config.yaml"
    if network == "target":
        raise UserError(f"{folder}: backbone.pth is the online network; for the target give one of its checkpoints")
    if not (path.is_file() and config.is_file()):
        raise UserError(
            f"{folder}: no backbone.pth and config.yaml there; finish the run, or give one of its checkpoints"
        )
    return yaml.safe_load(config.read_text())["model"]["backbone"], path
