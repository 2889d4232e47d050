"""What a process really hands in to collectives, call by call: by PyTorch's dispatcher, so that DDP's own are seen too."""

import sys
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Whose exchange it is, by the file and the function that ask for it.
CALLERS = {
    ("precision.py", "backward"): "gradients",
    ("sync_batch_norm.py", "_global_statistics"): "BatchNorm statistics",
    ("sync_batch_norm.py", "backward"): "BatchNorm gradients",
    ("detconb.py", "_contrast"): "targets",
    ("distributed.py", "backward"): "gradient of targets",
    ("r2o.py", "_compare"): "weight of regions",
    ("resim.py", "forward"): "keys",
    ("resim.py", "_compare_windows"): "negatives",
    ("resim.py", "_mean_weight"): "weight of windows",
    ("shuffle.py", "send"): "shuffled images",
    ("shuffle.py", "restore"): "features of shuffled images",
    ("guard.py", "check"): "log line",
    ("loop.py", "_check_images"): "log line",
    ("meter.py", "read"): "log line",
    ("stop.py", "asked"): "log line",
}
_ROOT = Path(__file__).parents[1]
# What only carries out what others ask for.
_CARRIERS = (__file__, str(_ROOT / "utils" / "distributed.py"))

# The dispatcher's names of what we name otherwise, and which argument is handed in.
_OPERATIONS = {
    "allreduce_": ("all_reduce", 0),
    "_allgather_base_": ("all_gather", 1),
    "alltoall_base_": ("all_to_all", 1),
}
_WAITS = ("barrier", "monitored_barrier_")


class Call(NamedTuple):
    step: int
    kind: str
    operation: str
    size: int  # bytes that this process hands in


class CountCollectives(TorchDispatchMode):
    """Notes every collective while it is entered.

    Attributes:
        step: which the calls belong to, moved by whoever knows it; before 0 nothing is noted.
        calls: in order; the kind of one that CALLERS does not know begins with "unknown".
    """

    def __init__(self) -> None:
        super().__init__()
        self.step, self.calls = -1, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "c10d":
            self._note(func._schema.name.partition("::")[2], args)
        return func(*args, **(kwargs or {}))

    def _note(self, name: str, args: tuple) -> None:
        if self.step < 0 or name in _WAITS:
            # Before the first step processes agree on much that no step needs.
            return
        caller = _caller(sys._getframe())
        kind = CALLERS.get(caller, f"unknown: {':'.join(caller)}")
        operation, place = _OPERATIONS.get(name, (name, 0))
        size = sum(leaf.nbytes for leaf in tree_leaves(args[place]) if isinstance(leaf, torch.Tensor))
        self.calls.append(Call(self.step, kind, operation, size))


def _caller(frame: FrameType) -> tuple[str, str]:
    """File and function of ours that asks for a collective."""
    while frame is not None:
        path = frame.f_code.co_filename
        caller = Path(path).name, frame.f_code.co_name
        if path.startswith(str(_ROOT)) and ".venv" not in path and (path not in _CARRIERS or caller in CALLERS):
            return caller
        frame = frame.f_back
    return "", ""
