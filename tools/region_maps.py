"""The regions that an R2O run makes of its images at each of its checkpoints, as label maps.

    python -m tools.region_maps RUN [--limit 1000] [--split train]

RUN/masks/epoch_0003/SPLIT/IMAGE.png are the regions that the epoch after the third begins with, by the target network as it is
then; epoch_0000 those of the network that the run began with. What is there is not made again. `tools.judge_masks RUN` then says
how well they fit what people drew, `tools.visualize_masks RUN` shows them.
"""

import argparse
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.derived import is_complete, read_meta, write_meta
from data.label_maps import epoch_type, find_mask_dir, label_map_path, missing_label_maps, write_label_map
from data.listing import ImageList, find_images
from data.mask_makers import Slic
from data.orientation import upright_shape
from data.sampler import EpochSampler, Windows, find_windows
from data.views import R2OViews, ViewSpec, collate
from engine.checkpoint import weights_sha256
from engine.precision import memory_format
from evaluation.calibration import recalibrate_on
from evaluation.ordered_reading import exact_kernels, prepare_images, read_in_order
from models.pooling import sample_labels
from models.r2o import R2O
from tools.jobs import writing
from tools.make_masks import ensure_masks
from tools.pictures import spread
from tools.region_moments import Moment, find_moments, make_finder
from tools.run_masks import note_images, read_config
from utils.cli import positive, shows_errors
from utils.errors import UserError
from utils.launch import launch
from utils.progress import ProgressBar

_CALIBRATED = 512
_WRITERS = 4  # flushing a map to disk takes longer than computing it


def make_region_maps(
    run: Path, *, limit: int | None = None, split: str | None = None, device: torch.device | None = None
) -> dict[str, Path]:
    """Make the label maps of the start and of every checkpoint at an epoch's end, but for those that are there.

    A map has its image's size, each pixel taking the region of its superpixel: on the `clustering.region_size` cells that
    training samples of it, borders would lie half a cell off, beside those of the superpixels themselves. For the same reason
    there are no `soft_labels`. Superpixels too small for a cell of features to see, which training leaves out, are a label of
    their own. Images are clustered in the groups that the epoch's batches are made of (others where `limit` leaves some out),
    the last filled up. Features are taken in eval mode, as for the run's pictures; training takes them in train mode, and with
    `data.dct_scaling` of photos that were decoded small, which here are whole.

    Args:
        run: an R2O run's folder, finished or not.
        limit: so many images, evenly spaced over the listing, which is noted for those that read the maps; None for all.
        split: by default what the run was trained on.
        device: by default the CPU.
    Returns:
        Folder MASKS/TYPE/SPLIT of each type, epoch_0000 first; their meta.json says of which step, K and weights they are.
    Raises:
        UserError: no R2O run, or a damaged checkpoint; DataError where its images are not there.
    """
    config = read_config(run)
    if "scheduler" not in config.get("clustering", {}):
        raise UserError(
            f"{run}: its config has no clustering.scheduler, so it is no R2O run, which alone makes regions"
        )
    settings, device = config["data"], device or torch.device("cpu")
    everyone = find_images(settings["image_dir"], split=split or settings["split"], subset=settings["subset"])
    images = everyone
    if limit is not None and limit < len(everyone):
        images = everyone.select(spread(limit, len(everyone)))
    dataset, folders = _make_dataset(config, images), {}
    # Runs of earlier versions have neither key.
    order, shards = settings.get("order", "shuffled"), settings.get("window_shards", 16)
    windows = find_windows(images, order=order, shards=shards)
    options = {"windows": windows, "workers": settings["data_workers"], "device": device}
    method = make_finder(config).to(device, memory_format=memory_format(device)).eval()
    start = {name: value.clone() for name, value in method.target[0].state_dict().items()}
    note_images(run, images, everyone=everyone)
    for moment in find_moments(run, config):
        method.target[0].load_state_dict(start if moment.target is None else moment.target)
        if moment.target is None:
            # Its BatchNorm statistics are made up, and it would be a weaker rival than it is.
            recalibrate_on(method.target[0], spanning_images(dataset), device=device)
        folder = folders[epoch_type(moment.epoch)] = run / "masks" / epoch_type(moment.epoch) / images.split
        made_of = {
            "epoch": moment.epoch,
            "step": moment.step,
            "clusters": moment.clusters,
            "weights": weights_sha256(method.target[0]),
            "listing": images.listing_hash,
            "superpixels": dataset.mask_type,
            "images_per_kmeans": method.images_per_kmeans,
            "recalibrated": moment.target is None,
            # Not noted where there are none, as maps were made before there were.
            **({} if windows is None else {"window_shards": shards}),
        }
        if read_meta(folder).get("parameters") != made_of or not is_complete(folder, images):
            _make_folder(folder, method, dataset, moment, made_of, **options)
    return folders


