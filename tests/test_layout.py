"""What DESIGN promises of the tree: who may import whom, and that files stay short."""

import ast
import subprocess

import pytest

from tests.paths import ROOT

MAY_IMPORT = {
    "utils": {"utils"},
    "losses": {"utils", "losses"},
    "models": {"utils", "losses", "models"},
    "data": {"utils", "data"},
    "engine": {"utils", "engine"},
    "evaluation": {"utils", "models", "data", "engine", "evaluation"},
    "tools": {"utils", "models", "data", "engine", "evaluation", "tools"},
}


def imported(path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_point_one_way(folder):
    ours = set(MAY_IMPORT) | {"tests", "benchmarks", "wiring", "orl_stages"}
    ours |= {
        f"{method}_{part}" for method in ("r2o", "detconb", "resim", "orl", "cyborgs") for part in ("main", "config")
    }
    for path in (ROOT / folder).glob("**/*.py"):
        assert imported(path) & ours <= MAY_IMPORT[folder], path


def test_no_file_has_two_jobs():
    long = {
        path.relative_to(ROOT).as_posix(): count
        for path in ROOT.glob("*/**/*.py")
        if not {".venv", "tests"} & set(path.relative_to(ROOT).parts)
        and (count := len(path.read_text().splitlines())) > 270
    }
    assert long == {}


def test_devices_are_named_by_engine_and_distributed_alone():
    for folder in ("models", "losses"):
        for path in (ROOT / folder).glob("*.py"):
            assert ".cuda(" not in path.read_text(), path


def test_nothing_generated_is_tracked():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert [name for name in tracked if name.startswith(("runs/", "demo_data/", ".venv/", "wandb/"))] == []
