"""Which checkpoints are known, and which of their keys are a network's trunk, its pyramid, or neither."""

import re
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

TRUNK_KEY = re.compile(r"((conv1|bn1)|layer[1-4]\.\d+\.(conv[1-3]|bn[1-3]|downsample\.[01]))\.\w+")
NECK_KEY = re.compile(r"(lateral|output)\.c[2-5]\.(norm\.)?\w+")


class Part(NamedTuple):
    """What the keys of a checkpoint that begin alike hold."""

    begins: re.Pattern
    network: str | None  # "online" or "target", whose trunk and neck they are; None where they are neither
    rename: Callable[[str], str] = str  # what follows the beginning -> torchvision's name, or the neck's (see Weights)
    is_copy: bool = False  # the same network, held once more
    why: str = ""  # they are left out


class Layout(NamedTuple):
    """A kind of checkpoint."""

    name: str
    whose: str
    marks: tuple[str, ...]  # regular expressions; a checkpoint of this kind has a key for each
    parts: tuple[Part, ...]  # of a key, the first that fits counts

    def fits(self, keys: Collection[str], *, container: str | None) -> bool:
        # Only these programs call it so; their checkpoints' keys could be others' too.
        if (container == "method") != (self.name == "ours"):
            return False
        return all(any(re.fullmatch(mark, key) for key in keys) for mark in self.marks)


def find_layout(keys: Collection[str], *, container: str | None, beside: dict[str, Any]) -> Layout | None:
    """The layout of a state dict.

    Args:
        keys: its keys.
        container: what the file calls it, None where the file is nothing else.
        beside: what else is in the file.
    """
    fitting = {layout.name: layout for layout in LAYOUTS if layout.fits(keys, container=container)}
    # Where nothing needs the feature pyramid, DetCon-B's keys are R2O's, but only R2O clusters.
    config = beside.get("config")
    clusters = isinstance(config, dict) and "clustering" in config or any(key.startswith("_fpn.") for key in keys)
    if "detconb" in fitting and not clusters:
        is_either = "r2o" in fitting and not isinstance(config, dict)
        return fitting["detconb"]._replace(whose=_EITHER) if is_either else fitting["detconb"]
    return next(iter(fitting.values()), None)


def _trunk(begins: str, network: str, rename: Callable[[str], str] = str) -> Part:
    return Part(re.compile(begins), network, rename)


def _copy(begins: str, network: str, rename: Callable[[str], str] = str) -> Part:
    return Part(re.compile(begins), network, rename, is_copy=True)


def _rest(begins: str, why: str = "heads of pretraining") -> Part:
    return Part(re.compile(begins), None, why=why)


def _of_sequence(key: str) -> str:
    """Of a torch.nn.Sequential of the trunk's children: conv1, bn1, relu, maxpool, layer1 .. layer4."""
    number, dot, rest = key.partition(".")
    return {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}.get(
        number, number
    ) + (dot + rest)


def _of_stages(key: str) -> str:
    """C1 .. C5 and P2 .. P5, as the released DetCon-B calls its trunk and pyramid where the masks are finer than C5."""
    stage, _, rest = key.partition(".")
    if stage == "C1":
        return _of_sequence(rest)
    if stage in ("C2", "C3", "C4", "C5"):
        return f"layer{int(stage[1]) - 1}.{rest}"
    # The output convolutions stand behind a padding.
    pyramid = re.fullmatch(r"fpn\.P([2-5])_conv(?:(1)|2\.1)\.(\w+)", key)
    return f"{'lateral' if pyramid[2] else 'output'}.c{pyramid[1]}.{pyramid[3]}" if pyramid else key


def _with_pyramid(key: str) -> str:
    """`fpn_lateral4.weight` of ReSim and detectron2, `lateral.c4.weight` of ours, each with or without a norm."""
    pyramid = re.fullmatch(r"(?:fpn_(\w+?)|(\w+)\.c)([2-5])\.(?:0\.|(1\.|norm\.))?(\w+)", key)
    if not pyramid:
        return key
    return f"{pyramid[1] or pyramid[2]}.c{pyramid[3]}.{'norm.' if pyramid[4] else ''}{pyramid[5]}"