def _make_dataset(config: dict[str, Any], images: ImageList) -> R2OViews:
    """The images with their superpixels, which are made where they should lie on disk and do not."""
    settings, mask_dir = config["data"], None
    slic = Slic(settings["slic_segments"], settings["superpixel_size"])
    if settings["superpixels"] == "cached":
        places = {"mask_dir": settings["mask_dir"], "image_dir": settings["image_dir"]}
        mask_dir = find_mask_dir(images, slic.type, **places)
        if missing_label_maps(mask_dir / slic.type / images.split, images):
            ensure_masks(images, mask_dir, [slic])
    return R2OViews(
        images,
        spec=ViewSpec(size=settings["resize_size"]),
        superpixel_size=settings["superpixel_size"],
        segments=settings["slic_segments"],
        mask_dir=mask_dir,
        seed=config["seed"],
    )


def spanning_images(dataset: R2OViews) -> Tensor:
    """(N, 3, S, S) uint8, some of the whole images as clustering sees them, by which BatchNorm statistics are taken."""
    chosen = spread(min(_CALIBRATED, len(dataset)), len(dataset))
    return torch.stack([dataset.whole((0, int(index)))["spanning"] for index in chosen])


class _WholeImages(Dataset):
    """What R2OViews says of whole images, by (epoch, index)."""

    def __init__(self, views: R2OViews):
        self._views = views

    def __getitem__(self, key: tuple[int, int]) -> dict:
        return self._views.whole(key)


def _make_folder(
    folder: Path,
    method: R2O,
    dataset: R2OViews,
    moment: Moment,
    made_of: dict[str, Any],
    *,
    windows: Windows | None,
    workers: int,
    device: torch.device,
) -> None:
    """Make all maps of a moment, whatever is there."""
    images, versions = dataset.images, {"torch": torch.__version__, "numpy": np.__version__}
    with writing(folder):
        shutil.rmtree(folder, ignore_errors=True)
        write_meta(folder, None, tool="region_maps", parameters=made_of, versions=versions)
    order = _epochs_order(dataset, moment.epoch, group=method.images_per_kmeans, windows=windows)
    arrived, done = read_in_order(_WholeImages(dataset), order, workers=workers, device=device), 0
    progress = ProgressBar(len(images), desc=folder.parent.name)
    with exact_kernels(), progress as bar, ThreadPoolExecutor(_WRITERS) as pool:
        while done < len(images):
            keys = order[done : done + method.images_per_kmeans]
            items = [next(arrived) for _ in keys]
            regions = _find_regions(method, items, moment, device)
            own = range(min(len(keys), len(images) - done))
            # Where an image cannot be read, another was clustered in its place.
            jobs = [
                pool.submit(_write, images, folder.parent, keys[place][1], regions[place])
                for place in own
                if not items[place]["unreadable"]
            ]
            for job in jobs:
                job.result()
            done += len(own)
            bar.update(done)
    with writing(folder):
        write_meta(folder, images, tool="region_maps", parameters=made_of, versions=versions)


def _epochs_order(dataset: R2OViews, epoch: int, *, group: int, windows: Windows | None) -> list[tuple[int, int]]:
    """(epoch, index) of all images in the order of that epoch, and of as many again as the last group lacks."""
    count = len(dataset)
    sampler = EpochSampler(count, batch_size=count, world_size=1, rank=0, seed=dataset.seed, windows=windows)
    sampler.set_epoch(epoch)
    order = next(iter(sampler))
    return order + order[: -count % group]


@torch.no_grad()
def _find_regions(method: R2O, items: list[dict], moment: Moment, device: torch.device) -> Tensor:
    """Regions of a group of images, (B, S, S) on the host, S the superpixels' side."""
    batch = collate(items)
    batch["spanning"] = prepare_images(batch["spanning"], device)
    batch["superpixels"] = batch["superpixels"].to(device)
    return method.find_regions(batch, moment.clusters)[0].cpu()


def _write(images: ImageList, folder: Path, index: int, regions: Tensor) -> None:
    """The map of an image, at its size; `folder` is MASKS/TYPE."""
    whole = sample_labels(regions[None], size=upright_shape(images.path(index)))[0]
    path = label_map_path(folder.parent, folder.name, images.split, images.name(index))
    with writing(path):
        write_label_map(path, whole.numpy())


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="an R2O run's folder")
    parser.add_argument("--limit", type=positive, metavar="N", help="only N images, evenly spaced over the listing")
    parser.add_argument("--split", help="by default what the run was trained on")
    arguments = parser.parse_args(argv)
    device = launch(None, several=False)
    folders = make_region_maps(arguments.run, limit=arguments.limit, split=arguments.split, device=device)
    for mask_type, folder in folders.items():
        meta = read_meta(folder)["parameters"]
        clusters = "superpixels" if meta["clusters"] is None else f"K {meta['clusters']}"
        print(f"{mask_type}  step {meta['step']}  {clusters}  {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
