"""Backbones out of checkpoints, ours, published ones and other frameworks', each key accounted for."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine.checkpoint import own_float32
from evaluation.checkpoints.files import read_file
from evaluation.checkpoints.layouts import LAYOUTS, NECK_KEY, TRUNK_KEY, Layout, Part, find_layout
from evaluation.checkpoints.trunks import check_finite, check_trunk, list_keys
from utils.errors import UserError

NAMES = tuple(layout.name for layout in LAYOUTS)
# Where files keep their state dict.
_CONTAINERS = ("method", "state_dict", "model")
# What DistributedDataParallel and torch.compile put before every key, in any order.
_WRAPPERS = ("module.", "_orig_mod.")


class Weights(NamedTuple):
    """A backbone from a file.

    The neck is the feature pyramid that ReSim and DetCon-B train with the trunk; its names are `lateral.c3.weight`,
    `lateral.c3.bias`, with BatchNorm `lateral.c3.norm.running_mean` and its like in place of the bias, for c2 .. c5, and the same
    with `output` for the 3 x 3 convolutions. It is empty where there is none.
    """

    layout: str  # one of NAMES
    whose: str  # the layout in words
    architecture: str  # as make_trunk names it
    trunk: dict[str, Tensor]  # torchvision's names without fc, float32, on the CPU
    neck: dict[str, Tensor]  # float32, on the CPU
    settings: dict[str, Any] | None  # of make_trunk, where the file is a checkpoint of ours
    ignored: dict[str, list[str]]  # why -> keys of the file, without `module.` and `_orig_mod.`


def read_checkpoint(path: str | os.PathLike, *, source: str = "auto", network: str = "online") -> Weights:
    """Read the backbone of any checkpoint that is known.

    Args:
        path: a file of torch.save, safetensors, or detectron2's pickled arrays; no code in it is run.
        source: one of NAMES, or "auto" to go by the keys.
        network: "online" or "target", where the file has both.
    Raises:
        UserError: no such file, not whole, not of `source` (saying what it looks like), without that network, with a trunk that
            is not whole or not finite, with two copies of one network that differ, or with keys that nothing is known of, by
            name.
    """
    if source != "auto" and source not in NAMES:
        raise UserError(f"--from {source}: not one of auto, {', '.join(NAMES)}")
    content = read_file(Path(path))
    found = _find_state(content, where=str(path))
    layout, beside = _choose_layout(found, source=source, where=str(path)), found.beside
    sorted_out = _sort_out(found.weights, layout, where=str(path))
    _check_copies(sorted_out, where=str(path))
    own, ignored = sorted_out.networks.get(network, {}), sorted_out.ignored
    if not own:
        there = " and ".join(sorted_out.networks) or "none"
        raise UserError(f"{path}: no {network} network in it ({layout.name}); there is {there}")
    for other, weights in sorted_out.networks.items():
        if other != network:
            ignored[f"the {other} network"] = [entry.key for entry in weights.values()]
    if beside:
        ignored["beside the weights"] = list(beside)
    trunk = {name: entry.value for name, entry in own.items() if TRUNK_KEY.fullmatch(name)}
    architecture, trunk = check_trunk(trunk, where=str(path))
    neck = {name: own_float32(entry.value) for name, entry in own.items() if NECK_KEY.fullmatch(name)}
    check_finite(neck, where=str(path))
    return Weights(layout.name, layout.whose, architecture, trunk, neck, _settings(layout, beside), ignored)


class _State(NamedTuple):
    weights: dict[str, Tensor]
    container: str | None  # what the file calls them
    beside: dict[str, Any]  # what else it holds


class _Entry(NamedTuple):
    key: str  # in the file
    value: Tensor


class _SortedOut(NamedTuple):
    networks: dict[str, dict[str, _Entry]]  # online, target -> name -> entry
    copies: list[tuple[str, str, _Entry]]  # network, name, entry
    ignored: dict[str, list[str]]


def _find_state(content: Any, *, where: str) -> _State:
    """The state dict in what a file holds, without the prefixes that wrappers give."""
    if not isinstance(content, dict):
        raise UserError(f"{where}: holds a {type(content).__name__}, where a state dict is needed")
    container = next((name for name in _CONTAINERS if isinstance(content.get(name), dict)), None)
    state, beside = content, {}
    if container:
        state, beside = content[container], {key: value for key, value in content.items() if key != container}
    beside |= {key: value for key, value in state.items() if not isinstance(value, Tensor | np.ndarray)}
    state = {key: value for key, value in state.items() if key not in beside and isinstance(key, str)}
    if not state:
        raise UserError(f"{where}: no weights in it, only {list_keys([str(key) for key in beside]) or 'nothing'}")
    while prefix := next((one for one in _WRAPPERS if all(key.startswith(one) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return _State({key: _tensor(value) for key, value in state.items()}, container, beside)


def _tensor(value: Tensor | np.ndarray) -> Tensor:
    if isinstance(value, Tensor):
        return value
    # PyTorch takes this machine's byte order alone, and warns of what is read-only.
    return torch.from_numpy(value.astype(value.dtype.newbyteorder("=")))


def _choose_layout(state: _State, *, source: str, where: str) -> Layout:
    keys = list(state.weights)
    found = find_layout(keys, container=state.container, beside=state.beside)
    if source == "auto":
        if found is None:
            raise UserError(f"{where}: none of {', '.join(NAMES)}; its keys are {list_keys(keys)}")
        return found
    layout = next(layout for layout in LAYOUTS if layout.name == source)
    if not layout.fits(keys, container=state.container):
        looks = f"it looks like {found.name} ({found.whose})" if found else f"its keys are {list_keys(keys)}"
        raise UserError(f"{where}: not {source} ({layout.whose}); {looks}")
    return layout


def _sort_out(state: dict[str, Tensor], layout: Layout, *, where: str) -> _SortedOut:
    result, unknown = _SortedOut({}, [], {}), []
    for key, value in state.items():
        part = next((part for part in layout.parts if part.begins.match(key)), None)
        name = _name(key, part)
        if part is not None and part.network is None:
            result.ignored.setdefault(part.why, []).append(key)
        elif name is None:
            unknown.append(key)
        elif name.startswith("fc."):
            result.ignored.setdefault("classifier or head (fc)", []).append(key)
        elif part.is_copy:
            result.copies.append((part.network, name, _Entry(key, value)))
        elif name in result.networks.setdefault(part.network, {}):
            unknown.append(key)
        else:
            result.networks[part.network][name] = _Entry(key, value)
    if unknown:
        raise UserError(
            f"{where}: {layout.name} ({layout.whose}), but it holds what that has not: {list_keys(unknown)}; nothing is "
            "converted, since it is not known what those keys do"
        )
    return result


def _name(key: str, part: Part | None) -> str | None:
    """What a key of a network is called here; None for one that no trunk and no neck has."""
    if part is None or part.network is None:
        return None
    name = part.rename(key[part.begins.match(key).end() :])
    return name if name.startswith("fc.") or TRUNK_KEY.fullmatch(name) or NECK_KEY.fullmatch(name) else None


def _check_copies(sorted_out: _SortedOut, *, where: str) -> None:
    differing = []
    for network, name, copy in sorted_out.copies:
        original = sorted_out.networks.get(network, {}).get(name)
        if original is None or not _is_same(original.value, copy.value):
            differing.append(f"{copy.key} (of {original.key if original else 'nothing'})")
        sorted_out.ignored.setdefault(f"copies of the {network} network, equal to it", []).append(copy.key)
    if differing:
        raise UserError(f"{where}: copies that differ from what they are of: {list_keys(differing)}; which is meant?")


def _is_same(one: Tensor, other: Tensor) -> bool:
    """Whether they are equal, NaN to NaN too: copies of a network that diverged are copies."""
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    return torch.equal(one, other) or bool(((one == other) | (one.isnan() & other.isnan())).all())


def _settings(layout: Layout, beside: dict[str, Any]) -> dict[str, Any] | None:
    """The trunk's in the config that our checkpoints carry."""
    settings = beside if layout.name == "ours" else None
    for section in ("config", "model", "backbone"):
        settings = settings.get(section) if isinstance(settings, dict) else None
    return settings
