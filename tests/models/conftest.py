import pytest

from tests.models import two_ranks
from tests.utils.two_ranks import run_two_ranks


@pytest.fixture(scope="session")
def model_ranks(tmp_path_factory):
    """What the two processes of two_ranks.py saw, by rank."""
    return run_two_ranks(two_ranks.__file__, tmp_path_factory.mktemp("model_ranks"))
