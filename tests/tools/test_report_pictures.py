import io

import numpy as np
import pytest
from PIL import Image

from tests.tools.fake_runs import draw, make_run
from tools.orl_pictures import PatchPictures
from tools.pictures import SampledMaskPictures
from tools.report_data import read_runs
from tools.report_pictures import _BYTES, TITLES, encode, read_galleries
from tools.visualize_masks import GenerationPictures
from tools.window_pictures import WindowPictures


@pytest.mark.parametrize("pictures", [SampledMaskPictures, WindowPictures, PatchPictures, GenerationPictures])
def test_what_methods_draw_has_a_title(pictures):
    assert pictures.name in TITLES


def test_pictures_are_grouped_by_name_in_the_order_of_their_epochs(tmp_path):
    runs = [make_run(tmp_path / "one"), make_run(tmp_path / "two", picture="masks", epochs=1)]
    draw(runs[0], "masks", 5)
    (runs[0] / "pictures" / ".tmp-ab-masks_00000009.png").write_bytes(b"half")
    (runs[0] / "pictures" / "masks_00000007.png").write_bytes(b"damaged")
    regions, masks = sorted(read_galleries(read_runs(runs)), key=lambda gallery: gallery["name"], reverse=True)
    assert [(one["step"], one["epoch"]) for one in regions["strips"][0]["pictures"]] == [
        (0, 0),
        (10, 1),
        (20, 2),
        (30, 3),
    ]
    assert [[(one["step"], one["epoch"]) for one in strip["pictures"]] for strip in masks["strips"]] == [
        [(5, 0.5)],
        [(0, 0), (10, 1)],
    ]
    assert [strip["of"] for strip in masks["strips"]] == [2, 2]


def test_of_many_pictures_some_are_left_out_evenly(tmp_path):
    run = make_run(tmp_path / "run", epochs=1, picture=None)
    for step in range(0, 610, 10):
        draw(run, "regions", step, side=4)
    (gallery,) = read_galleries(read_runs([run]))
    steps = [picture["step"] for picture in gallery["strips"][0]["pictures"]]
    assert steps == list(range(0, 601, 20)) and gallery["strips"][0]["of"] == 61


def test_large_pictures_are_made_smaller_until_they_fit():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8))
    data, setting = encode(noise, limit=_BYTES)
    assert setting == 0 and Image.open(io.BytesIO(data)).size == (900, 700)
    small, chosen = encode(noise, limit=len(data) // 3)
    assert len(small) <= len(data) // 3 and chosen > 0
    assert encode(noise, limit=_BYTES, setting=chosen) == (small, chosen)
    assert len(encode(noise, limit=1)[0]) < len(data) / 3
