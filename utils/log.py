"""What a run tells: console and log.txt, metrics.jsonl, TensorBoard, wandb, pictures. Only rank 0 writes."""

import json
import logging
import math
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from utils.distributed import is_main, rank
from utils.errors import UserError
from utils.files import atomic_path, atomic_write_bytes
from utils.tensorboard import EventFile

_log = logging.getLogger(__name__)
_HANDLER_NAMES = ("run console", "run file")


class RunLog:
    """Numbers and pictures of one run; every rank may call it, only rank 0's calls do anything.

    Args:
        folder: the run's; takes `metrics.jsonl`, `pictures/` and wandb's files.
        log_dir: TensorBoard's folder, by default `folder`/tensorboard.
        enable_wandb: also log to wandb; WANDB_MODE=offline keeps that on disk.
        config: plain numbers and strings, for wandb.
        resume_step: steps after it are cut from all logs, and wandb's run goes on; None starts anew and replaces
            an earlier `metrics.jsonl`.
        run_name: what wandb calls the run, by default the folder's name.
    Raises:
        UserError: where wandb is asked for and cannot start.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        log_dir: str | Path | None = None,
        enable_wandb: bool = False,
        wandb_project: str = "region-object-pretraining",
        config: Mapping[str, Any] | None = None,
        resume_step: int | None = None,
        run_name: str | None = None,
    ) -> None:
        self._writes = is_main()
        if not self._writes:
            return
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        metrics = self._folder / "metrics.jsonl"
        atomic_write_bytes(metrics, _lines_up_to(metrics, resume_step))
        self._metrics = open(metrics, "a", encoding="utf-8")
        # 0 hides what an attempt that saved no checkpoint left there.
        first_step = 0 if resume_step is None else resume_step + 1
        self._tensorboard = EventFile(log_dir or self._folder / "tensorboard", first_step=first_step)
        self._wandb = None
        if enable_wandb:
            settings = {"project": wandb_project, "name": run_name or self._folder.resolve().name, "config": config}
            self._wandb = _start_wandb(self._folder, settings, resumes=resume_step is not None)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers of one step.

        Args:
            step: optimiser steps done; metrics.jsonl gets one line with it.
            values: numbers or scalar tensors; NaN and infinity become null in metrics.jsonl, which is strict JSON.
        """
        if not self._writes:
            return
        numbers = {name: value.item() if hasattr(value, "item") else value for name, value in values.items()}
        row = {name: number if math.isfinite(number) else None for name, number in numbers.items()}
        self._metrics.write(json.dumps({"step": step, **row}) + "\n")
        self._metrics.flush()
        self._tensorboard.scalars(step, numbers)
        if self._wandb is not None:
            self._wandb.log({"step": step, **numbers})

    def pictures(self, step: int, name: str, picture: np.ndarray) -> None:
        """Keep a picture as pictures/NAME_STEP.png, and show it in TensorBoard and wandb.

        Args:
            picture: (H, W, 3) uint8 RGB.
        """
        if not self._writes:
            return
        with atomic_path(self._picture_path(step, name)) as temporary:
            Image.fromarray(picture).save(temporary)
        self._tensorboard.image(step, name, picture)
        if self._wandb is not None:
            import wandb

            self._wandb.log({"step": step, name: wandb.Image(picture)})

    def has_picture(self, step: int, name: str) -> bool:
        """Whether this picture was kept before, by a run that this one continues."""
        return self._writes and self._picture_path(step, name).exists()

    def _picture_path(self, step: int, name: str) -> Path:
        return self._folder / "pictures" / f"{name}_{step:08d}.png"

    def text(self, line: str) -> None:
        """Say a line on the console and in log.txt."""
        if self._writes:
            _log.info(line)

    def close(self) -> None:
        """Write out what is still in memory; nothing may be logged after."""
        if self._writes:
            self._metrics.close()
            self._tensorboard.close()
            if self._wandb is not None:
                self._wandb.finish()


def setup_logging(folder: str | Path | None) -> None:
    """Send Python's logging to the console and, on rank 0, to FOLDER/log.txt; other ranks show warnings alone.

    May be called again, when the folder is known.
    """
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if handler.name in _HANDLER_NAMES]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(logging.INFO)
    console = _Console()
    prefix = "" if is_main() else f"[rank {rank()}] "
    console.setFormatter(_ConsoleFormatter(prefix))
    console.setLevel(logging.INFO if is_main() else logging.WARNING)
    handlers: list[logging.Handler] = [console]
    if folder is not None and is_main():
        Path(folder).mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(Path(folder) / "log.txt", encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        handlers.append(file)
    for handler, name in zip(handlers, _HANDLER_NAMES):
        handler.name = name
        root.addHandler(handler)


class _Console(logging.Handler):
    """Standard error, above a progress bar where one is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


class _ConsoleFormatter(logging.Formatter):
    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._prefix = prefix

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return f"{self._prefix}{level}{super().format(record)}"


def _lines_up_to(metrics: Path, resume_step: int | None) -> bytes:
    """The lines of a metrics file up to a step; a last line that a kill cut short is dropped."""
    if resume_step is None or not metrics.exists():
        return b""
    kept = []
    for line in metrics.read_bytes().splitlines():
        try:
            if json.loads(line)["step"] <= resume_step:
                kept.append(line + b"\n")
        except (ValueError, KeyError, TypeError):
            _log.warning("dropped an unreadable line of %s", metrics)
    return b"".join(kept)


def _start_wandb(folder: Path, settings: dict[str, Any], *, resumes: bool) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UserError("log.enable_wandb needs wandb: install it, or set log.enable_wandb=false") from error
    id_file = folder / "wandb_id.txt"
    if not (resumes and id_file.exists()):
        atomic_write_bytes(id_file, secrets.token_hex(4).encode())
    run_id = id_file.read_text().strip()
    try:
        run = wandb.init(id=run_id, resume="allow", dir=str(folder), **settings)
    except (wandb.errors.UsageError, wandb.errors.CommError) as error:
        raise UserError(f"wandb did not start: {error}. Run `wandb login`, or set WANDB_MODE=offline") from error
    # With wandb's own counter, the steps that a resumed run repeats would be thrown away.
    run.define_metric("step")
    run.define_metric("*", step_metric="step")
    return run
