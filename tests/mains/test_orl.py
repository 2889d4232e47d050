"""The main job of ORL and BYOL on a small folder of pictures: stage by stage, resumed, on two processes, fed rubbish."""

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import orl_main
from data.correspondence import load_correspondence
from data.listing import find_images
from data.orl_export import write_correspondence
from orl_config import ORLConfig, image_level
from tests.mains.orl_runs import CONFIG, STAGE_2, found, make_folder, train
from tests.mains.runs import (
    TINY_MODEL,
    assert_a_killed_run_goes_on,
    assert_same,
    assert_two_processes_equal_one,
    launched,
    metrics,
    newest,
    write_own_config,
)
from tests.utils.two_ranks import run_two_ranks
from utils.config import load_config


@pytest.fixture
def folder(tmp_path) -> Path:
    make_folder(tmp_path)
    return tmp_path


def test_three_stages_leave_their_folders_and_a_backbone(finished):
    run = finished / "run"
    assert {path.name for path in run.iterdir()} == {"run.json", "stage1", "stage2", "stage3"}
    assert all((run / stage / "done.json").exists() for stage in ("stage1", "stage2", "stage3"))
    first, third = metrics(run / "stage1"), metrics(run / "stage3")
    # Schedules of a stage end with it.
    assert len(first) == 2 * 3 and len(third) == 3 * 3
    assert first[-1]["learning_rate"] < 0.5 * max(row["learning_rate"] for row in first)
    for row in third:
        assert {name for name in row if name.startswith("loss")} == {"loss_global", "loss_intra", "loss_inter"}
        assert np.isclose(row["total_loss"], row["loss_global"] + row["loss_intra"] + row["loss_inter"])
    assert [row["target_momentum"] for row in third] == sorted(row["target_momentum"] for row in third)
    backbone, trained = torch.load(run / "stage3" / "backbone.pth", weights_only=True), newest(run / "stage3")["method"]
    assert all(torch.equal(value, trained[f"backbone.{key}"]) for key, value in backbone.items())


def test_stage_2_leaves_files_pictures_and_counts_and_nothing_else(finished):
    stage = finished / "run" / "stage2"
    kept = STAGE_2 | {"config.yaml", "pictures", "tensorboard", "log.txt", "metrics.jsonl"}
    assert {path.name for path in stage.iterdir()} == kept
    assert {path.name.split("_")[0] for path in (stage / "pictures").iterdir()} == {"neighbours", "proposals", "pairs"}
    correspondence, counts = load_correspondence(stage), json.loads((stage / "done.json").read_text())
    assert correspondence.neighbours.shape == (27, 3) and counts["images"] == 27
    assert counts["boxes_embedded"] == counts["boxes"] == len(correspondence.boxes.values)
    lengths = correspondence.boxes.lengths
    assert counts["boxes_embedded_as_published"] == lengths.sum() + lengths[correspondence.neighbours].sum()
    for image in range(27):
        assert image not in correspondence.neighbours[image]
        for place in range(3):
            assert len(correspondence.pairs_of(image, place)) == max(1, int(0.2 * lengths[image]))


def test_stages_one_by_one_give_what_all_together_give(folder, finished):
    assert train(folder, "run", "--stage", "1") == 0
    assert train(folder, "run", "--stage", "2") == 0
    assert train(folder, "run", "--stage", "3") == 0
    for stage in ("stage1", "stage3"):
        assert_same(newest(folder / "run" / stage), newest(finished / "run" / stage))
    assert found(folder / "run") == found(finished / "run")


def test_a_run_stopped_in_every_stage_equals_an_uninterrupted_one(folder, finished, monkeypatch):
    assert train(folder, "run", "--stage", "1", "--max_steps", "4") == 0
    assert not (folder / "run" / "stage1" / "done.json").exists()

    class Killed(BaseException):
        pass

    def stop(*arguments, **options):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("orl_stages.find_pairs", stop)
        train(folder, "run", "--resume", "auto")
    assert (folder / "run" / "stage1" / "done.json").exists()
    assert not (folder / "run" / "stage2" / "done.json").exists()
    assert train(folder, "run", "--resume", "auto", "--max_steps", "7") == 0
    assert not (folder / "run" / "stage3" / "done.json").exists()
    assert train(folder, "run", "--resume", "auto") == 0
    for stage in ("stage1", "stage3"):
        assert_same(newest(folder / "run" / stage), newest(finished / "run" / stage))
    assert found(folder / "run") == found(finished / "run")


def test_what_is_done_is_not_done_again(folder, finished, capsys):
    before = found(finished / "run")
    assert train(finished, "run", "--resume", "auto") == 0
    said = capsys.readouterr().err
    assert all(f"stage {stage} is done" in said for stage in "123") and found(finished / "run") == before


@pytest.mark.parametrize("change", ["neighbours.count=2", "pairs.share=0.5", "proposals.top_n=3"])
def test_pairs_that_were_made_otherwise_are_not_trained_on(finished, capsys, change):
    for stage in ("3", "all"):
        assert train(finished, "run", "--stage", stage, "--resume", "auto", "--set", change) == 2
        assert f"made with another {change.split('.')[0]}" in capsys.readouterr().err


def test_a_run_that_is_cut_short_does_not_reach_the_next_stage(folder, capsys):
    assert train(folder, "run", "--max_steps", "2") == 0
    assert "stage 1 ended early" in capsys.readouterr().err and not (folder / "run" / "stage2").exists()
    assert train(folder, "run", "--stage", "2") == 2
    assert "stage 1 is not done there" in capsys.readouterr().err
    # Past the end is no cut.
    assert train(folder, "run", "--stage", "1", "--resume", "auto", "--max_steps", "100") == 0
    assert (folder / "run" / "stage1" / "done.json").exists()


