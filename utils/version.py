"""Which code and which libraries a run is made by."""

import functools
import hashlib
import platform
import subprocess
from pathlib import Path

import numpy as np
import torch

_ROOT = Path(__file__).parents[1]
_PACKAGES = ("models", "losses", "data", "engine", "utils", "tools", "evaluation")


@functools.cache
def code_version() -> str:
    """SHA-256 of the programs' Python files, shortened: the same code has the same, wherever it lies and without git."""
    digest = hashlib.sha256()
    files = [*_ROOT.glob("*.py"), *(path for name in _PACKAGES for path in (_ROOT / name).rglob("*.py"))]
    for path in sorted(files, key=lambda path: path.relative_to(_ROOT).as_posix()):
        digest.update(f"{path.relative_to(_ROOT).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def versions() -> dict[str, str]:
    """The code's and the libraries', to be kept with what they made."""
    found = {"code": code_version(), "python": platform.python_version(), "numpy": np.__version__}
    found["torch"] = str(torch.__version__)
    commit = _commit()
    return found | ({"commit": commit} if commit else {})


@functools.cache
def _commit() -> str:
    """git's name of the commit, with + where files differ from it; "" where it is no clone."""
    if not (_ROOT / ".git").exists():
        return ""
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            cwd=_ROOT,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip()
