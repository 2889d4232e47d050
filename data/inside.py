"""What files of a dataset say of its other files is not believed blindly: names stay in its folder, sizes within reason."""

from pathlib import Path, PurePosixPath, PureWindowsPath

from utils.errors import DataError

# As PIL's: a larger picture is refused before it is decoded, for a few bytes of a file can claim any size.
MAX_PIXELS = 178_956_970


def check_name(name: str, source: str | Path) -> str:
    """The name of a file below a dataset's folder, as it is.

    Args:
        source: the file that the name stands in.
    Raises:
        DataError: it is no text, is absolute, or climbs out of the folder.
    """
    if not isinstance(name, str):
        raise DataError(f"{source}: the file name {name!r} is no text")
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or "\0" in name or ".." in parts or parts[0] == "/" or PureWindowsPath(name).drive:
        raise DataError(
            f"{source}: the file name {name!r} leaves the dataset's folder; names are relative to it, without .."
        )
    return name


def check_size(width: int, height: int) -> None:
    """Refuse pictures that cannot be meant.

    Raises:
        ValueError: too many pixels.
    """
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels are more than {MAX_PIXELS}: refused as a decompression bomb")


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height that a JPEG's header claims; None where it has none."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        # The frames' headers, without the tables that stand between them.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def png_size(data: bytes) -> tuple[int, int]:
    """Width and height that a PNG's header claims."""
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
