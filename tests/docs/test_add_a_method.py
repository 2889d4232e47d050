"""The page on adding a method keeps its word: its two files train, resume, run as two processes and can be evaluated."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from evaluation.backbones import load_backbone
from evaluation.settings import Network
from losses.byol import unit
from tests.docs.page import PAGE, commands, example_files, follow, run_here
from tests.mains import train_in_float64
from tests.mains.runs import assert_same, metrics, newest, write_own_config
from tests.paths import ROOT
from tests.utils.two_ranks import run_two_ranks
from utils import config
from utils.config import load_config
from utils.sections import Backbone

# Started in the project with the page's files, whose folder is then the first that is searched.
TWO = """
import sys
from pathlib import Path

import torch

from tests.mains import train_in_float64

torch.set_num_threads(1)
train_in_float64.main(Path(sys.argv[1]), *sys.argv[2:], out="two")
"""

# The page's own config with a network and views that take no time.
SMALL = {
    "model": {"backbone": {"type": "resnet_tiny", "width": 4}, "projection": {"hidden_dim": 16, "output_dim": 8}},
    "data": {"resize_size": 32, "data_workers": 0, "train_batch_size": 8},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """The project with the page's files in it, where this process is, after every command but the launch of two processes."""
    folder = tmp_path_factory.mktemp("project")
    follow(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        patch.setattr(config, "CONFIGS", folder / "configs")
        codes = {line: run_here(line) for line in commands() if not line.startswith("torchrun")}
        assert {line for line, code in codes.items() if code} == {line for line in codes if "wieght" in line}
        yield folder
    del sys.modules["densecl_main"]


def write_small_config(project: Path, name: str, **sections: dict) -> None:
    """few_scenes/NAME.yaml."""
    shown = yaml.safe_load(example_files()["configs/densecl/demo.yaml"])
    basis = {key: values | SMALL.get(key, {}) for key, values in shown.items() if isinstance(values, dict)}
    write_own_config(project / "few_scenes", basis, name=name, **sections)


def make_small_method(project: Path, **loss: float) -> nn.Module:
    """The method of the small config, its key network another than its query network."""
    program = importlib.import_module("densecl_main")
    write_small_config(project, "own", loss=loss)
    settings, _ = load_config(project / "few_scenes" / "own.yaml", program.DenseCLConfig)
    method = program.make_method(settings, momentum=lambda progress: 0.5)
    with torch.no_grad():
        for parameter in method.target.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return method


def make_batch() -> dict[str, torch.Tensor]:
    return {"images": torch.randn(3, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))}


def test_the_example_is_two_files_of_the_promised_size_and_nowhere_else():
    files = example_files()
    assert list(files) == ["densecl_main.py", "configs/densecl/demo.yaml"]
    assert len(files["densecl_main.py"].splitlines()) <= 150
    assert [path for path in ROOT.glob("*densecl*")] == [] and not (ROOT / "configs" / "densecl").exists()


def test_what_the_page_names_is_there():
    text = PAGE.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 20 and [link for link in links if not (PAGE.parent / link).exists()] == []
    rows = re.findall(r"^\| .* \| (.*\]\(.*) \| (`.*`) \|$", text, re.MULTILINE)
    assert len(rows) > 12
    for places, names in rows:
        code = "".join((PAGE.parent / link).read_text() for link in re.findall(r"\]\(([^)]+\.py)\)", places))
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"^(def|class) {name}\b|^{name} = |^    def {name}\b", code, re.MULTILINE), name


def test_the_config_is_printed_whole(project, capsys):
    assert run_here(next(line for line in commands() if "--print-config" in line)) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["loss"] == {"temperature": 0.1, "dense_weight": 0.5} and printed["data"]["image_dir"] == "few_scenes"
    assert printed["model"]["backbone"]["strides"] == [2, 1, 2, 1, 2]


def test_a_misspelt_key_is_refused_with_the_one_that_was_meant(project, capsys):
    assert run_here(next(line for line in commands() if "wieght" in line)) == 2
    refusal = capsys.readouterr().err
    assert "did you mean loss.dense_weight?" in refusal and "did you mean loss.dense_weight?" in PAGE.read_text()


def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(project):
    whole, parts = (project / "runs" / "densecl" / name for name in ("whole", "parts"))
    assert newest(whole)["step"] == 3
    assert_same(newest(whole), newest(parts))
    row = metrics(whole)[-1]
    assert row["total_loss"] == pytest.approx(row["loss_image"] + row["loss_dense"])
    assert {"top1_image", "top1_dense", "target_momentum"} <= row.keys()


def test_the_backbone_is_the_online_one_and_evaluators_take_it(project):
    run = project / "runs" / "densecl" / "whole"
    trained = newest(run)["method"]
    network = Network(backbone=Backbone(**yaml.safe_load((run / "config.yaml").read_text())["model"]["backbone"]))
    for path in (run / "backbone.pth", project / "resnet.pth"):
        trunk = load_backbone(network.model_copy(update={"weights": str(path)}), seed=1)
        assert all(torch.equal(value, trained[f"backbone.{name}"]) for name, value in trunk.state_dict().items())


