import pytest
from pydantic import ValidationError

from evaluation.settings import Solver


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "one of total_epochs and total_steps"),
        ({"total_epochs": 3, "total_steps": 9}, "one of total_epochs and total_steps"),
        ({"total_epochs": 3, "milestones": [2, 1]}, "must rise and stay below the length: 3"),
        ({"total_steps": 9, "milestones": [9]}, "must rise and stay below the length: 9"),
        ({"total_epochs": 3, "milestones": [2], "schedule": "cosine"}, "but optimizer.schedule: cosine"),
        ({"total_epochs": 3, "final_lr": 0.1}, "optimizer.schedule: steps has no end"),
        ({"total_steps": 9, "warmup_steps": 10}, "is more than optimizer.total_steps: 9"),
    ],
)
def test_a_solver_that_contradicts_itself_is_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        Solver(base_lr=0.1, **settings)


def test_one_length_is_enough():
    assert Solver(base_lr=0.1, total_steps=9, milestones=[3, 8], warmup_steps=9).total_epochs is None
