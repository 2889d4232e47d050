"""Runs that several tests look at."""

from pathlib import Path

import pytest

from tests.mains.orl_runs import make_folder, train


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A folder after all three stages of ORL, in its `run`; not to be changed."""
    folder = tmp_path_factory.mktemp("orl")
    make_folder(folder)
    assert train(folder, "run") == 0
    return folder
