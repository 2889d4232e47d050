"""The pictures of `tools.report`: what runs drew, small enough for one page."""

import base64
import io
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from tools.pictures import spread
from tools.report_data import RunData

# Of all pictures of a page, in bytes; base64 makes them a third longer.
_BYTES = 9_000_000
# With fewer bytes a sheet of regions tells nothing.
_BYTES_OF_A_PICTURE = 40_000
_PICTURES_OF_A_RUN = 31  # of one name
# Longer side in pixels and WebP's quality, from the best on.
_SETTINGS = ((1600, 85), (1300, 80), (1000, 72), (800, 65), (640, 55), (480, 45))
_FILE = re.compile(r"(.+)_(\d+)\.png")
TITLES = {
    "regions": ("Superpixels and regions", "photo, superpixels' borders, the regions found"),
    "masks": ("Masks and drawn regions", "for both views: view, its masks, the regions that were drawn of them"),
    "windows": ("Windows", "both views; what is compared is bright, and windows with one number show one place"),
    "patches": ("Views and patches", "both views, then the pairs of patches that are compared"),
    "generations": ("Masks of each generation", "photo, then its masks from the first generation on"),
    "proposals": ("Proposals", "photos and the boxes proposed in them"),
    "neighbours": ("Neighbours", "image, then the images nearest to it"),
    "pairs": ("Matched pairs", "boxes of an image and of its neighbour that were matched"),
}

_log = logging.getLogger(__name__)


def read_galleries(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """The runs' pictures/NAME_STEP.png by NAME, as data URIs.

    Of many pictures some are left out, evenly, and all are made smaller where they would not fit into one page.
    """
    files = [find_pictures(run.folder) for run in runs]
    names = {name: None for found in files for name in found}
    share = _BYTES // _BYTES_OF_A_PICTURE // max(1, sum(map(len, files)))
    most = max(2, min(_PICTURES_OF_A_RUN, share))
    number = sum(min(most, len(pictures)) for found in files for pictures in found.values())
    galleries = []
    for name in names:
        title, note = TITLES.get(name, (name.replace("_", " "), ""))
        strips = [
            _read_strip(place, run, found[name], most=most, limit=_BYTES // number)
            for place, (run, found) in enumerate(zip(runs, files))
            if name in found
        ]
        galleries.append({"name": name, "title": title, "note": note, "strips": strips})
    return galleries


def find_pictures(folder: Path) -> dict[str, list[tuple[int, Path]]]:
    """(step, file) of each name, in order of steps."""
    found: dict[str, list[tuple[int, Path]]] = {}
    for path in sorted((folder / "pictures").glob("[!.]*.png")):
        if match := _FILE.fullmatch(path.name):
            found.setdefault(match[1], []).append((int(match[2]), path))
    return {name: sorted(pictures) for name, pictures in found.items()}


def _read_strip(place: int, run: RunData, files: list[tuple[int, Path]], *, most: int, limit: int) -> dict[str, Any]:
    chosen = [files[i] for i in spread(min(most, len(files)), len(files))]
    pictures, setting = [], 0
    for step, path in chosen:
        try:
            with Image.open(path) as picture:
                data, setting = encode(picture.convert("RGB"), limit=limit, setting=setting)
        except OSError as error:
            _log.warning("%s: left out: %s", path, error)
            continue
        source = f"data:image/webp;base64,{base64.b64encode(data).decode()}"
        pictures.append({"step": step, "epoch": run.epoch(step), "source": source})
    return {"run": place, "pictures": pictures, "of": len(files)}


def encode(picture: Image.Image, *, limit: int, setting: int = 0) -> tuple[bytes, int]:
    """A picture as WebP.

    Args:
        limit: bytes, which only the smallest setting may go beyond.
        setting: the first to be tried; that of a picture before it saves time.
    Returns:
        The bytes, and the setting.
    """
    for place in range(setting, len(_SETTINGS)):
        side, quality = _SETTINGS[place]
        small = picture.copy()
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        small.save(stream, "webp", quality=quality)
        if stream.tell() <= limit:
            break
    return stream.getvalue(), place
