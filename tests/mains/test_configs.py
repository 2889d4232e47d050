"""Every config that is shipped loads, and its method can be built."""

import importlib
from pathlib import Path

import pytest
import torch

from tools.config_table import schema_of
from utils.config import CONFIGS, load_config, schema_keys

EVERY = pytest.mark.parametrize(
    "path", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)


@EVERY
def test_a_config_loads_without_warnings(path: Path):
    assert load_config(path, schema_of(path.parent.name))[1] == []


@EVERY
def test_the_method_of_a_config_can_be_built(path: Path):
    name = path.parent.name
    program = importlib.import_module(f"{name}_main")
    config, _ = load_config(path, schema_of(name))
    schedules = {"r2o": ("momentum", "clusters")}.get(name, ("momentum",))
    # No weights are drawn on this device, so that a ResNet-50 takes no time.
    with torch.device("meta"):
        method = program.make_method(config, **dict.fromkeys(schedules, lambda progress: 1))
    assert method.backbone.levels.keys() == {"c2", "c3", "c4", "c5"}
    if name == "detconb":
        assert (method.predictor is None) == (config.model.variant == "s")


METHODS = [folder.name for folder in sorted(CONFIGS.iterdir()) if folder.name != "evaluation"]
EVALUATORS = [f"evaluation.{folder.name}" for folder in sorted((CONFIGS / "evaluation").iterdir())]


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.glob("evaluation/*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_an_evaluators_config_loads_without_warnings(path: Path):
    assert load_config(path, schema_of(f"evaluation.{path.parent.name}"))[1] == []


@pytest.mark.parametrize("name", [*METHODS, *EVALUATORS])
def test_every_key_has_a_description(name):
    assert [key for key, field in schema_keys(schema_of(name)) if not field.description] == []
