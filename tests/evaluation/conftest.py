"""A few of the embedded scenes in every layout that evaluators read."""

from pathlib import Path

import pytest

from tools.make_demo_data import DemoData, make_demo_data
from tools.make_eval_data import make_eval_data


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> Path:
    """32 scenes to train on and 12 to test on, of 48 px, in COCO's layout."""
    folder = tmp_path_factory.mktemp("scenes")
    make_demo_data(folder, DemoData(num_train=32, num_val=12, size=48, seed=0), workers=1)
    return folder


@pytest.fixture(scope="session")
def layouts(scenes, tmp_path_factory) -> Path:
    """The same as imagenet/, voc/ and cityscapes/."""
    folder = tmp_path_factory.mktemp("layouts")
    make_eval_data(scenes, folder)
    return folder
