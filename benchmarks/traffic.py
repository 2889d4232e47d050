"""What the processes of a training tell each other in a step, on paper: every collective and the bytes that go into it.

tests/benchmarks/test_traffic.py holds this against what real processes hand in.
"""

import importlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.backbone import LEVELS, Trunk
from models.orl import BRANCHES
from utils.method import Progress
from utils.sections import Common

GRADIENTS, STATISTICS, STATISTICS_GRADIENTS = "gradients", "BatchNorm statistics", "BatchNorm gradients"
_FLOAT, _DOUBLE, _LONG = 4, 8, 8


def float32_bytes(config: Common) -> int:
    """Of a number that is float32 whatever type the network has, as `losses.byol.unit` makes it."""
    return _FLOAT


def network_bytes(config: Common) -> int:
    """Of a number that comes out of a network."""
    return _FLOAT if config.amp.opt_level == "O0" else 2


def negative_bytes(config: Any) -> int:
    """Of a number in ReSim's gathered windows."""
    return _FLOAT if config.loss.gather_dtype == "float32" else 2


# Bytes of a number where processes gather what they compare.
GATHERED: dict[str, Callable[[Any], int]] = {
    "targets": network_bytes,  # models/detconb.py, DetCon-B and CYBORGS
    "targets with gradient": float32_bytes,  # models/detconb.py, DetCon-S
    "keys": network_bytes,  # models/resim.py, for the queue
    "negatives": negative_bytes,  # models/resim.py, of windows
}
# DistributedDataParallel's own, by which `engine.loop` runs.
FIRST_BUCKET, BUCKET = 2**20, 25 * 2**20


class Collective(NamedTuple):
    """One kind of exchange in a step.

    Attributes:
        kind: what is told.
        operation: all_reduce, all_gather or all_to_all.
        sizes: bytes that a process hands in, of each call.
        hides: calls of them that run while the backward pass goes on.
    """

    kind: str
    operation: str
    sizes: tuple[int, ...]
    hides: int = 0

    @property
    def bytes(self) -> int:
        return sum(self.sizes)


class Pass(NamedTuple):
    """Layers, and over how many batches of its own every BatchNorm among them goes in a micro-batch."""

    module: nn.Module
    times: int
    backward: bool


def traffic(name: str, config: Common, method: nn.Module, *, processes: int, device: str = "cuda") -> list[Collective]:
    """What a process hands in at an optimiser step that writes no log line.

    Args:
        name: of the method's main.
        config: of its schema; method: what `build_skeleton` makes of it.
        processes: at least 2.
        device: cuda, with torch's SyncBatchNorm, or cpu, with `utils.sync_batch_norm`.
    """
    passes, own = _PARTS[name](config, method, processes)
    synced = _batch_norm(passes, device=device) if config.amp.sync_bn else []
    micro = config.optimizer.accumulate_steps
    repeated = [part._replace(sizes=part.sizes * micro) for part in (*synced, *own) if part.sizes]
    return [_gradients(method), *repeated]


def log_line(name: str, config: Common) -> list[Collective]:
    """What a step that writes a log line tells beside that.

    Not counted, a few bytes of rank 0: whether `checkpoint.save_minutes` are over.
    """
    model = config.model
    # Losses and metrics, and the sum of the losses.
    means = {
        "r2o": lambda: 4,
        "detconb": lambda: 4,
        "resim": lambda: {"mocov2": 3, "c4": 6, "fpn": 9}[model.variant],
        "orl": lambda: 4 if model.variant == "orl" else 2,
        "cyborgs": lambda: 6 if config.loss.vmf_weight else 5,
    }[name]()
    return [Collective("log line", "all_reduce", (_LONG, _LONG, means * _DOUBLE, _LONG))]


def build_skeleton(name: str, config: Common) -> nn.Module:
    """The method with parameters that have a shape, but no values."""
    program = importlib.import_module(f"{name}_main")
    options: dict[str, Any] = {"momentum": lambda progress: 1.0}
    if name == "r2o":
        options["clusters"] = program.make_curriculum(config.clustering.scheduler)
    with torch.device("meta"):
        return program.make_method(config, **options)


def _gradients(method: nn.Module) -> Collective:
    """DDP's buckets, filled from the last parameter to the first.

    The bucket that is full last has no backward pass left to hide behind.
    """
    buckets, limit = [0], FIRST_BUCKET
    for parameter in reversed([one for one in method.parameters() if one.requires_grad]):
        buckets[-1] += parameter.numel() * _FLOAT
        if buckets[-1] >= limit:
            buckets, limit = [*buckets, 0], BUCKET
    sizes = tuple(size for size in buckets if size)
    return Collective(GRADIENTS, "all_reduce", sizes, hides=len(sizes) - 1)


