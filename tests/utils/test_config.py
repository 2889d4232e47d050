import pytest
import yaml

from r2o_config import R2OConfig
from utils.config import CONFIGS, dump_config, find_config, load_config
from utils.errors import UserError

# The keys of the published R2O config, with a value of the right type each.
PUBLISHED = """
model:
  base_momentum: 0.99
  backbone: {type: "resnet50", pretrained: false}
  projection: {type: "MLP", input_dim: 2048, hidden_dim: 4096, output_dim: 256}
  predictor: {type: "MLP", input_dim: 256, hidden_dim: 4096, output_dim: 256}
clustering:
  scheduler: {type: 'cosine', epochs: [0, 40, 300], values: [128, 128, 4]}
amp: {sync_bn: True, opt_level: "O0"}
data:
  image_dir: "/imagenet"
  subset: ""
  resize_size: 224
  data_workers: 16
  overlap_indicator: true
  weight: false
  n_kmeans: 9999
  slic_segments: 100
  train_batch_size: 32
  val_batch_size: 32
  dual_views: true
  num_examples: 1281167
optimizer:
  type: lars
  base_lr: 0.3
  lr_type: "cosine"
  scale_lr_by_k: 16
  momentum: 0.9
  weight_decay: 1e-6
  total_epochs: 300
  warmup_epochs: 3
  exclude_bias_and_bn: true
checkpoint:
  time_stamp:
  resume_path:
  save_epoch: 100
  ckpt_path: "ckpt/r2o/{}/{}_{}_{}.pth.tar"
log:
  log_step: 10
  log_dir:
  log_all: False
  enable_wandb: False
distributed: True
seed: 0
"""


@pytest.fixture
def write(tmp_path):
    def write_config(text: str):
        path = tmp_path / "own.yaml"
        path.write_text(text)
        return path

    return write_config


def test_a_published_config_loads_and_says_which_keys_do_nothing(write):
    config, warnings = load_config(write(PUBLISHED), R2OConfig)
    # YAML reads 1e-6 as a string; the schema knows better.
    assert config.optimizer.weight_decay == 1e-6
    assert config.checkpoint.ckpt_path == "ckpt/r2o/{}/{}_{}_{}.pth.tar"
    unused = ["data.n_kmeans", "data.val_batch_size", "data.dual_views", "log.log_all"]
    assert [next(key for key in unused if key in warning) for warning in sorted(warnings)] == sorted(unused)


def test_what_is_printed_loads_as_the_same_config(write):
    config, _ = load_config(write(PUBLISHED), R2OConfig, overrides=["seed=7", "data.subset=imagenet100"])
    again, warnings = load_config(write(dump_config(config)), R2OConfig)
    assert again.model_dump() | {"data": 0, "log": 0} == config.model_dump() | {"data": 0, "log": 0}
    assert warnings == []


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("optimizer.base_rl=0.2", ["--set: optimizer.base_rl: no such key", "did you mean optimizer.base_lr?"]),
        ("data.base_lr=0.2", ["--set: data.base_lr: no such key", "did you mean optimizer.base_lr?"]),
        ("optimizer.base_lr=fast", ["--set: optimizer.base_lr: input should be a valid number", "found 'fast'"]),
        ("optimizer.base_lr=-1", ["optimizer.base_lr: input should be greater than 0", "found -1"]),
        ("optimizer.total_epochs=2.5", ["optimizer.total_epochs", "found 2.5"]),
        ("optimizer.lr_type=cosin", ["optimizer.lr_type: input should be 'cosine', 'steps'", "found 'cosin'"]),
        ("clustering.scheduler.values=[1]", ["clustering.scheduler: a schedule needs one value an epoch"]),
        ("clustering.scheduler.type=sine", ["clustering.scheduler.type", "'cosine'"]),
        ("seed", ["--set seed: expected section.key=value"]),
        ("seed.deep=1", ["seed is a value, not a section"]),
        ("seed=[1", ["--set seed=[1: the value is not YAML"]),
    ],
)
def test_a_wrong_override_is_refused_with_its_key_and_remedy(write, override, parts):
    with pytest.raises(UserError) as error:
        load_config(write(PUBLISHED), R2OConfig, overrides=[override])
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            "data: {image_dri: x}",
            ["own.yaml: data.image_dri: no such key", "did you mean data.image_dir?", "data.image_dir: this key"],
        ),
        ("model: {}", ["own.yaml: data: this key is missing"]),
        ("- a list", ["own.yaml: expected sections", "found list"]),
        ("model: [", ["own.yaml: not a YAML file"]),
        ("seed: 1\nseed: 2\ndata: {image_dir: x}", ["own.yaml: not a YAML file", "'seed' stands twice"]),
        ("modle: {}\ndata: {image_dir: x}", ["own.yaml: modle: no such key; did you mean model?"]),
    ],
)
def test_a_wrong_file_is_refused_with_its_name(write, text, parts):
    with pytest.raises(UserError) as error:
        load_config(write(text), R2OConfig)
    for part in parts:
        assert part in str(error.value)


def test_every_wrong_key_is_named_at_once(write):
    with pytest.raises(UserError) as error:
        load_config(write(PUBLISHED), R2OConfig, overrides=["seed=-1", "log.log_stpe=3"])
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize(
    "name",
    [
        "imagenet_300ep",
        "imagenet_300ep.yaml",
        "r2o/imagenet_300ep",
        "r2o/imagenet_300ep.yaml",
        "train_imagenet_300",
        "train_imagenet_300.yaml",
    ],
)
def test_a_config_is_found_by_name(name):
    assert find_config(name, method="r2o") == CONFIGS / "r2o" / "imagenet_300ep.yaml"


def test_an_unknown_name_lists_those_there_are():
    with pytest.raises(UserError, match=r"imagenet_30ep.*did you mean imagenet_300ep\?.*there are: .*imagenet_300ep"):
        find_config("imagenet_30ep", method="r2o")


def test_an_empty_section_is_its_defaults(write):
    config, _ = load_config(
        write("data: {image_dir: x}\nlog:\ncheckpoint:\namp:\n"), R2OConfig, overrides=["log.log_step=3"]
    )
    assert config.log.log_step == 3
    assert config.checkpoint.save_epoch == 100


def test_the_published_config_of_ours_has_the_published_numbers(write):
    theirs, _ = load_config(write(PUBLISHED), R2OConfig)
    ours, _ = load_config(CONFIGS / "r2o" / "imagenet_300ep.yaml", R2OConfig)
    differing = {key for key in yaml.safe_load(dump_config(ours)) if getattr(ours, key) != getattr(theirs, key)}
    # Where files lie, keys that do nothing, and an older curriculum that holds K for 40 epochs.
    assert differing == {"clustering", "data", "checkpoint", "log", "distributed"}
    assert ours.optimizer == theirs.optimizer
    assert ours.model == theirs.model
