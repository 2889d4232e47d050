"""ReSim with the published features in place of what its networks compute."""

from types import SimpleNamespace

import torch
from torch import nn

from models.resim import ReSim, Windows
from tests.models.published import crop_boxes, load_reference

WINDOWS = (Windows("c4", size=48, stride=32, gather=True), Windows("c3", size=32, stride=24, gather=False))


class GivenFeatures(nn.Module):
    """A trunk that knows two images' features already: an image's values say which of both it is."""

    levels = {"c4": SimpleNamespace(stride=16), "c3": SimpleNamespace(stride=8)}

    def __init__(self, reference: dict[str, torch.Tensor], view: str):
        super().__init__()
        known = {"c5": reference[f"{view}_vec"][..., None, None]}
        self.known = nn.ParameterDict(known | {level: reference[f"{view}_{level}"] for level in self.levels})

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {level: self.known[level][images[:, 0, 0, 0].long()] for level in self.known}


def given_resim(reference: dict[str, torch.Tensor], *, shuffle_seed: int | None = None) -> ReSim:
    method = ReSim(
        GivenFeatures(reference, "q"),
        nn.Identity(),
        windows=WINDOWS,
        queue_size=64,
        dim=32,
        momentum=lambda progress: float(reference["m"]),
        temperature=float(reference["T"]),
        shuffle_seed=shuffle_seed,
    )
    method.target[0].load_state_dict(GivenFeatures(reference, "k").state_dict())
    method.queue.load_state_dict({"keys": reference["queue_before"].T, "next": reference["queue_ptr_before"]})
    return method


def given_batch(*which: int) -> dict[str, torch.Tensor]:
    """The views of these of the two published images, which the release flips alike."""
    images = torch.zeros(len(which), 2, 3, 224, 224)
    images[:] = torch.tensor(which).view(-1, 1, 1, 1, 1)
    boxes = crop_boxes(load_reference("resim_anchors.npz"))[list(which)]
    return {"images": images, "boxes": boxes, "flips": torch.zeros(len(which), 2, dtype=torch.bool)}