def _batch_norm(passes: list[Pass], *, device: str) -> list[Collective]:
    # Mean, deviation and count of the channels there, the gradients' two sums back; ours has the first in float64.
    number = _FLOAT if device == "cuda" else _DOUBLE
    there = [(2 * norm.num_features + 1) * number for norm in _norms(passes)]
    back = [2 * norm.num_features * _FLOAT for norm in _norms([one for one in passes if one.backward])]
    return [
        Collective(STATISTICS, "all_gather", tuple(there)),
        Collective(STATISTICS_GRADIENTS, "all_reduce", tuple(back)),
    ]


def _norms(passes: list[Pass]) -> Iterator[_BatchNorm]:
    for one in passes:
        for _ in range(one.times):
            yield from (module for module in one.module.modules() if isinstance(module, _BatchNorm))


def _r2o(config: Any, method: Any, processes: int) -> tuple[list[Pass], list[Collective]]:
    views = 1 if method.joint_views else 2
    trunk, target = (_until(one, method.region_level) for one in (method.backbone, method.target[0]))
    passes = [
        Pass(trunk, views, True),
        Pass(method.projector, views, True),
        Pass(method.predictor, 1, True),
        Pass(target, views, False),
        Pass(method.target[1], views, False),
    ]
    if method.num_clusters(Progress(0, 1, 0)) is not None:
        # The whole images, up to the features that are clustered.
        passes.append(Pass(_until(method.target[0], method.cluster_level), 1, False))
    return passes, [Collective("weight of regions", "all_reduce", (_FLOAT,))]


def _detcon(config: Any, method: Any, processes: int) -> tuple[list[Pass], list[Collective]]:
    views, heads = 1 if method.joint_views else 2, (method.projector, method.predictor)
    per_slot = config.loss.mask_rois if method.projector.per_slot else 1
    passes = [Pass(method.neck, views, True), *_trunk_passes(method, views)]
    passes += [Pass(head, views * per_slot, True) for head in heads if head is not None]
    kind = "targets with gradient" if method.target is None else "targets"
    numbers = 2 * config.data.train_batch_size * config.loss.mask_rois * config.model.projection.output_dim
    size = numbers * GATHERED[kind](config)
    own = [Collective("targets", "all_gather", (size,))]
    if method.target is None:
        # The gradient of every process' targets comes from all of them.
        return passes, [*own, Collective("gradient of targets", "all_reduce", (processes * size,))]
    backbone, neck, projector = method.target
    passes += [Pass(backbone, views, False), Pass(neck, views, False), Pass(projector, views * per_slot, False)]
    return passes, own


def _trunk_passes(method: Any, views: int) -> list[Pass]:
    """All stages run forward; those that are frozen because nothing reads them have no backward pass."""
    stages = [LEVELS[-1]] if not hasattr(method.neck, "levels") else list(method.neck.levels)
    read = _until(method.backbone, stages[-1])
    known = set(read.modules())
    rest = nn.ModuleList(one for one in method.backbone.modules() if isinstance(one, _BatchNorm) and one not in known)
    return [Pass(read, views, True), Pass(rest, views, False)]


def _resim(config: Any, method: Any, processes: int) -> tuple[list[Pass], list[Collective]]:
    images, side = config.data.train_batch_size, config.data.resize_size
    passes = [Pass(one, 1, True) for one in (method.backbone, method.neck, method.head)]
    passes += [Pass(one, 1, False) for one in method.target]
    keys = images * config.model.projection.output_dim
    grids = {one.level: -(-side // method.backbone.levels[one.level].stride) for one in method.windows}
    gathered = tuple(
        images * (grids[one.level] - 2) ** 2 * config.model.fpn_channels * GATHERED["negatives"](config)
        for one in method.windows
        if one.gather
    )
    own = [
        Collective("negatives", "all_gather", gathered),
        Collective("weight of windows", "all_reduce", (_LONG,) * len(method.windows)),
        Collective("keys", "all_gather", (keys * GATHERED["keys"](config),)),
    ]
    if method.shuffle_seed is not None:
        number = network_bytes(config)
        maps = [images * config.model.fpn_channels * grid**2 * number for grid in grids.values()]
        shuffled = (images * 3 * side**2 * _FLOAT,)
        own += [
            Collective("shuffled images", "all_to_all", shuffled),
            Collective("features of shuffled images", "all_to_all", (keys * number, *maps)),
        ]
    return passes, own


def _orl(config: Any, method: Any, processes: int) -> tuple[list[Pass], list[Collective]]:
    branches = [method.predictors[one] for one in BRANCHES] if config.model.variant == "orl" else [method.predictor]
    views = 1 if method.joint_views else 2
    passes = []
    for predictor in branches:
        passes += [Pass(one, views, True) for one in (method.backbone, method.projector, predictor)]
        passes += [Pass(one, views, False) for one in method.target]
    return passes, []


def _until(trunk: Trunk, level: str) -> nn.Sequential:
    return trunk.until(f"layer{LEVELS.index(level) + 1}")


_PARTS: dict[str, Callable[[Any, Any, int], tuple[list[Pass], list[Collective]]]] = {
    "r2o": _r2o,
    "detconb": _detcon,
    "resim": _resim,
    "orl": _orl,
    "cyborgs": _detcon,
}
