"""What a pretrained network says of a picture as a whole."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbone import Trunk, make_trunk
from models.heads import MLP

# What the methods here call their projector.
_PROJECTORS = ("projector.", "head.")


class Encoder(nn.Module):
    """A trunk and its projector, in eval mode and without gradient.

    Args:
        backbone: trunk giving {..., "c5": (N, D, h, w)}.
        projector: (N, D) -> (N, d); None where there is none.
    """

    def __init__(self, backbone: Trunk, projector: nn.Module | None = None):
        super().__init__()
        self.backbone, self.projector = backbone, projector
        self.requires_grad_(False).eval()

    def dim(self, *, project: bool) -> int:
        """Numbers in a row of what `forward` gives."""
        projects = project and self.projector is not None
        return self.projector[-1].out_features if projects else self.backbone.levels["c5"].channels

    @torch.no_grad()
    def forward(self, images: Tensor, *, project: bool) -> Tensor:
        """(N, 3, S, S) normalised -> unit rows in float32: (N, d) projections where there is a projector, or pooled C5 (N, D)."""
        features = self.backbone(images)["c5"].mean((2, 3))
        if project and self.projector is not None:
            features = self.projector(features)
        return F.normalize(features.float(), dim=1)


def encoder_state(backbone: Trunk, projector: nn.Module, *, settings: dict[str, Any]) -> dict[str, Any]:
    """What `make_encoder` needs of a trained method, in the form of a checkpoint; `settings` are its trunk's."""
    method = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    method |= {f"projector.{name}": value for name, value in projector.state_dict().items()}
    method = {name: value.detach().cpu() for name, value in method.items()}
    return {"method": method, "config": {"model": {"backbone": settings}}}


def make_encoder(state: dict[str, Any], *, settings: dict[str, Any]) -> Encoder:
    """The encoder of a checkpoint.

    Args:
        state: a checkpoint of any method here, what `encoder_state` gives, or a trunk's flat state dict.
        settings: of `make_trunk`, for a flat state dict; a checkpoint brings its own.
    Raises:
        ValueError: what is in it is neither, or does not fit.
    """
    weights, prefix = state, ""
    if "method" in state:
        weights, settings, prefix = state["method"], state["config"]["model"]["backbone"], "backbone."
    # Which weights the trunk once began with does not matter any more.
    trunk = make_trunk(**{**settings, "pretrained": False})
    own = {name: value for name, value in _below(prefix, weights).items() if not name.startswith("fc.")}
    try:
        trunk.load_state_dict(own)
    except RuntimeError as error:
        raise ValueError(f"its weights do not fit a {settings['type']}: {error}") from error
    return Encoder(trunk, _make_projector(weights, channels=trunk.levels["c5"].channels))


def _make_projector(weights: dict[str, Tensor], *, channels: int) -> MLP | None:
    for prefix in _PROJECTORS:
        own = _below(prefix, weights)
        # DetCon's stands on its FPN, which may have as many channels as C5; ReSim's head stands beside the FPN, on C5.
        on_neck = prefix == "projector." and _below("neck.", weights)
        # R2O's may stand on C4.
        if own and not on_neck and own["0.weight"].shape[1] == channels:
            norm = "1.running_mean" in own
            last = "3" if norm else "2"
            projector = MLP(
                channels,
                hidden_dim=own["0.weight"].shape[0],
                output_dim=own[f"{last}.weight"].shape[0],
                norm=norm,
                output_bias=f"{last}.bias" in own,
            )
            projector.load_state_dict(own)
            return projector
    return None


def _below(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
