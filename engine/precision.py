"""Mixed precision: which operations run in fewer bits, and how small gradients survive it."""

import logging
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from utils.errors import DivergedError, UserError

OPT_LEVELS = ("O0", "O1", "O2")
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
# A healthy run's is some thousands; each step that overflows halves it.
_LEAST_SCALE = 2.0**-16
_log = logging.getLogger(__name__)


class Precision:
    """Autocast, loss scaling and the optimiser's step under one of Apex' levels.

    Args:
        opt_level: `O0` float32, `O1` autocast; `O2` is O1 with a warning under the native backend.
        dtype: `bfloat16` or `float16`; only float16 scales the loss, and skips steps whose gradients overflow.
        backend: `native` (torch.amp) or `apex`, which needs an Apex that still has `apex.amp`.
        clip_norm: gradients that are longer, all together, are shortened to it; None leaves them.
    Raises:
        UserError: for `apex` where it is not installed; ValueError for an unknown level, type or backend.
    """

    def __init__(
        self, opt_level: str, *, dtype: str, backend: str, device: torch.device, clip_norm: float | None = None
    ) -> None:
        if opt_level not in OPT_LEVELS or dtype not in _DTYPES or backend not in ("native", "apex"):
            raise ValueError(f"unknown precision: opt_level {opt_level!r}, dtype {dtype!r}, backend {backend!r}")
        self._opt_level, self._dtype, self._device, self._clip_norm = opt_level, _DTYPES[dtype], device, clip_norm
        self._apex = _import_apex_amp() if backend == "apex" else None
        self._apex_optimizer: Optimizer | None = None
        native = backend == "native" and opt_level != "O0"
        self._autocasts = native
        self.scales_loss = backend == "apex" and opt_level != "O0" or native and dtype == "float16"
        self._scaler = torch.amp.GradScaler(device.type, enabled=native and dtype == "float16")
        self._skipped: Tensor | int = 0
        if native:
            _warn_about(opt_level, dtype, device)

    def prepare(self, module: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """What to train with instead, to be called once, before DDP wraps the module; natively the same two."""
        if self._apex is None:
            return module, optimizer
        module, self._apex_optimizer = self._apex.initialize(module, optimizer, opt_level=self._opt_level, verbosity=0)
        return module, self._apex_optimizer

    def autocast(self) -> AbstractContextManager:
        """The context of the forward pass."""
        return torch.autocast(self._device.type, self._dtype) if self._autocasts else nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`, scaled where the type needs it."""
        if self._apex is not None:
            with self._apex.scale_loss(loss, self._apex_optimizer) as scaled:
                scaled.backward()
        else:
            self._scaler.scale(loss).backward()

    def step(self, optimizer: Optimizer) -> Tensor:
        """Move the parameters, unless scaled gradients overflowed, and lower or raise the scale.

        Returns:
            The norm of all gradients, unscaled and not yet clipped, on the device; infinite or NaN where they overflowed.
        """
        self._scaler.unscale_(optimizer)
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = _norm(gradients, device=self._device)
        if self._clip_norm is not None and gradients:
            # An overflow, whose norm makes NaN of them all, the scaler has seen before and skips.
            torch._foreach_mul_(gradients, (self._clip_norm / norm).clamp(max=1))
        if self.scales_loss:
            self._skipped = self._skipped + ~torch.isfinite(norm)
        self._scaler.step(optimizer)
        self._scaler.update()
        return norm

    def read(self) -> dict[str, float]:
        """For the log: the loss scale, and how many steps this process has skipped; empty where nothing is scaled.

        Raises:
            DivergedError: gradients overflow however little they are scaled, so that nothing is learned any more.
        """
        if not self.scales_loss:
            return {}
        scale = self._scaler.get_scale() if self._apex is None else float("nan")
        if scale < _LEAST_SCALE:
            raise DivergedError(
                f"amp.dtype: float16: gradients overflow at every step although the loss scale fell to {scale:g}: set "
                "amp.dtype: bfloat16 or amp.opt_level: O0, or lower optimizer.base_lr, and resume from a checkpoint"
            )
        return {"loss_scale": scale, "skipped_steps": int(self._skipped)}

    def state_dict(self) -> dict[str, Any]:
        """The loss scale and how long it has held; empty where nothing is scaled."""
        return self._scaler.state_dict() if self._apex is None else self._apex.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the scale of a checkpoint; one of another precision leaves the scale at its start."""
        if self._apex is not None:
            self._apex.load_state_dict(state)
        elif self._scaler.is_enabled() and state:
            self._scaler.load_state_dict(state)


def memory_format(device: torch.device) -> torch.memory_format:
    """How convolution weights lie in memory: channels last on GPUs, where that is fastest in low precision.

    On CPUs they stay contiguous: there, in channels last, oneDNN's backward pass of a 1x1 convolution with stride 2 writes past
    its memory or hangs for channel counts that are no multiple of its blocks (oneDNN issue 6035; seen with torch 2.15).
    """
    return torch.contiguous_format if device.type == "cpu" else torch.channels_last


def _norm(gradients: list[Tensor], *, device: torch.device) -> Tensor:
    if not gradients:
        return torch.zeros((), device=device)
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))


def _import_apex_amp() -> ModuleType:
    try:
        from apex import amp

        amp.initialize
    except (ImportError, AttributeError) as error:
        raise UserError(
            "amp.backend: apex needs an NVIDIA Apex that has apex.amp, and none is installed. NVIDIA removed apex.amp "
            "in 2025, and the package named apex on PyPI is another project. "
            "Set amp.backend: native, which uses torch.amp"
        ) from error
    return amp


def _warn_about(opt_level: str, dtype: str, device: torch.device) -> None:
    if opt_level == "O2":
        _log.warning("amp.opt_level: O2 is Apex' own; torch.amp runs it as O1")
    if dtype == "bfloat16" and device.type == "cuda" and torch.cuda.get_device_capability(device)[0] < 8:
        _log.warning("this GPU only emulates bfloat16, slowly: set amp.dtype: float16")
