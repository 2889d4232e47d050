"""The backbone that an evaluator judges, out of a run, any checkpoint, or untrained."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import yaml

from evaluation.checkpoints.reading import read_checkpoint
from evaluation.settings import Network
from models.backbone import Trunk, make_trunk
from utils.distributed import main_first, on_main
from utils.errors import UserError
from utils.files import file_sha256, read_json, write_json

# Of an evaluation's folder.
_NOTE = "weights.json"


def load_backbone(network: Network, *, seed: int) -> Trunk:
    """The backbone that is judged; with weights or without, what is built after it begins with the same numbers.

    Raises:
        UserError: the weights are not there, are no checkpoint that `evaluation.convert` knows, or do not fit the backbone.
    """
    torch.manual_seed(seed)
    settings = network.backbone.model_dump()
    if network.weights is None:
        if network.network == "target":
            raise UserError("model.network: target, but there are no model.weights whose target it could be")
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
    if weights.architecture != settings["type"]:
        raise UserError(
            f"{path}: holds a {weights.architecture}, not a {settings['type']}; set model.backbone.type={weights.architecture}"
        )
    try:
        trunk = make_trunk(**{**settings, "pretrained": False})
        trunk.load_state_dict(weights.trunk)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path}: does not fit model.backbone.type: {settings['type']}: {error}") from error
    return trunk


def run_folder(folder: Path) -> Path:
    """Where a run's backbone.pth lies: ORL's stages have folders of their own."""
    return folder / "stage3" if (folder / "stage3").is_dir() else folder


def weights_checksum(weights: str | None) -> str | None:
    """SHA-256 of the file that is judged; None for an untrained backbone, or where there is no such file."""
    path = weights and (run_folder(Path(weights)) / "backbone.pth" if Path(weights).is_dir() else Path(weights))
    return file_sha256(path) if path and path.is_file() else None


def hold_weights(folder: Path, network: Network) -> None:
    """Note in an evaluation's folder which weights it judges; every process calls it.

    Raises:
        UserError: it began with a file of the same name that held others.
    """
    on_main(lambda: _hold(folder / _NOTE, network.weights))


def held_checksum(folder: Path) -> str | None:
    """The SHA-256 that `hold_weights` noted."""
    return read_json(folder / _NOTE)["sha256"]


def _hold(note: Path, weights: str | None) -> None:
    now = {"weights": weights, "sha256": weights_checksum(weights)}
    if note.is_file() and read_json(note).get("sha256") != now["sha256"]:
        raise UserError(
            f"{note.parent}: this evaluation began with other weights than {weights} holds now; give another --out"
        )
    write_json(note, now)


def _of_run(folder: Path, network: str) -> tuple[dict[str, Any], Path]:
    """A run's backbone settings and its file; of ORL's run, its last stage's."""
    folder = run_folder(folder)
    path, config = folder / "backbone.pth", folder / "config.yaml"
    if network == "target":
        raise UserError(f"{folder}: backbone.pth is the online network; for the target give one of its checkpoints")
    if not (path.is_file() and config.is_file()):
        raise UserError(
            f"{folder}: no backbone.pth and config.yaml there; finish the run, or give one of its checkpoints"
        )
    return yaml.safe_load(config.read_text())["model"]["backbone"], path
