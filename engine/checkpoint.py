"""A run's state on disk: whole or absent, checked when read, and nothing in it can run code."""

import glob
import hashlib
import json
import logging
import os
import pickle
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from utils.distributed import broadcast_object, gather_objects, is_main, rank, world_size
from utils.errors import UserError
from utils.files import TEMPORARY_PREFIX, atomic_path, file_sha256, is_sound_zip, read_json, write_json
from utils.version import versions

_log = logging.getLogger(__name__)

# Published checkpoints hold numpy's scalars, pickled by numpy 1 or 2; their types bring no code along.
_numpy_scalar = np.float64(0).__reduce__()[0]
_SAFE_GLOBALS = [
    (_numpy_scalar, "numpy.core.multiarray.scalar"),
    (_numpy_scalar, "numpy._core.multiarray.scalar"),
    np.dtype,
    *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"},
]
# What torch.load raises depends on which bytes are damaged.
_DAMAGE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, OSError)


class _Entry(NamedTuple):
    serial: int  # counts saves, so that the order outlives a resume from an older step
    path: Path
    permanent: bool


class CheckpointStore:
    """The checkpoints of one run, written by rank 0.

    Beside NAME.pth stands NAME.pth.json with its SHA-256, step and epoch. The newest is the one written last.

    Args:
        folder: made at the first save.
        keep_last: how many of the newest that are not permanent stay, from 1.
        template: file name with one `{}`: the epoch for a permanent checkpoint, EPOCH_stepSTEP for others.
    """

    def __init__(self, folder: str | os.PathLike, *, keep_last: int = 3, template: str = "checkpoint_{}.pth") -> None:
        if template.count("{}") != 1 or keep_last < 1:
            raise ValueError(f"need one {{}} in the template and keep_last from 1, got {template!r} and {keep_last}")
        self.folder = Path(folder)
        self._keep_last = keep_last
        self._template = template

    def save(self, state: dict[str, Any], *, step: int, epoch: int, permanent: bool) -> None:
        """Write `state` with step, epoch and versions, then remove what is no longer kept; other ranks do nothing.

        Args:
            state: tensors, numbers, strings and containers of them.
            epoch: epochs finished; permanent: keep it for good. One permanent checkpoint an epoch, at its end.
        """
        if not is_main():
            return
        label = str(epoch) if permanent else f"{epoch}_step{step}"
        path = self.folder / self._template.format(label)
        entries = self._entries()
        with atomic_path(path) as temporary:
            _write({**state, "step": step, "epoch": epoch, "versions": versions()}, temporary)
            # Described before it is in place: killed in between, a file of the same name from before must still match.
            checksums = [file_sha256(temporary), *([file_sha256(path)] if path.exists() else [])]
            description = {
                "sha256": checksums,
                "step": step,
                "epoch": epoch,
                "permanent": permanent,
                "serial": 1 + max((entry.serial for entry in entries), default=0),
            }
            write_json(_sidecar(path), description)
        self._prune()

    def load_newest(self, *, map_location: str | torch.device = "cpu") -> tuple[dict[str, Any], Path] | None:
        """The newest checkpoint that is whole, the same on every rank; None where there is none at all.

        Damaged ones are passed over with a warning.
        Raises:
            UserError: where there are checkpoints and every one is damaged.
        """
        state, path, error = None, None, None
        if is_main():
            try:
                state, path = self._newest_whole(map_location)
            except UserError as damaged:
                error = str(damaged)
        path, error = broadcast_object((path, error))
        if error is not None:
            raise UserError(error)
        if path is None:
            return None
        return (load_checkpoint(path, map_location=map_location) if state is None else state), path

    def is_empty(self) -> bool:
        """Whether there is no checkpoint."""
        return not self._entries()

    def paths(self) -> list[Path]:
        """The checkpoints that are kept, in the order in which they were written."""
        return [entry.path for entry in reversed(self._entries())]

    def _newest_whole(self, map_location: str | torch.device) -> tuple[dict[str, Any] | None, Path | None]:
        entries = self._entries()
        for entry in entries:
            try:
                return load_checkpoint(entry.path, map_location=map_location), entry.path
            except UserError as error:
                _log.warning("%s; trying the checkpoint before it", error)
        if entries:
            names = ", ".join(entry.path.name for entry in entries)
            raise UserError(
                f"no checkpoint in {self.folder} can be read: {names}. "
                "Restore one from a copy, or move them away to start anew"
            )
        return None, None

    def _entries(self) -> list[_Entry]:
        """Newest first. A file without a readable description, copied here perhaps, comes last and is never removed."""
        entries = []
        for path in self.folder.glob(glob.escape(self._template).replace("{}", "*")):
            if not path.name.startswith("."):
                described = _description(path)
                entries.append(_Entry(described.get("serial", -1), path, described.get("permanent", True)))
        return sorted(entries, key=lambda entry: (entry.serial, entry.path.stat().st_mtime_ns), reverse=True)

    def _prune(self) -> None:
        passing = [entry for entry in self._entries() if not entry.permanent]
        for entry in passing[self._keep_last :]:
            entry.path.unlink()
            _sidecar(entry.path).unlink(missing_ok=True)
        for leftover in self.folder.glob(f"{TEMPORARY_PREFIX}*"):
            leftover.unlink(missing_ok=True)


