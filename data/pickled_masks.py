"""The masks of the published DetCon-B: one pickle an image."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.listing import ImageList
from data.mask_makers import MaskError
from data.orientation import read_orientation, turn_upright
from data.safe_pickle import load_pickle
from utils.errors import DataError, UserError


def read_mask_pickle(path: str | Path) -> np.ndarray:
    """Read a pickled mask, a PyTorch tensor or NumPy array.

    Returns:
        (H, W) integers; leading axes of length 1 are dropped.
    Raises:
        UnsafePickle, DataError: as `load_pickle`, or it holds something else.
    """
    mask = load_pickle(path)
    if not isinstance(mask, np.ndarray) or mask.dtype.kind not in "iu":
        kind = mask.dtype if isinstance(mask, np.ndarray) else type(mask).__name__
        raise DataError(f"{path}: {kind} where a tensor of integers is expected")
    while mask.ndim > 2 and len(mask) == 1:
        mask = mask[0]
    if mask.ndim != 2:
        raise DataError(f"{path}: shape {mask.shape} where (H, W) is expected")
    return mask


@dataclass(frozen=True)
class PickledMasks:
    """Converts published masks to label maps, found by the image's name.

    By name, never by their place in the published list: with a subset, the published code takes other images' masks.

    Attributes:
        root: the folder of the images' split.
        folders: where pickles lie.
        kind: how the pickles' names end, such as fh.
        type: the name of the maps' folder.
        ambiguous: names that more than one image has.
    """

    root: Path
    folders: tuple[Path, ...]
    kind: str
    type: str
    ambiguous: frozenset[str]

    @property
    def parameters(self) -> dict:
        return {"imported": f"pickles of the published DetCon-B, {self.kind}"}

    def __call__(self, image: np.ndarray, name: str) -> np.ndarray:
        path = self._find(name)
        try:
            mask = read_mask_pickle(path)
        except DataError as error:
            raise MaskError(str(error)) from error
        # The published decoder ignores the orientation; where that changes no size, only its habit tells.
        stored = read_orientation(self.root / name)
        if stored and stored[1] != 1 and mask.shape == stored[0]:
            mask = turn_upright(mask, stored[1])
        return mask

    def _find(self, name: str) -> Path:
        key = pickle_key(self.root / name)
        file_name = f"{key}_{self.kind}.pkl"
        if key in self.ambiguous:
            raise MaskError(f"{file_name}: ambiguous, since several images have this name")
        found = [path for folder in self.folders if (path := folder / file_name).is_file()]
        if len(found) != 1:
            reason = "in more than one of" if found else "not in"
            raise MaskError(f"{file_name}: {reason} {', '.join(map(str, self.folders))}")
        return found[0]


def find_pickles(place: str | Path, images: ImageList, *, kind: str, type: str) -> PickledMasks:
    """Published masks, by the folder that holds them or by the file that lists them.

    Args:
        place: a folder of pickles, or a pickled list of their paths, also of another machine's: the folder that it
            names is looked for beside it.
        images: all images of the split, not a subset: two of one name are told apart by nothing.
        kind: how the pickles' names end: fh, patch, ground.
        type: the name of the maps' folder.
    Raises:
        UnsafePickle, DataError: there is no such place, or it is no list of paths.
        UserError: the images lie in shards.
    """
    if images.shard_of is not None:
        raise UserError(
            f"{images.root}: published masks are found by the names of image files: give the folder that the shards were made of"
        )
    place = Path(place)
    folders = (place,) if place.is_dir() else _listed_folders(place)
    counts = Counter(pickle_key(images.path(index)) for index in range(len(images)))
    ambiguous = frozenset(key for key, count in counts.items() if count > 1)
    return PickledMasks(images.root, folders, kind, type, ambiguous)


def pickle_key(path: Path) -> str:
    """The image's name in its pickle's name: its folder and itself without suffix."""
    return f"{path.absolute().parent.name}_{path.stem}"


def _listed_folders(list_file: Path) -> tuple[Path, ...]:
    paths = load_pickle(list_file)
    if not isinstance(paths, list | tuple) or not paths or not all(isinstance(path, str) for path in paths):
        raise DataError(f"{list_file}: neither a folder of pickled masks nor a pickled list of their paths")
    named = sorted({Path(path).parent for path in paths})
    folders = {place.resolve() for folder in named if (place := _first_folder(folder, list_file.parent))}
    if not folders:
        raise DataError(f"{list_file}: names {named[0]}, which is neither there nor beside the file; give the folder")
    return tuple(sorted(folders))


def _first_folder(folder: Path, beside: Path) -> Path | None:
    return next((place for place in (folder, beside / folder.name) if place.is_dir()), None)
