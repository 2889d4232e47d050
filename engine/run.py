"""A run on disk: its folder, what it resumes from, its checkpoints and its log."""

import hashlib
import json
import logging
import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from engine.checkpoint import CheckpointStore, export_backbone, gather_buffers, load_checkpoint, restore_buffers
from engine.precision import Precision
from utils.config import Section, dump_config
from utils.distributed import all_reduce_max, barrier, broadcast_object, is_main, on_main, world_size
from utils.errors import UserError
from utils.files import atomic_write_bytes, read_json, write_json
from utils.log import ProgressBar, RunLog, setup_logging

_log = logging.getLogger(__name__)
RUNS = Path("runs")
# Sections and keys that may differ between a run and its continuation.
_FREE_KEYS = {"checkpoint": None, "log": None, "distributed": None, "data": ("data_workers", "max_bad_fraction")}


class Run:
    """One training run's folder.

    Args:
        folder: where everything goes.
        config: the resolved config; saved with every checkpoint.
        stamp: the run's name, for `checkpoint.ckpt_path` and `log.log_dir`.
        resume_from: a checkpoint file, or None for the newest in the folder, if any.
        keep_buffers: save every process' BatchNorm statistics (without SyncBN they differ).
    """

    def __init__(self, folder: Path, config: Section, *, stamp: str, resume_from: Path | None, keep_buffers: bool):
        self.folder, self._config, self._keep_buffers = folder, config.model_dump(mode="json"), keep_buffers
        settings, log = config.checkpoint, config.log
        self.store = _open_store(folder, settings.ckpt_path, stamp, config.model.backbone.type, settings.keep_last)
        self._save_seconds = None if settings.save_minutes is None else 60 * settings.save_minutes
        self._saved_at = time.monotonic()
        self._state = self._load(resume_from)
        setup_logging(folder)
        if is_main():
            atomic_write_bytes(folder / "config.yaml", dump_config(config).encode())
            write_json(folder / "run.json", {"stamp": stamp, "fingerprint": fingerprint(config)})
        step = self._state["step"] if self._state else None
        self.log = RunLog(
            folder,
            log_dir=log.log_dir and log.log_dir.format(stamp, stamp),
            enable_wandb=log.enable_wandb,
            wandb_project=log.wandb_project,
            config=self._config,
            resume_step=step,
            run_name=stamp,
        )

    def _load(self, resume_from: Path | None) -> dict[str, Any] | None:
        if resume_from is not None:
            state = load_checkpoint(resume_from)
        else:
            state, resume_from = self.store.load_newest() or (None, None)
        if state is not None:
            missing = {"method", "optimizer", "step"} - state.keys()
            if missing:
                raise UserError(
                    f"{resume_from}: no {', '.join(sorted(missing))} in it, so it is no checkpoint of these programs; "
                    "to start from its weights, export them and set model.backbone.pretrained"
                )
            _log.info("resuming from %s: step %d", resume_from, state["step"])
        return state

    def restore(self, method: nn.Module, optimizer: Optimizer, precision: Precision, *, steps_per_epoch: int) -> int:
        """Load what the run resumes from into its parts; the number of steps done, 0 for a new run."""
        state, self._state = self._state, None
        if state is None:
            return 0
        try:
            method.load_state_dict(state["method"])
            optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise UserError(f"the checkpoint in {self.folder} does not fit this config's model: {error}") from error
        precision.load_state_dict(state["precision"])
        if state["buffers"]:
            restore_buffers(method, state["buffers"])
        step, before = state["step"], state["steps_per_epoch"]
        if before != steps_per_epoch:
            step = round(step / before * steps_per_epoch)
            _log.warning(
                "an epoch has %d steps now and had %d: going on at step %d of the new count; the run is no longer "
                "the one it would have been",
                steps_per_epoch,
                before,
                step,
            )
        return step

    def save(
        self,
        method: nn.Module,
        optimizer: Optimizer,
        precision: Precision,
        *,
        step: int,
        epoch: int,
        steps_per_epoch: int,
        permanent: bool,
    ) -> None:
        """Write a checkpoint; every process must call it, and none goes on before it is written."""
        buffers = gather_buffers(method) if self._keep_buffers else []
        if is_main():
            state = {
                "method": method.state_dict(),
                "optimizer": optimizer.state_dict(),
                "precision": precision.state_dict(),
                "buffers": buffers,
                "steps_per_epoch": steps_per_epoch,
                "world_size": world_size(),
                "config": self._config,
            }
            self.store.save(state, step=step, epoch=epoch, permanent=permanent)
        barrier()
        self._saved_at = time.monotonic()

    def export(self, backbone: nn.Module) -> None:
        """Write `backbone.pth`, what outlives pretraining, and say where everything is."""
        if is_main():
            export_backbone(backbone, self.folder / "backbone.pth")
            _log.info("backbone: %s, checkpoints: %s", self.folder / "backbone.pth", self.store.folder)

    def save_is_due(self, *, agree: bool) -> bool:
        """Whether `checkpoint.save_minutes` are over, by rank 0's clock; asked at steps where processes agree."""
        if self._save_seconds is None or not agree:
            return False
        return broadcast_object(time.monotonic() - self._saved_at >= self._save_seconds)

    def progress_bar(self, *, total: int, initial: int) -> ProgressBar:
        return ProgressBar(total, initial=initial, desc="training")


