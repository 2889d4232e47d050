"""What a checkpoint's file holds, whatever wrote it; nothing in it is run."""

import zipfile
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from data.safe_pickle import UnsafePickle, unpickle
from engine.checkpoint import load_checkpoint
from utils.errors import DataError, UserError

# What torch.save wrote before it wrote ZIP files begins with a pickle of this number.
_TORCH_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def read_file(path: Path) -> Any:
    """The object in a file of torch.save or safetensors, or in detectron2's pickle of arrays, by what it begins with.

    Raises:
        UserError: no such file, damaged, of another format, or asking for code to be run.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; give a checkpoint in it, or its backbone.pth")
    if not path.is_file():
        # Says what to do.
        return load_checkpoint(path)
    with open(path, "rb") as file:
        begin = file.read(16)
    if begin.startswith((b"PK", _TORCH_MAGIC)):
        return _read_torch(path)
    # What every pickle of protocol 2 and later begins with.
    if begin.startswith(b"\x80"):
        return _unpickle(path.read_bytes(), where=path)
    # The length of its JSON header, and the header.
    if begin[8:9] == b"{":
        return _read_safetensors(path)
    raise UserError(f"{path}: neither torch.save nor safetensors nor a pickle wrote it")


def _read_torch(path: Path) -> Any:
    try:
        return load_checkpoint(path)
    except UserError:
        # ReSim's converter to detectron2 has torch.save write arrays, which are no tensors.
        if not zipfile.is_zipfile(path):
            raise
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise
            data = archive.read(pickles[0])
        try:
            return _unpickle(data, where=path)
        except UserError:
            pass
        raise


def _unpickle(data: bytes, *, where: Path) -> Any:
    try:
        return unpickle(data, where=where)
    except UnsafePickle as error:
        raise UserError(f"{error}. Save its state dicts alone where you trust it") from None
    except DataError as error:
        raise UserError(f"{error}. Copy it again") from error


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        return safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}); copy it again") from error
