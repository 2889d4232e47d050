from concurrent.futures.process import BrokenProcessPool

import pytest

from utils.errors import DataError, UserError, explains_killed_workers, plain_errors


def test_a_killed_worker_is_explained():
    with pytest.raises(UserError, match="take fewer"), explains_killed_workers("take fewer"):
        raise BrokenProcessPool


def test_a_workers_error_loses_its_traceback_and_its_name():
    text = "Caught DataError in DataLoader worker process 0.\nTraceback:\n  line 3\nutils.errors.DataError: a.jpg: damaged\n"
    with pytest.raises(DataError) as caught, plain_errors():
        raise DataError(text)
    assert str(caught.value) == "a.jpg: damaged"