class StopRequest:
    """Notes SIGTERM and SIGUSR1, by which schedulers announce that a process will be killed, instead of dying at once."""

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

    def __init__(self):
        self._asked = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in self.SIGNALS:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        self._asked = True

    def asked(self, *, agree: bool) -> bool:
        """Whether any process was asked to stop; several processes agree at the steps where `agree` is set."""
        if world_size() == 1:
            return self._asked
        return agree and bool(all_reduce_max(torch.tensor(int(self._asked))))


def open_run(method: str, config: Section, *, out: str | None, resume: str | None) -> Run:
    """Choose the run's folder and what it resumes from; rank 0 chooses for all.

    Args:
        method: names the folder below runs/.
        out: the folder instead.
        resume: None for a new run; "auto" for `out`, or else the newest run of the same config, or a new run where there is
            none; a run's folder; or a checkpoint.
    Raises:
        UserError: where a new run would write over another, or nothing is at `resume`.
    """
    folder, stamp, resume_from = on_main(
        lambda: _choose_folder(method, config, out=out, resume=resume or config.checkpoint.resume_path)
    )
    keep_buffers = world_size() > 1 and not config.amp.sync_bn
    return Run(folder, config, stamp=stamp, resume_from=resume_from, keep_buffers=keep_buffers)


def fingerprint(config: Section) -> str:
    """What two configs share if one run may continue the other."""
    values = config.model_dump(mode="json")
    for section, keys in _FREE_KEYS.items():
        if keys is None:
            del values[section]
        else:
            values[section] = {key: value for key, value in values[section].items() if key not in keys}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _choose_folder(
    method: str, config: Section, *, out: str | None, resume: str | None
) -> tuple[Path, str, Path | None]:
    stamp = config.checkpoint.time_stamp or time.strftime("%Y%m%d_%H%M%S")
    new = Path(out) if out else RUNS / method / stamp
    if resume is None:
        if (new / "run.json").exists():
            raise UserError(f"{new} holds a run already: continue it with --resume auto, or give another --out")
        return new, stamp, None
    if resume == "auto":
        candidates = [new] if out else sorted((RUNS / method).glob("*/run.json"), key=_modified, reverse=True)
        same = [p if out else p.parent for p in candidates if out or _fingerprint_at(p.parent) == fingerprint(config)]
        folder = same[0] if same else new
        return folder, _stamp_of(folder, stamp), None
    path = Path(resume)
    if path.is_dir():
        return path, _stamp_of(path, stamp), None
    if not path.is_file():
        raise UserError(
            f"checkpoint.resume_path / --resume: nothing at {resume}; give `auto`, a run's folder or a checkpoint"
        )
    folder = path.parent.parent if path.parent.name == "checkpoints" and not out else new
    return folder, _stamp_of(folder, stamp), path


def _open_store(folder: Path, template: str | None, stamp: str, backbone: str, keep_last: int) -> CheckpointStore:
    if template is None:
        return CheckpointStore(folder / "checkpoints", keep_last=keep_last)
    try:
        path = Path(template.format(stamp, stamp, backbone, "{}"))
    except IndexError:
        raise UserError(
            f"checkpoint.ckpt_path: {template!r} has more than the four slots stamp, stamp, backbone, epoch"
        ) from None
    if path.name.count("{}") != 1:
        raise UserError(
            f"checkpoint.ckpt_path: {template!r} needs four slots {{}}: stamp, stamp, backbone and, in the file's "
            "name, the epoch"
        )
    return CheckpointStore(path.parent, keep_last=keep_last, template=path.name)


def _stamp_of(folder: Path, otherwise: str) -> str:
    return read_json(folder / "run.json")["stamp"] if (folder / "run.json").exists() else otherwise


def _fingerprint_at(folder: Path) -> str:
    return read_json(folder / "run.json")["fingerprint"]


def _modified(path: Path) -> float:
    return path.stat().st_mtime
