"""The benchmarks' tables as a page: `python -m benchmarks.page FOLDER --write docs/performance.md`.

FOLDER holds what `python -m benchmarks` left there, a NAME.json a benchmark. What stands on the page between <!-- table NAME -->
and <!-- end --> is renewed; where FOLDER has no such file, the page says that it was not measured.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from utils.cli import shows_errors
from utils.errors import UserError
from utils.files import atomic_write_bytes
from utils.marks import renew_marked

# How a key of a row reads as a column's head.
_UNITS = {"ms": "ms", "mb": "MB", "gb": "GB", "h": "hours", "s": "seconds"}
_NOTHING = "–"


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown tables of rows: one for each set of columns, and one for all parts of something."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(("part",) if "part" in row else tuple(row), []).append(row)
    return "\n\n".join((_table_of_parts if "part" in group[0] else _one_table)(group) for group in groups.values())


def _table_of_parts(rows: list[dict[str, Any]]) -> str:
    """A line for each part, a column for each thing that has parts; the last figure of a row is what is shown."""
    *_, figure = rows[0]
    shared = {name: value for name, value in rows[0].items() if all(row.get(name) == value for row in rows)}
    places, parts = {}, list(dict.fromkeys(row["part"] for row in rows))
    for row in rows:
        own = {name: value for name, value in row.items() if name not in shared and name not in ("part", figure)}
        place = ", ".join(_place(name, value) for name, value in own.items() if value is not None)
        places.setdefault(place, {})[row["part"]] = row[figure]
    shared = {
        name: value for name, value in shared.items() if name not in ("what", "part", figure) and value is not None
    }
    lines = [{f"part, {_head(figure)}": part} | {one: places[one].get(part) for one in places} for part in parts]
    return _said(shared) + _one_table(lines)


def _place(name: str, value: Any) -> str:
    return f"{_head(name)} {value}" if isinstance(value, int) else str(value)


def _said(shared: dict[str, Any]) -> str:
    return (
        f"All with {', '.join(f'{_head(name)} {_cell(value)}' for name, value in shared.items())}:\n\n"
        if shared
        else ""
    )


def _one_table(rows: list[dict[str, Any]]) -> str:
    shared = {name: value for name, value in rows[0].items() if _is_shared(name, rows)}
    names = [name for name in rows[0] if name not in shared]
    lines = [f"| {' | '.join(map(_head, names))} |", "|---" * len(names) + "|"]
    lines += [f"| {' | '.join(_cell(row[name]) for name in names)} |" for row in rows]
    return _said(shared) + "\n".join(lines)


def _is_shared(name: str, rows: list[dict[str, Any]]) -> bool:
    """Whether a column of words or counts says the same everywhere."""
    first = rows[0][name]
    is_place = isinstance(first, (str, int)) and name not in ("what", "method")
    return len(rows) > 1 and is_place and all(row[name] == first for row in rows)


def _head(name: str) -> str:
    words = name.split("_")
    if words[-1] in _UNITS:
        return f"{' '.join(words[:-1])} {_UNITS[words[-1]]}".strip()
    return " ".join(words)


def _cell(value: Any) -> str:
    if value is None:
        return _NOTHING
    if isinstance(value, list):
        return " to ".join(map(_cell, value))
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value).replace("|", "\\|")


def section(measured: dict[str, Any] | None) -> str:
    """A benchmark's tables and what they were measured on; of None, that they were not."""
    if measured is None:
        return "Not measured."
    where = measured["processor"] if measured["device"] == "cpu" else f"{measured['device']}, {measured['processor']}"
    threads = f"{measured['threads']} thread{'s' * (measured['threads'] > 1)}"
    said = f"{where}, {threads}, torch {measured['torch']}, {measured['date']}."
    # What was measured just before leaves as much as its own threads.
    if measured["load_before"] > measured["threads"] + 1:
        said += f" The machine's load before was {measured['load_before']}: other work ran beside it."
    return f"{table(measured['rows'])}\n\n{said}"


def write_page(page: Path, folder: Path) -> None:
    """Renew a page's tables.

    Raises:
        UserError: the page has no marks, or a file is no benchmark's.
    """
    measured = {path.stem: _load(path) for path in sorted(folder.glob("*.json"))}

    def make(match: re.Match) -> str:
        return section(measured.get(match[2]))

    try:
        text = renew_marked(page.read_text(encoding="utf-8"), r"table (\w+)", make)
    except ValueError as error:
        raise UserError(f"{page}: {error}") from error
    atomic_write_bytes(page, text.encode("utf-8"))


def _load(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        section(found)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"{path}: not what a benchmark writes with --json: {error!r}; remove it or make it again"
        ) from error
    return found


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--write", type=Path, required=True, metavar="PAGE")
    arguments = parser.parse_args(argv)
    write_page(arguments.write, arguments.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
