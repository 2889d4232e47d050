"""Independent random streams, each named by whole numbers such as (seed, epoch, image index)."""

import hashlib
import operator

import numpy as np
import torch


def derive_seed(*parts: int) -> int:
    """Hash whole numbers, in order, to one seed.

    Args:
        parts: any whole numbers, negative or large ones too; at least one.
    Returns:
        A number in [0, 2**63), the same on every machine, process and Python.
    Raises:
        TypeError: where a part is no whole number; a float would hide a step that was divided.
    """
    if not parts:
        raise TypeError("derive_seed needs at least one number")
    text = ",".join(str(operator.index(part)) for part in parts)
    digest = hashlib.blake2b(text.encode("ascii"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def numpy_generator(*parts: int) -> np.random.Generator:
    """A NumPy generator of its own for `parts`, see `derive_seed`."""
    return np.random.default_rng(derive_seed(*parts))


def torch_generator(*parts: int) -> torch.Generator:
    """A CPU generator of its own for `parts`, see `derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(*parts))
