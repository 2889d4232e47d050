import json

import numpy as np
import pytest
from PIL import Image

from benchmarks.plot import lines_of, main, read
from utils.errors import UserError

HEAD = {"processor": "a processor", "device": "cpu", "threads": 2, "date": "2026-01-02", "torch": "2"}


def row(what="K-means", *, batch=8, clusters=4, **figures):
    return {"what": what, "clusters": clusters, "batch": batch} | figures


def write(path, rows, name="kmeans", axes=("clusters", "batch"), **head):
    path.write_text(json.dumps(HEAD | head | {"benchmark": name, "axes": axes, "rows": rows}))
    return path


def swept():
    """Two sweeps that share a point."""
    at = {"ours_ms": 1.0, "baseline_ms": 30.0, "ratio": 30.0, "ours_mb": 2.0, "baseline_mb": 4.0}
    return [row(clusters=k, **at) for k in (4, 16, 64)] + [
        row(batch=batch, **at | {"ours_ms": 3.0}) for batch in (8, 16)
    ]


def test_each_axis_that_was_swept_gets_a_small_picture(tmp_path, capsys):
    files = [write(tmp_path / "one.json", swept())]
    shares = [{"what": "r2o", "workers": n, "whole_images_per_second": 5.0 * n, "wait_share": 0.5} for n in (0, 1, 2)]
    files.append(write(tmp_path / "two.json", shares, name="end_to_end", axes=["workers"]))
    out = tmp_path / "docs" / "performance"
    assert main([*map(str, files), "--out", str(out)]) == 0
    names = ["end_to_end_workers.png", "kmeans_batch.png", "kmeans_clusters.png"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert sorted(capsys.readouterr().out.split()) == [str(out / name) for name in names]
    for name in names:
        picture = Image.open(out / name)
        # Three panels stand side by side for K-means, two for whole training; something is drawn in each.
        assert picture.width == (1320 if "kmeans" in name else 880)
        pixels = np.asarray(picture.convert("L"))
        assert all(panel.std() > 5 for panel in np.array_split(pixels, picture.width // 440, axis=1))
        assert (out / name).stat().st_size < 100_000


def test_a_line_holds_the_other_axes_still(tmp_path):
    document = read(write(tmp_path / "one.json", swept()))
    (line,) = (one for one in lines_of([document], "batch") if (one.unit, one.part) == ("ms", "ours"))
    # The point that both sweeps share counts once, by the median.
    assert line.name == "K-means" and line.places == [8, 16] and line.values == [2.0, 3.0]
    assert {(one.unit, one.part) for one in lines_of([document], "clusters")} == {
        ("ms", "ours"),
        ("ms", "baseline"),
        ("ratio", ""),
        ("mb", "ours"),
        ("mb", "baseline"),
    }


def test_sweeps_at_two_places_of_another_axis_are_two_lines_with_their_place(tmp_path):
    rows = [row(clusters=k, batch=batch, ours_ms=1.0) for k in (4, 16) for batch in (8, 32)]
    lines = lines_of([read(write(tmp_path / "one.json", rows))], "clusters")
    assert [line.name for line in lines] == ["K-means (batch 8)", "K-means (batch 32)"]


def test_two_machines_are_two_lines_with_their_names(tmp_path):
    rows = [row(clusters=k, ours_ms=1.0) for k in (4, 16)]
    documents = [write(tmp_path / "cpu.json", rows), write(tmp_path / "gpu.json", rows, device="a GPU")]
    lines = lines_of([read(path) for path in documents], "clusters")
    assert [line.name for line in lines] == ["K-means, a processor, 2 threads", "K-means, a GPU"]


def test_a_file_without_sweeps_and_another_kind_of_file_are_refused(tmp_path, caplog):
    out = tmp_path / "out"
    still = write(tmp_path / "one.json", [row(ours_ms=1.0)])
    assert main([str(still), "--out", str(out)]) == UserError.exit_code and "--sweep" in caplog.text
    other = tmp_path / "other.json"
    other.write_text("[]")
    with pytest.raises(UserError, match="other.json"):
        read(other)
    assert not out.exists()
