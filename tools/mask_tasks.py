"""What a worker of `tools.make_masks` does to one image."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.image_list import File
from data.images import read_image
from data.label_maps import LabelMapError, expected_shape, find_defect, label_map_file, label_map_path, write_label_map
from data.listing import ImageList
from data.mask_makers import Maker, MaskError
from tools.jobs import ItemFailed, writing

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MakeMaps:
    """Makes one image's maps, by its index, each unless it is there.

    Attributes:
        images, mask_dir, makers, repair: as in `tools.make_masks.make_masks`.
    """

    images: ImageList
    mask_dir: Path
    makers: tuple[Maker, ...]
    repair: bool

    def __call__(self, index: int) -> bool:
        name, path, image, reasons = self.images.name(index), self.images.path(index), None, []
        for maker in self.makers:
            target = label_map_path(self.mask_dir, maker.type, self.images.split, name)
            if target.exists() and not (self.repair and self._is_defective(target, maker.type, path)):
                continue
            image = read_image(path) if image is None else image
            try:
                labels = maker(image, name)
                _check_shape(labels, expected_shape(maker.type, image.shape))
                with writing(target):
                    write_label_map(target, labels)
            except (MaskError, LabelMapError) as error:
                reasons.append(str(error))
        if reasons:
            raise ItemFailed(path, "; ".join(reasons))
        return image is not None

    def _is_defective(self, target: Path, mask_type: str, path: File) -> bool:
        defect = find_defect(target, mask_type, path)
        if defect:
            _log.warning("%s: %s: made again", target, defect)
        return defect is not None


@dataclass(frozen=True)
class CheckMap:
    """Looks through one image's map, by its index.

    Attributes:
        images, mask_dir, mask_type: as in `tools.make_masks.verify_masks`.
    """

    images: ImageList
    mask_dir: Path
    mask_type: str

    def __call__(self, index: int) -> bool:
        target = label_map_file(self.images, index, mask_dir=self.mask_dir, mask_type=self.mask_type)
        defect = find_defect(target, self.mask_type, self.images.path(index))
        if defect:
            raise ItemFailed(target, defect)
        return False


def _check_shape(labels: np.ndarray, shape: tuple[int, int]) -> None:
    if labels.shape != shape:
        size = " x ".join(map(str, labels.shape[::-1]))
        raise MaskError(f"the labels are {size} pixels where {shape[1]} x {shape[0]} are needed")
