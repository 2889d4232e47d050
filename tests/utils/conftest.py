import pytest

from tests.utils import two_ranks


@pytest.fixture(scope="session")
def ranks(tmp_path_factory):
    """What the two processes of two_ranks.py computed, by rank."""
    return two_ranks.run_two_ranks(two_ranks.__file__, tmp_path_factory.mktemp("two_ranks"))
