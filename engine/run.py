"""A run on disk: its folder, what it resumes from, its checkpoints and its log."""

import logging
import time
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from engine.checkpoint import CheckpointStore, export_backbone, gather_buffers, load_checkpoint, restore_buffers
from engine.place import Place, fixed_part, note_run
from engine.precision import Precision
from utils.config import Section, differences, dump_config
from utils.distributed import barrier, barrier_within, broadcast_object, is_main, world_size
from utils.errors import UserError
from utils.files import atomic_write_bytes, read_json
from utils.log import RunLog, setup_logging
from utils.progress import ProgressBar
from utils.version import versions

_log = logging.getLogger(__name__)
# What a checkpoint's tensors are of; of other changes of shape the network itself complains.
_BREAKING = tuple(f"model.backbone.{key}:" for key in ("type", "width", "blocks", "strides")) + (
    "model.variant:",
    "optimizer.type:",
)


class Run:
    """One training run's folder.

    Args:
        place: from `find_run`.
        config: the resolved config; saved with every checkpoint.
        steps_per_epoch: optimiser steps of an epoch.
        long_in_epochs: the run's length is so many epochs; False where it is so many steps, whatever an epoch has.
        images: tells the images and their order from others; "" says nothing of them.
    Attributes:
        folder: where everything goes.
        first_step: steps done when it began; 0 but for a run that goes on.
    """

    def __init__(
        self, place: Place, config: Section, *, steps_per_epoch: int, long_in_epochs: bool = True, images: str = ""
    ):
        self.folder, self._config, self._steps_per_epoch = place.folder, config.model_dump(mode="json"), steps_per_epoch
        self._long_in_epochs, self._images, self._minutes = long_in_epochs, images, config.timeout_minutes
        settings, log = config.checkpoint, config.log
        # Without SyncBN, every process' BatchNorm statistics differ.
        self._keep_buffers = world_size() > 1 and not config.amp.sync_bn
        self.store = _open_store(place, settings.ckpt_path, config.model.backbone.type, settings.keep_last)
        self._save_seconds = None if settings.save_minutes is None else 60 * settings.save_minutes
        self._saved_at = time.monotonic()
        setup_logging(self.folder)
        self._state = self._load(place.checkpoint) if place.resumes else None
        self.first_step = self._count_steps(self._state) if self._state else 0
        if is_main():
            atomic_write_bytes(self.folder / "config.yaml", dump_config(config).encode())
            note_run(place, config)
        self.log = RunLog(
            self.folder,
            log_dir=log.log_dir and _fill(log.log_dir, "log.log_dir", place.stamp, place.stamp),
            enable_wandb=log.enable_wandb,
            wandb_project=log.wandb_project,
            config=self._config,
            resume_step=self.first_step if self._state else None,
            run_name=place.stamp,
        )

    def _load(self, checkpoint: Path | None) -> dict[str, Any] | None:
        if checkpoint is not None:
            state = load_checkpoint(checkpoint)
        else:
            state, checkpoint = self.store.load_newest() or (None, None)
        if state is None:
            return None
        missing = {"method", "optimizer", "precision", "step", "config"} - state.keys()
        if missing:
            raise UserError(
                f"{checkpoint}: no {', '.join(sorted(missing))} in it, so it is no checkpoint of these programs; "
                "to start from its weights, export them and set model.backbone.pretrained"
            )
        _log.info("resuming from %s: step %d", checkpoint, state["step"])
        changed = differences(fixed_part(state["config"]), fixed_part(self._config))
        if breaking := [line for line in changed if line.startswith(_BREAKING)]:
            raise UserError(
                f"{checkpoint} cannot be gone on from with another network or optimiser: {'; '.join(breaking)}. Put the old "
                "values back, or begin a new run, which can start from the old backbone.pth (model.backbone.pretrained)"
            )
        if changed:
            _log.warning("the config has changed since %s, and the new values hold: %s", checkpoint, "; ".join(changed))
        self._say_what_else_changed(state)
        return state

    def _say_what_else_changed(self, state: dict[str, Any]) -> None:
        before, now = state.get("versions", {}), versions()
        if changed := differences(before, now):
            _log.warning("not the versions that the checkpoint was made by: %s", "; ".join(changed))
        if state.get("images", self._images) != self._images:
            _log.warning(
                "the images are not those of the checkpoint, or lie in other shards and come in another order: the run goes on, "
                "but is no longer the one it would have been"
            )
        processes = state.get("processes", world_size())
        if processes != world_size():
            _log.warning(
                "%d processes now, and %d before: with the same global batch the run goes on alike but for rounding and for what "
                "each process draws by itself",
                world_size(),
                processes,
            )

    def _count_steps(self, state: dict[str, Any]) -> int:
        """Steps done, in today's count."""
        step, before = state["step"], state["steps_per_epoch"]
        if before == self._steps_per_epoch:
            return step
        if not self._long_in_epochs:
            _log.warning(
                "an epoch has %d steps now and had %d: images come in another order", self._steps_per_epoch, before
            )
            return step
        _log.warning(
            "an epoch has %d steps now and had %d: the run goes on at the same share of the way, but is no longer the one it "
            "would have been",
            self._steps_per_epoch,
            before,
        )
        return round(step / before * self._steps_per_epoch)

    def restore(self, method: nn.Module, optimizer: Optimizer, precision: Precision) -> int:
        """Load what the run resumes from into its parts; the number of steps done, 0 for a new run."""
        state, self._state = self._state, None
        if state is None:
            return 0
        settings = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
        try:
            method.load_state_dict(state["method"])
            optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise UserError(f"the checkpoint in {self.folder} does not fit this config's model: {error}") from error
        # A checkpoint brings its decay and momentum along; the config's hold.
        for group, own in zip(optimizer.param_groups, settings):
            group.update(own)
        precision.load_state_dict(state["precision"])
        if state["buffers"]:
            restore_buffers(method, state["buffers"])
        return self.first_step

    def save(
        self, method: nn.Module, optimizer: Optimizer, precision: Precision, *, step: int, epoch: int, permanent: bool
    ) -> None:
        """Write a checkpoint; every process must call it, and none goes on before it is written."""
        barrier_within(self._minutes)
        buffers = gather_buffers(method) if self._keep_buffers else []
        if is_main():
            state = {
                "method": method.state_dict(),
                "optimizer": optimizer.state_dict(),
                "precision": precision.state_dict(),
                "buffers": buffers,
                "steps_per_epoch": self._steps_per_epoch,
                "processes": world_size(),
                "images": self._images,
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


def find_checkpoints(folder: Path, config: dict[str, Any]) -> list[Path]:
    """The checkpoints of a run that is there, oldest first, wherever the config in its folder put them."""
    settings = config["checkpoint"]
    stamp = read_json(folder / "run.json")["stamp"]
    place = Place(folder, stamp, resumes=True)
    return _open_store(place, settings["ckpt_path"], config["model"]["backbone"]["type"], settings["keep_last"]).paths()


def _open_store(place: Place, template: str | None, backbone: str, keep_last: int) -> CheckpointStore:
    if template is None:
        return CheckpointStore(place.folder / "checkpoints", keep_last=keep_last)
    path = Path(_fill(template, "checkpoint.ckpt_path", place.stamp, place.stamp, backbone, "{}"))
    if path.name.count("{}") != 1:
        raise UserError(
            f"checkpoint.ckpt_path: {template!r} needs four slots {{}}: stamp, stamp, backbone and, in the file's "
            "name, the epoch"
        )
    store = CheckpointStore(path.parent, keep_last=keep_last, template=path.name)
    if not place.resumes and not store.is_empty():
        raise UserError(
            f"checkpoint.ckpt_path: {path.parent} holds checkpoints of another run already: continue it with --resume, "
            "or change checkpoint.time_stamp"
        )
    return store


def _fill(template: str, key: str, *values: str) -> str:
    try:
        return template.format(*values)
    except (IndexError, KeyError, ValueError) as error:
        raise UserError(f"{key}: {template!r} may have up to {len(values)} slots {{}} and no other braces") from error