def test_a_stages_folder_is_not_taken_for_the_runs(finished, capsys):
    assert orl_main.main(["--cfg", str(finished / "own.yaml"), "--resume", str(finished / "run" / "stage3")]) == 2
    assert "the folder that holds all its stages" in capsys.readouterr().err
    assert not (finished / "run" / "stage3" / "stage1").exists()


def test_a_finished_stage_is_not_written_over(finished, capsys):
    assert train(finished, "run", "--stage", "3") == 2
    assert "continue it with --resume auto" in capsys.readouterr().err


def test_byol_is_stage_1_alone(folder, finished, capsys):
    write_own_config(folder, CONFIG, model={"variant": "byol"}, optimizer={"total_epochs": 2})
    assert train(folder, "byol") == 0
    ours, theirs = newest(folder / "byol"), newest(finished / "run" / "stage1")
    assert_same(ours, theirs)
    assert (folder / "byol" / "backbone.pth").exists()
    assert train(folder, "other", "--stage", "3") == 2
    assert "model.variant: byol is stage 1 alone" in capsys.readouterr().err


def test_two_processes_with_half_the_batch_equal_one(folder, finished):
    """In stage 1 and in stage 3, BatchNorm synchronised, and in stage 3 with a view's statistics shared by both."""
    cases = {
        "byol": {"model": {**TINY_MODEL, "variant": "byol"}},
        "orl": {},
        "joint": {"model": {**TINY_MODEL, "joint_views": True}},
    }
    assert_two_processes_equal_one(folder, "orl", CONFIG, cases, found=finished / "run" / "stage2")


def test_two_processes_find_what_one_finds(folder, finished):

    encoder = finished / "run" / "stage1" / "encoder.pth"
    write_own_config(folder, CONFIG, model={**TINY_MODEL, "init": str(encoder)})
    run_two_ranks(Path(__file__).with_name("discover.py"), folder)
    assert found(folder / "run").keys() == STAGE_2
    for name in STAGE_2 - {"meta.json"}:
        assert found(folder / "run")[name] == found(finished / "run")[name], name


def test_stage_1_is_a_config_of_its_own():
    config, _ = load_config(Path("configs/orl/demo.yaml"), ORLConfig)
    first = image_level(config)
    assert first.model.variant == "byol" and first.optimizer.total_epochs == config.optimizer.stage1_epochs
    assert first.data == config.data and config.optimizer.stage1_epochs != config.optimizer.total_epochs


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["--stage", "2"], "run --stage 1 first"),
        (["--stage", "3"], "run --stage 2 first"),
        (["--stage", "1", "--set", "model.init=some.pth"], "takes its place"),
        (["--set", "model.init=nowhere.pth"], "check model.init"),
        (["--set", "loss.global_weight=0", "loss.intra_weight=0", "loss.inter_weight=0"], "nothing would be learned"),
        (["--set", "jitter.scale=[2, 1]"], "jitter.scale"),
        (["--set", "optimizer.stage1_epochs=1", "optimizer.warmup_epochs=2"], "optimizer.stage1_epochs: 1"),
        (["--set", "proposals.topn=3"], "did you mean proposals.top_n?"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_remedy(folder, capsys, overrides, part):
    assert train(folder, "run", *overrides) == 2
    assert part in capsys.readouterr().err
    assert not (folder / "run").exists()


def test_threads_are_as_many_as_asked(folder, monkeypatch):
    asked = []
    monkeypatch.setattr("torch.set_num_threads", asked.append)
    write_own_config(folder, CONFIG, model={"variant": "byol"}, threads=3)
    assert train(folder, "run", "--max_steps", "1") == 0
    assert asked == [3]


def test_more_neighbours_than_images_are_refused(folder, finished, capsys):
    encoder = finished / "run" / "stage1" / "encoder.pth"
    assert train(folder, "run", "--set", "neighbours.count=27", f"model.init={encoder}") == 2
    assert "only 26 other images" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_stage_3_goes_on_to_the_same_parameters(folder, finished):
    correspondence = load_correspondence(finished / "run" / "stage2")
    write_correspondence(folder / "all.json", find_images(finished), correspondence, info={})
    changes = {"optimizer": {"total_epochs": 12}, "checkpoint": {"save_minutes": 0.002}, "data": {"data_workers": 1}}
    write_own_config(folder, CONFIG, files={"correspondence": str(folder / "all.json")}, **changes)
    assert_a_killed_run_goes_on("orl", folder, stage="stage3")


@pytest.mark.slow
def test_stage_2_asked_to_stop_ends_with_its_code_and_goes_on_to_the_same_files(folder, finished):
    encoder = finished / "run" / "stage1" / "encoder.pth"
    write_own_config(
        folder, CONFIG, model={**TINY_MODEL, "init": str(encoder)}, pairs={"patch_size": 400, "batch_size": 2}
    )
    assert launched("orl", folder, "whole", "--stage", "2").wait(timeout=200) == 0
    process = launched("orl", folder, "stopped", "--stage", "2")
    deadline = time.monotonic() + 100
    while not (folder / "stopped" / "stage2" / "box_features_0of1").exists():
        assert time.monotonic() < deadline, "the stage does not get going"
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    assert not (folder / "stopped" / "stage2" / "done.json").exists()
    assert launched("orl", folder, "stopped", "--stage", "2").wait(timeout=200) == 0
    assert found(folder / "stopped") == found(folder / "whole")