def load_checkpoint(path: str | os.PathLike, *, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint, ours or a published one; only tensors, numbers, strings and containers of them are accepted.

    Raises:
        UserError: naming the file and the remedy where it is missing, damaged, or holds other objects.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}: check checkpoint.resume_path, or that every node sees this folder")
    checksums = _description(path).get("sha256", [])
    if checksums and file_sha256(path) not in checksums:
        raise UserError(f"{path} is damaged: its checksum differs from {_sidecar(path).name}. Use an older checkpoint")
    if not checksums and not is_sound_zip(path):
        raise UserError(
            f"{path} is damaged: a part of it does not have its checksum. Use an older one, or copy it again"
        )
    try:
        with torch.serialization.safe_globals(_SAFE_GLOBALS):
            return torch.load(path, map_location=map_location, weights_only=True)
    except _DAMAGE as error:
        if re.search("unsupported (global|class)", str(error), re.IGNORECASE):
            reason = str(error).split("WeightsUnpickler error:")[-1].strip().splitlines()[0]
            raise UserError(
                f"{path} holds more than tensors, numbers and text, and reading that could run code ({reason}). "
                "Save its state dicts alone where you trust it"
            ) from error
        raise UserError(f"{path} is damaged ({type(error).__name__}). Use an older one, or copy it again") from error


def gather_buffers(module: nn.Module) -> list[dict[str, Tensor]]:
    """Every rank's BatchNorm statistics, in rank order, on the CPU: to be saved where there is no SyncBN.

    All ranks must call it.
    """
    return gather_objects({name: buffer.detach().cpu().clone() for name, buffer in _norm_buffers(module).items()})


def restore_buffers(module: nn.Module, buffers: list[dict[str, Tensor]]) -> None:
    """Put this rank's statistics from `gather_buffers` back; other numbers of ranks share them, with a warning."""
    if len(buffers) != world_size():
        _log.warning("BatchNorm statistics of %d processes are shared out to %d", len(buffers), world_size())
    saved = buffers[rank() % len(buffers)]
    with torch.no_grad():
        for name, buffer in _norm_buffers(module).items():
            buffer.copy_(saved[name])


def export_backbone(trunk: nn.Module, path: str | os.PathLike) -> None:
    """Write what outlives pretraining: a flat state dict, float32, on the CPU, without a classifier `fc`.

    Args:
        trunk: has torchvision's parameter names, without prefix.
    """
    state = trunk.state_dict()
    save_state({name: own_float32(state[name]) for name in state if not name.startswith("fc.")}, path)


def own_float32(value: Tensor) -> Tensor:
    """A copy on the CPU that shares memory with nothing; integers stay what they are."""
    dtype = torch.float32 if value.is_floating_point() else value.dtype
    return value.detach().to("cpu", dtype, copy=True, memory_format=torch.contiguous_format)


def weights_sha256(module: nn.Module) -> str:
    """SHA-256 of a network's parameters and statistics."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_state(state: dict[str, Any], path: str | os.PathLike) -> None:
    """Write tensors, numbers, strings and containers of them, atomically; the same state gives the same bytes."""
    with atomic_path(path) as temporary:
        _write(state, temporary)


def _write(state: dict[str, Any], path: Path) -> None:
    # Given a path, torch would write its last part, here a random one, into the file.
    with open(path, "wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # Of a full disk: what torch says while it closes its archive hides what the disk said.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def _norm_buffers(module: nn.Module) -> dict[str, Tensor]:
    return {
        f"{prefix}.{name}": buffer
        for prefix, layer in module.named_modules()
        if isinstance(layer, _BatchNorm)
        for name, buffer in layer.named_buffers(recurse=False)
    }


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _description(path: Path) -> dict[str, Any]:
    try:
        return read_json(_sidecar(path))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
