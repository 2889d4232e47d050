"""docs/add_a_method.md as a reader follows it: its files put beside the project's, and its commands run there."""

import importlib
import re
import shlex
from pathlib import Path

from tests.paths import ROOT

PAGE = ROOT / "docs" / "add_a_method.md"
# What a checkout does not hold, or what a reader of the page adds to.
_OWN = {"configs", "runs", "demo_data"}


def blocks(language: str) -> list[str]:
    """The page's code blocks in a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def example_files() -> dict[str, str]:
    """The files that the page shows, by the name in their first line."""
    return {text.partition("\n")[0].removeprefix("# "): text for text in (*blocks("python"), *blocks("yaml"))}


def commands() -> list[str]:
    """Every command of the page that is to be tried out, as one line each."""
    return [line for text in blocks("bash") for line in text.replace("\\\n", " ").splitlines()]


def follow(folder: Path) -> None:
    """Make FOLDER the project with the page's files in it: links to everything else."""
    for path in ROOT.iterdir():
        if path.name not in _OWN and not path.name.startswith("."):
            (folder / path.name).symlink_to(path)
    (folder / "configs").mkdir()
    for path in (ROOT / "configs").iterdir():
        (folder / "configs" / path.name).symlink_to(path)
    for name, text in example_files().items():
        path = folder / name
        assert not path.exists(), f"{name} is there already"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


def run_here(command: str) -> int:
    """The exit code of `python PROGRAM.py ...` or `python -m PROGRAM ...`, run in this process."""
    python, *words = shlex.split(command)
    assert python == "python", command
    name, arguments = (words[1], words[2:]) if words[0] == "-m" else (words[0].removesuffix(".py"), words[1:])
    return importlib.import_module(name).main(arguments) or 0