def test_the_losses_agree_with_a_loop_over_cells(project):
    method, batch = make_small_method(project, dense_weight=0.3, temperature=0.5), make_batch()
    kept, dense_kept = method.queue.keys.clone(), method.dense_queue.keys.clone()
    output = method(batch, torch.Generator())
    queries, keys = batch["images"].unbind(1)
    with torch.no_grad():
        maps = method.backbone(queries)["c5"].flatten(2), method.target[0](keys)["c5"].flatten(2)
        image, dense = [], []
        for own, other in zip(*maps):
            whole = method.head(own.mean(1)[None]), method.target[1](other.mean(1)[None])
            image.append(cross_entropy(*whole, kept))
            for cell in own.T:
                best = max(other.T, key=lambda one: float(torch.cosine_similarity(cell, one, dim=0)))
                pair = method.dense_head(cell[None]), method.target[2](best[None])
                dense.append(cross_entropy(*pair, dense_kept))
        pooled = torch.stack([method.target[2](other.T).mean(0) for other in maps[1]])
    assert torch.allclose(output.losses["loss_image"], 0.7 * torch.stack(image).mean(), atol=1e-5)
    assert torch.allclose(output.losses["loss_dense"], 0.3 * torch.stack(dense).mean(), atol=1e-5)
    # The keys of the batch wait in the queues for the next one.
    assert torch.allclose(method.dense_queue.keys[:3], unit(pooled), atol=1e-5)
    assert torch.equal(method.dense_queue.keys[3:], dense_kept[3:])


def cross_entropy(query: torch.Tensor, key: torch.Tensor, queue: torch.Tensor) -> torch.Tensor:
    """Of one query (1, D), its key (1, D) and the queue (K, D), at temperature 0.5."""
    logits = torch.cat([unit(key), queue]) @ unit(query)[0] / 0.5
    return logits.logsumexp(0) - logits[0]


@pytest.mark.parametrize(("weight", "idle"), [(0, "dense_head"), (1, "head")])
def test_a_loss_of_no_weight_moves_nothing_but_stays_attached(project, weight, idle):
    method = make_small_method(project, dense_weight=weight)
    sum(method(make_batch(), torch.Generator()).losses.values()).backward()
    gradients = {name: parameter.grad for name, parameter in method.named_parameters() if parameter.requires_grad}
    assert all(gradient is not None for gradient in gradients.values())
    still = {name.partition(".")[0] for name, gradient in gradients.items() if not gradient.any()}
    assert still == {idle}


def test_low_precision_trains(project):
    write_small_config(project, "low", amp={"opt_level": "O1"})
    assert run_here("python densecl_main.py --cfg few_scenes/low.yaml --max_steps 2 --out runs/low") == 0
    assert np.isfinite(metrics(project / "runs" / "low")[-1]["total_loss"])


def test_the_benchmark_measures_it_as_the_others(project, capsys):
    assert "make benchmark METHOD=densecl" in PAGE.read_text(encoding="utf-8")
    write_small_config(project, "fast")
    words = "--method densecl --cfg few_scenes/fast.yaml --steps 3 --repeats 1 --sweep workers 0"
    assert run_here(f"python -m benchmarks.end_to_end {words}") == 0
    printed = capsys.readouterr().out
    assert "densecl (workers 0, batch 8, size 32), 3 steps" in printed and "whole training" in printed


def test_a_queue_that_the_batch_does_not_divide_is_refused(project, capsys):
    write_small_config(project, "odd", data={"train_batch_size": 7})
    assert run_here("python densecl_main.py --cfg few_scenes/odd.yaml") == 2
    assert "model.queue_size: 2048 is not a multiple" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_with_half_the_batch_equal_one(project):
    """With BatchNorm off, and with BatchNorm synchronised."""
    folder, cases = project / "few_scenes", ("frozen_norm", "synchronised")
    (project / "two.py").write_text(TWO)
    for case in cases:
        write_small_config(project, case)
    one = train_in_float64.main(folder, "densecl", *cases, out="one")
    for case in cases:
        write_small_config(project, case, data={"train_batch_size": 4})
    for two in run_two_ranks(str(project / "two.py"), folder, "densecl", *cases):
        for case in cases:
            for name, value in one[case].items():
                floor = max(1e-9 * value.abs().max().item(), 1e-14)
                assert torch.allclose(two[case][name], value, rtol=1e-9, atol=floor), (case, name)


@pytest.mark.slow
def test_the_launch_of_two_processes_trains(project):
    (line,) = (line for line in commands() if line.startswith("torchrun"))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "torch.distributed.run", *shlex.split(line)[1:]]
    assert subprocess.run(words, cwd=project, env=environment, timeout=300).returncode == 0
    state = newest(project / "runs" / "densecl" / "two")
    assert state["step"] == 3 and state["method"]["queue.next"] == 3 * 64
