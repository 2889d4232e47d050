"""What processes must have in common to train one network."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch

from utils.config import Section, differences
from utils.distributed import gather_objects, is_main, local_rank
from utils.errors import DataError, UserError
from utils.version import code_version


class Listing(Protocol):
    """data.listing.ImageList, or what is like it."""

    root: Path
    listing_hash: str
    packing: str

    def __len__(self) -> int: ...


def check_agreement(config: Section) -> None:
    """Refuse processes of other configs, other code or another torch than rank 0's; all must call it.

    Raises:
        UserError: on every rank, naming those that differ, their machines, and in what.
    """
    own = {"config": config.model_dump(mode="json"), "code": code_version(), "torch": str(torch.__version__)}
    first, *others = gather_objects((socket.gethostname(), own))
    wrong = [
        f"\n  rank {rank} on {host}: {'; '.join(found)}"
        for rank, (host, theirs) in enumerate(others, start=1)
        if (found := _differences(first[1], theirs))
    ]
    if wrong:
        raise UserError(
            f"not all processes run the same. Beside rank 0 on {first[0]}:{''.join(wrong)}\n"
            "Start all nodes from the same checkout, environment and command line"
        )


def check_listing(images: Listing, find: Callable[[], Listing]) -> None:
    """Refuse machines that see other images than rank 0, whose list all train by; all must call it.

    Args:
        images: rank 0's list.
        find: lists the images that this machine sees; called once a machine.
    Raises:
        DataError: on every rank, naming the machines that differ.
    """
    found = None
    if local_rank() == 0 and not is_main():
        try:
            own = find()
            found = (len(own), own.listing_hash, own.packing)
        except DataError as error:
            found = (0, "", f": {error}")
    wrong = [
        f"\n  rank {rank} on {host}: {one[0]} images, listing {one[1][:12] or 'none'}{one[2]}"
        for rank, (host, one) in enumerate(gather_objects((socket.gethostname(), found)))
        if one is not None and one != (len(images), images.listing_hash, images.packing)
    ]
    if wrong:
        raise DataError(
            f"data.image_dir: not all machines see the same images. Rank 0 sees {len(images)} in {images.root}, listing "
            f"{images.listing_hash[:12]}{images.packing}:"
            f"{''.join(wrong)}\nCopy the data anew, or point data.image_dir at a shared folder"
        )


def _differences(first: dict, other: dict) -> list[str]:
    found = differences(first["config"], other["config"])
    return found + [
        f"{name} {other[name]}, not {first[name]}" for name in ("code", "torch") if first[name] != other[name]
    ]
