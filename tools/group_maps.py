"""Label maps of one generation, group by group: images are read ahead, and maps written behind, while others are clustered."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from data.derived import readable
from data.images import UnreadableImage, read_image
from data.label_maps import enlarge, generation_type, label_map_path, missing_label_maps, write_label_map
from data.listing import ImageList
from evaluation.ordered_reading import exact_kernels, read_in_order
from tools.cluster_maps import Clustering, WholeImages, cell_features, cluster_cells
from tools.jobs import Summary, writing
from utils.errors import UserError
from utils.progress import ProgressBar

# Compressing a map and flushing it to disk takes longer than computing it does on a GPU.
_WRITERS = 4


@dataclass
class GroupMaps:
    """What one process makes of a generation.

    Attributes:
        images: the listing; `clustering.images_per_group` consecutive ones are a group.
        mask_dir: maps go to MASK_DIR/gen_NNNN/SPLIT.
        number: of the generation.
        layers: whose features are clustered, from `frozen_layers`.
        clustering: how.
        workers: processes that read images.
        device: of `layers`.
        made: how many maps it made; of those, `uniform` have a single label.
        error: what went wrong, if anything, for all processes to hear of.
    """

    images: ImageList
    mask_dir: Path
    number: int
    layers: nn.Module
    clustering: Clustering
    workers: int
    device: torch.device
    made: int = 0
    uniform: int = 0
    error: UserError | None = None

    def make(self, shard: tuple[int, int]) -> Summary:
        """Make what is missing of a shard (i, n): every n-th group from the i-th on; nothing after an error.

        Returns:
            No failures: images that cannot be read have no map, and are left out of their group.
        """
        if self.error is None:
            try:
                self._make_groups(shard)
            except torch.OutOfMemoryError as error:
                self.error = UserError(
                    f"the features of {self.clustering.images_per_group} images at their own size do not fit into the "
                    f"device's memory: lower bootstrap.imgs_per_batch ({error})"
                )
            except UserError as error:
                self.error = error
        return Summary()

    def _make_groups(self, shard: tuple[int, int]) -> None:
        part, parts = shard
        mine = range(part, -(-len(self.images) // self.clustering.images_per_group), parts)
        todo = self._lacking(mine)
        if not todo:
            return
        order = [index for group in todo for index in self._members(group)]
        done = sum(len(self._members(group)) for group in mine) - len(order)
        # Its processes are started before the threads that write, which they could not take over.
        arrived = read_in_order(WholeImages(self.images), order, workers=self.workers, device=self.device)
        progress = ProgressBar(done + len(order), initial=done, desc=f"{generation_type(self.number)}, images")
        with exact_kernels(), progress, ThreadPoolExecutor(_WRITERS) as pool:
            waiting: list[Future] = []
            for group in todo:
                features, shapes = {}, {}
                for index in self._members(group):
                    image = next(arrived)
                    if image is not None:
                        features[index], shapes[index] = self._features(index, image), tuple(image.shape[:2])
                    done += 1
                    progress.update(done)
                maps = self._cluster(group, features)
                self._settle(waiting)
                waiting = [pool.submit(self._write, index, cells, shapes[index]) for index, cells in maps.items()]
            self._settle(waiting)

    def _lacking(self, groups: range) -> list[int]:
        """Those of some groups that lack the map of an image that can be read."""
        folder = Path(self.mask_dir, generation_type(self.number), self.images.split)
        missing, lacking = set(missing_label_maps(folder, self.images)), []
        for group in groups:
            without = [index for index in self._members(group) if index in missing]
            # Where none has a map, an image need not be read twice to see that it can be.
            whole = len(without) == len(self._members(group))
            if whole or next(readable(without, self.images), None) is not None:
                lacking.append(group)
        return lacking

    def _members(self, group: int) -> range:
        size = self.clustering.images_per_group
        return range(group * size, min((group + 1) * size, len(self.images)))

    def _features(self, index: int, image: Tensor) -> Tensor:
        try:
            return cell_features(self.layers, image, device=self.device)
        except torch.OutOfMemoryError as error:
            height, width = image.shape[:2]
            raise UserError(
                f"{self.images.path(index)}: its {width} x {height} pixels do not fit into the device's memory: make it smaller, "
                f"or leave it out by data.subset ({error})"
            ) from error

    def _cluster(self, group: int, features: dict[int, Tensor]) -> dict[int, np.ndarray]:
        if not features:
            return {}
        maps = cluster_cells(list(features.values()), clustering=self.clustering, generation=self.number, group=group)
        return dict(zip(features, maps))

    def _write(self, index: int, cells: np.ndarray, shape: tuple[int, int]) -> bool:
        """Write an image's map; whether it has a single label."""
        name = self.images.name(index)
        path = label_map_path(self.mask_dir, generation_type(self.number), self.images.split, name)
        with writing(path):
            write_label_map(path, enlarge(cells, shape))
        return bool((cells == cells[0, 0]).all())

    def _settle(self, waiting: list[Future]) -> None:
        """Wait until maps are written, so that those of two groups at most are held in memory."""
        for job in waiting:
            self.uniform += job.result()
            self.made += 1


def why_unreadable(images: ImageList, index: int) -> str | None:
    """The reason why an image cannot be read; None where it can."""
    try:
        read_image(images.path(index))
    except UnreadableImage as error:
        return error.reason
    return None
