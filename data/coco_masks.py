"""Label maps from COCO's annotations."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from data.coco_objects import decode_mask
from data.mask_makers import MaskError
from utils.errors import DataError
from utils.files import read_json


@dataclass(frozen=True)
class Coco:
    """Each pixel gets the largest category id of the objects that cover it, 0 where none does.

    Attributes:
        annotations: an instances_*.json; read at once, so that worker processes share it.
    Raises:
        DataError: no such file, or no COCO annotations.
    Source: DetCon-B, COCOMaskDataset in the released detconb_transform.py. Differs: it leaves out images without objects.
    """

    annotations: str

    def __post_init__(self) -> None:
        _read_annotations(self.annotations)

    @property
    def type(self) -> str:
        return "coco"

    @property
    def parameters(self) -> dict:
        return {"annotations": Path(self.annotations).name}

    def __call__(self, image: np.ndarray, name: str) -> np.ndarray:
        images = _read_annotations(self.annotations)
        entry = images.get(name) or images.get(Path(name).name)
        if entry is None:
            raise MaskError(f"{self.annotations}: names no such image")
        (height, width), objects = entry
        try:
            labels = np.zeros((height, width), dtype=np.int32)
            for category, segmentation in sorted(objects, key=lambda entry: entry[0]):
                labels[decode_mask(segmentation, height, width).astype(bool)] = category
        # An object that is not as COCO describes makes pycocotools raise nearly anything.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise MaskError(f"{self.annotations}: {name}: no objects of COCO's kind: {reason}") from error
        return labels


# A worker that is not a fork of the first process reads the file once for itself.
@lru_cache(maxsize=2)
def _read_annotations(path: str) -> dict[str, tuple[tuple[int, int], list[tuple[int, list | dict]]]]:
    """File name -> ((H, W), [(category id, segmentation), ...])."""
    try:
        content = read_json(path)
        images = {
            entry["id"]: (entry["file_name"], (entry["height"], entry["width"]), []) for entry in content["images"]
        }
        for entry in content["annotations"]:
            images[entry["image_id"]][2].append((entry["category_id"], entry["segmentation"]))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; COCO's instances_*.json is needed") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: no COCO annotations of objects: {type(error).__name__} {error}") from error
    return {name: (shape, objects) for name, shape, objects in images.values()}
