"""The commands that repeat each fault are there."""

import re

import pytest

from benchmarks import memory, soak
from tests.paths import ROOT
from utils import errors

TEXT = (ROOT / "docs" / "reliability.md").read_text()
COMMANDS = re.findall(r"`([^`]*(?:pytest|-m benchmarks)[^`]*)`", TEXT)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_table_runs_something(command):
    words = command.split()
    if "pytest" not in words:
        module = words[words.index("-m") + 1]
        assert module in (memory.__name__, soak.__name__)
        return
    paths = [ROOT / word for word in words if word.startswith("tests/")]
    assert paths
    for path in paths:
        tests = [name for name in re.findall(r"def (test_\w+)", path.read_text())]
        chosen = re.search(r"-k (\w+)", command)
        assert any(chosen is None or chosen[1] in name for name in tests), (command, tests)
        # Without the mark, pytest would run none of them.
        assert ("pytestmark = pytest.mark.slow" in path.read_text()) <= ("-m" in words), command


def test_every_exit_code_is_listed():
    codes = {
        error.exit_code for error in vars(errors).values() if isinstance(error, type) and hasattr(error, "exit_code")
    }
    assert codes == {int(code) for code in re.findall(r"^\| (\d+) \|", TEXT, re.MULTILINE)} - {0}
