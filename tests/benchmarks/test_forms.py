"""The commands that compare two forms: each measures where it is asked to, and none times forms that disagree."""

import json
import sys

import pytest
import torch

from benchmarks import compare, kmeans, mask_pooling, refinement, windows
from benchmarks.baselines import kmeans as baseline
from models import windows as matching
from utils.errors import UserError

COMMANDS = {
    "kmeans": (kmeans, ["--batch", "3", "--points", "60", "--clusters", "4"]),
    "refinement": (refinement, ["--batch", "2", "--size", "32", "--clusters", "4", "--superpixels", "16"]),
    "mask_pooling": (mask_pooling, ["--batch", "2", "--size", "64", "--processes", "3", "--labels", "7"]),
    "windows": (windows, ["--batch", "2", "--size", "128"]),
}
WHATS = {
    "kmeans": ["K-means"],
    "refinement": ["refinement of 16 superpixels"],
    "mask_pooling": ["masks of 7 labels", "loss and gradient"],
    "windows": [
        f"{level}, {part}"
        for level in ("C4", "C3")
        for part in ("matching", "pooling and gradient", "InfoNCE and gradient", "all of it")
    ],
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for module, _ in COMMANDS.values():
        monkeypatch.setattr(module, "CHANNELS", 8)
    right = compare.alternate
    monkeypatch.setattr(compare, "alternate", lambda forms, **options: right(forms, **options | {"repeats": 1}))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def run(name, *words):
    module, arguments = COMMANDS[name]
    return module.main([*arguments, "--threads", "1", *words])


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_measures_each_part_at_the_point_that_it_is_given(name, tmp_path, capsys):
    assert run(name, "--json", str(tmp_path / "out.json")) == 0
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["benchmark"] == name and [row["what"] for row in written["rows"]] == WHATS[name]
    assert all(row["batch"] in (2, 3) and row["ratio"] > 0 and row["ours_ms"] > 0 for row in written["rows"])
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == len(WHATS[name]) and all("ratio" in line for line in lines)
    assert sys.platform != "linux" or all("MB" in line for line in lines)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_sweep_goes_through_its_values(name, tmp_path):
    assert run(name, "--sweep", "batch", "1", "4", "--json", str(tmp_path / "out.json")) == 0
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [(row["what"], row["batch"]) for row in rows] == [(what, batch) for batch in (1, 4) for what in WHATS[name]]


def test_what_a_sweep_does_not_touch_is_measured_once(tmp_path):
    run("mask_pooling", "--sweep", "processes", "1", "2", "--json", str(tmp_path / "out.json"))
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [(row["what"], row.get("processes"), row.get("size")) for row in rows] == [
        ("masks of 7 labels", None, 64),
        ("loss and gradient", 1, None),
        ("loss and gradient", 2, None),
    ]


@pytest.mark.parametrize("name", ["refinement", "mask_pooling", "windows"])
def test_a_size_that_gives_no_whole_grid_is_refused_before_anything_is_measured(name, capsys):
    assert run(name, "--sweep", "size", "64", "65") == UserError.exit_code
    assert "ratio" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["kmeans", "refinement"])
def test_more_clusters_than_points_are_refused_as_rounding_would_name_them(name, capsys):
    assert run(name, "--batch", "1", "--sweep", "clusters", "3", "61") == UserError.exit_code
    assert "ratio" not in capsys.readouterr().out


@pytest.mark.parametrize(("clusters", "images_per_group"), [(4, 2), (5, 3), (7, 2), (1, 5)])
def test_the_baseline_of_kmeans_finds_ours_in_every_group(clusters, images_per_group):
    """With a group that is not full, and absent superpixels."""
    features, present = kmeans.make_inputs({"batch": 5, "points": 20}, torch.device("cpu"))
    options = {"num_clusters": clusters, "seeds": torch.arange(7, 12), "images_per_group": images_per_group}
    labels = baseline.cluster(features.double(), present, **options)
    assert torch.equal(labels, kmeans.cluster_superpixels(features.double(), present, **options))
    assert not present.all() and torch.equal(labels >= 0, present)


FAULTS = {
    "kmeans: no iteration": ("kmeans", kmeans, "cluster_superpixels", {"max_iter": 0}),
    "kmeans: another start": ("kmeans", kmeans, "cluster_superpixels", {"seeds": torch.arange(5, 8)}),
    "kmeans: image after image": ("kmeans", kmeans, "cluster_superpixels", {"images_per_group": 1}),
    "refinement: regions of averaged numbers": (
        "refinement",
        refinement,
        "merge_superpixels",
        lambda regions: regions + 1,
    ),
    "refinement: other features": ("refinement", refinement, "pool_regions", lambda pooled: pooled.square()),
    "mask_pooling: another cell": ("mask_pooling", mask_pooling, "majority_labels", lambda ids: ids.flip(1)),
    "mask_pooling: another temperature": ("mask_pooling", mask_pooling, "detcon_loss", {"temperature": 0.11}),
    "mask_pooling: other negatives": ("mask_pooling", mask_pooling, "detcon_loss", {"local_negatives": False}),
    "windows: others shown": ("windows", matching, "inside", lambda shown: ~shown),
    "windows: pooled elsewhere": ("windows", windows, "pool_windows", lambda pooled: pooled.roll(1, 1)),
    "windows: no weights": ("windows", windows, "info_nce", {"weight": None}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_forms_that_disagree_are_not_timed(fault, monkeypatch, capsys):
    name, owner, part, wrong = FAULTS[fault]
    right = getattr(owner, part)
    if callable(wrong):
        monkeypatch.setattr(owner, part, lambda *tensors, **options: wrong(right(*tensors, **options)))
    else:
        monkeypatch.setattr(owner, part, lambda *tensors, **options: right(*tensors, **options | wrong))
    with pytest.raises(AssertionError):
        run(name)
    assert "loss and gradient (" not in capsys.readouterr().out