def _of_detectron2(key: str) -> str:
    """`res4.0.conv1.norm.weight` and its like."""
    key = re.sub(r"^stem\.(?=conv1\.|fc\.)", "", key)
    key = re.sub(r"^res([2-5])\.", lambda stage: f"layer{int(stage[1]) - 1}.", key)
    key = re.sub(r"\bconv([1-3])\.norm\.", r"bn\1.", key)
    key = key.replace(".shortcut.norm.", ".downsample.1.").replace(".shortcut.", ".downsample.0.")
    return _with_pyramid(key)


_EITHER = "the released R2O or DetCon-B, which have the same keys"
_R2O = (
    _trunk(r"online_network\.encoder\.", "online", _of_sequence),
    _trunk(r"target_network\.encoder\.", "target", _of_sequence),
    # A view of the target's layers, by which R2O gets at C4; it is registered at the first clustering.
    _copy(r"_fpn\.", "target", _of_sequence),
    _rest(r"(online_network|target_network)\.projetion\."),
    _rest(r"predictor\."),
)
_MOCO = (
    _trunk(r"encoder_q\.", "online", _with_pyramid),
    _trunk(r"encoder_k\.", "target", _with_pyramid),
    _rest(r"queue", "the queue of keys"),
)
_FLAT = _trunk("", "online")

# The more telling come first.
LAYOUTS = (
    Layout(
        "ours",
        "a checkpoint of this project",
        (r"backbone\.conv1\.weight",),
        (
            _trunk(r"backbone\.", "online"),
            _trunk(r"neck\.(?=lateral\.|output\.)", "online", _with_pyramid),
            _trunk(r"target\.0\.", "target"),
            _trunk(r"target\.1\.(?=lateral\.|output\.)", "target", _with_pyramid),
            _rest("", "heads and other state of the method"),
        ),
    ),
    Layout("r2o", "the released R2O", (r"online_network\.encoder\.0\.weight",), _R2O),
    Layout(
        "detconb",
        "the released DetCon-B",
        (r"online_network\.(encoder|C1)\.0\.weight",),
        (
            *_R2O,
            _trunk(r"online_network\.(?=C[1-5]\.|fpn\.)", "online", _of_stages),
            _trunk(r"target_network\.(?=C[1-5]\.|fpn\.)", "target", _of_stages),
        ),
    ),
    Layout("resim", "the released ReSim", (r"encoder_q\.conv1\.weight", r"encoder_q\.fpn_lateral4\..*"), _MOCO),
    Layout("moco", "MoCo v1 and v2", (r"encoder_q\.conv1\.weight",), _MOCO),
    Layout(
        "orl",
        "ORL and BYOL as ORL's release trains it",
        (r"online_net\.0\.conv1\.weight",),
        (
            _trunk(r"online_net\.0\.", "online"),
            _copy(r"backbone\.", "online"),
            _trunk(r"target_net\.0\.", "target"),
            _rest(r"(online_net\.1|target_net\.1|neck|head|global_head|local_intra_head|local_inter_head)\."),
        ),
    ),
    Layout(
        "cyborgs",
        "the released CYBORGS",
        (r"net\.conv1\.weight",),
        (
            _trunk(r"net\.", "online"),
            _copy(r"online_encoder\.net\.", "online"),
            _trunk(r"target_encoder\.net\.", "target"),
            _rest(r"(online_encoder\.projector|target_encoder\.projector|online_predictor)\."),
        ),
    ),
    Layout(
        "detectron2",
        "detectron2, converted or trained there",
        (r"(backbone\.(bottom_up\.)?)?stem\.conv1\.weight",),
        (
            _trunk(r"(backbone\.(bottom_up\.)?)?(?=stem\.|res[2-5]\.|fpn_)", "online", _of_detectron2),
            # Of a C4 detector, the last stage is the box head.
            _trunk(r"roi_heads\.(?=res5\.\d)", "online", _of_detectron2),
            _rest(
                r"(proposal_generator|roi_heads|sem_seg_head)\.|pixel_(mean|std)$", "heads and settings of a detector"
            ),
        ),
    ),
    Layout("torchvision", "torchvision, and this project's backbone.pth", (r"conv1\.weight",), (_FLAT,)),
    Layout(
        "mmseg",
        "MMSegmentation, MMPretrain or MMDetection",
        (r"(backbone\.)?conv1\.weight",),
        (
            _trunk(r"backbone\.", "online"),
            _rest(r"(\w+_head|head|neck|data_preprocessor)\.", "heads and settings of the model"),
            _FLAT,
        ),
    ),
    Layout("timm", "timm, whose names are torchvision's", (r"conv1\.weight",), (_FLAT,)),
)
