"""A few pictures, a tiny trunk and one generation of them for test_bootstrap.py; as a program, one of several processes."""

import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data.listing import ImageList, find_images
from models.backbone import Trunk, make_trunk
from tools import group_maps
from tools.bootstrap import ensure_generation
from tools.cluster_maps import Clustering
from utils import distributed, launch
from utils.errors import UserError

COUNT = 11
# Of groups of three, the first has a picture that cannot be read, the third no other, and the last is of two.
UNREADABLE = (1, 6, 7, 8)
CLUSTERING = Clustering(layer="layer2", images_per_group=3, min_clusters=3, max_clusters=6)


def make_images(folder: Path) -> ImageList:
    """Pictures of blocks, of several sizes, in two folders."""
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        path = folder / "train" / f"class{number // 6}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        blocks = rng.integers(0, 256, (4 + number % 3, 5, 3))
        Image.fromarray(np.kron(blocks, np.ones((5, 6, 1))).astype(np.uint8)).save(path)
        if number in UNREADABLE:
            path.write_bytes(b"no image")
    return find_images(folder)


def make_network(seed: int = 0) -> Trunk:
    """A trunk in training mode whose BatchNorm statistics are none that it began with."""
    torch.manual_seed(seed)
    trunk = make_trunk("resnet_tiny", width=4)
    trunk(torch.randn(8, 3, 16, 16))
    return trunk


def generate(images: ImageList, mask_dir: Path, trunk: Trunk, *, number: int = 3, **changed) -> None:
    options = {"epoch": 30, "clustering": CLUSTERING, "workers": 0, "device": torch.device("cpu")} | changed
    ensure_generation(images, mask_dir, number, trunk, **options)


def contents(mask_dir: Path) -> dict[str, bytes]:
    """All files by their place below `mask_dir`."""
    return {path.relative_to(mask_dir).as_posix(): path.read_bytes() for path in mask_dir.rglob("*") if path.is_file()}


def outcome(images: ImageList, mask_dir: Path, trunk: Trunk, **changed) -> str:
    try:
        generate(images, mask_dir, trunk, **changed)
    except UserError as error:
        return str(error)
    return "made"


def fail_on_rank_1(path: Path, labels: np.ndarray) -> None:
    if distributed.rank() == 1:
        raise OSError(28, "No space left on device")


def main(folder: Path) -> None:
    """What tests.utils.two_ranks.run_two_ranks starts."""
    launch.launch(None)
    rank, results = distributed.rank(), {}
    images, trunk = find_images(folder / "images"), make_network()
    if rank == 1:
        trunk.layer1[0].bn1.running_mean.add_(1)
    results["shared"] = outcome(images, folder / "shared", trunk)
    results["again"] = outcome(images, folder / "shared", make_network(), may_make=False)
    write, group_maps.write_label_map = group_maps.write_label_map, fail_on_rank_1
    results["full"] = outcome(images, folder / "full", trunk)
    group_maps.write_label_map = write
    # As on two machines of one process each, that share no disk.
    os.environ |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    results["own"] = outcome(images, folder / f"own{rank}", trunk)
    if rank == 1:
        next((folder / "own1").rglob("meta.json")).unlink()
    results["lost"] = outcome(images, folder / f"own{rank}", trunk, may_make=False)
    torch.save(results, folder / f"{rank}.pth")
    distributed.barrier()
    launch.shutdown()


def make_slowly(folder: Path) -> None:
    """What a test stops in the middle."""
    write = group_maps.write_label_map

    def write_late(path: Path, labels: np.ndarray) -> None:
        time.sleep(0.5)
        write(path, labels)

    group_maps.write_label_map = write_late
    generate(find_images(folder / "images"), folder / "made", make_network())


if __name__ == "__main__":
    (make_slowly if sys.argv[2:] == ["slowly"] else main)(Path(sys.argv[1]))
