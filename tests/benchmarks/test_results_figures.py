import math

import numpy as np
import pytest

from benchmarks.results import figures, sections
from benchmarks.results.summary import mean_curve, rows_of
from tests.benchmarks.small_results import (
    PHOTOGRAPHS,
    cells,
    make_history,
    make_regions,
    make_seeds,
    make_untrained,
)


def test_a_mean_curve_has_every_place_that_any_seed_has():
    places, means, deviations = mean_curve([[(0, 1.0), (2, 3.0), (3, None)], [(2, 5.0), (1, 2.0)]])
    assert (places, means) == ([0, 1, 2], [1, 2, 4]) and deviations == [0, 0, pytest.approx(math.sqrt(2))]


def test_learning_curves_run_to_all_images_that_were_seen():
    history = {"history": make_history(0.1, 0.3)}
    rows = rows_of(
        [
            *make_seeds("r2o", 0.3, 0.3, **history),
            *make_seeds("r2o_k4", 0.3, **history),
            *make_seeds("new", 0.3, **history),
        ]
    )
    figure = figures.learning_curves(rows)
    titles = {axis.get_title(): [line.get_label() for line in axis.lines] for axis in figure.axes}
    assert titles == {"Methods": ["R2O", "NEW"], "R2O: which regions": ["R2O", "R2O_K4"]}
    line = figure.axes[0].lines[0]
    assert np.allclose(line.get_xdata(), [0, 8, 16, 24, 32, 40])
    assert np.allclose(line.get_ydata()[:2], [10, 20])
    assert figures.learning_curves(rows_of(make_seeds("r2o", 0.3))) is None


def test_the_learning_curve_of_orl_begins_after_its_first_stage():
    settings = {"optimizer.stage1_epochs": 10, "optimizer.total_epochs": 10}
    rows = rows_of(make_seeds("orl", 0.3, settings=settings, history=make_history(0.1, 0.3)))
    assert np.allclose(figures.learning_curves(rows).axes[0].lines[0].get_xdata(), [20, 24, 28, 32, 36, 40])


def test_losses_are_drawn_by_their_first_value():
    rows = rows_of(make_seeds("r2o", 0.3, 0.3, losses=[[20, 4.0], [40, 3.0], [60, None], [80, 2.0]]))
    lines = figures.loss_curves(rows).axes[0].lines
    assert len(lines) == 3
    assert list(lines[0].get_xdata()) == [20, 40, 80] and list(lines[0].get_ydata()) == [1, 0.75, 0.5]
    assert figures.loss_curves(rows_of(make_seeds("r2o", 0.3))) is None


def test_k_is_drawn_beside_the_quality_of_regions():
    one = {"clusters": [[0.5, 128], [1.0, 64], [1.5, None]], "regions": make_regions(0.1, 0.3)}
    constant = {"regions": make_regions(0.2, 0.2, kind="fh")[:1], "history": make_history(0.1, 0.3)}
    results = [
        *make_seeds("r2o", 0.3, **one),
        *make_seeds("detconb_fh", 0.3, **constant),
        *make_seeds("detconb_gt", 0.3, **one),
    ]
    curriculum, overlap = figures.region_curves(rows_of(results)).axes[:2]
    assert [list(line.get_ydata()) for line in curriculum.lines] == [[128, 64]]
    assert [line.get_label() for line in overlap.lines] == ["R2O", "DETCONB_FH"]
    assert np.allclose(overlap.lines[0].get_ydata(), np.linspace(0.1, 0.3, 6))
    assert list(overlap.lines[1].get_xdata()) == [0, 10] and list(overlap.lines[1].get_ydata()) == [0.2, 0.2]
    assert figures.region_curves(rows_of(make_seeds("byol", 0.3))) is None


def test_bars_have_an_error_only_where_there_are_make_seeds():
    figure = figures.score_bars(
        rows_of([*make_untrained(0.1, 0.12), *make_seeds("r2o", 0.3), *make_seeds("orl", None)])
    )
    (axis,) = figure.axes
    assert [bar.get_width() for bar in axis.patches] == pytest.approx([11, 30])
    assert len(axis.containers) == 2 and [text.get_text() for text in axis.texts] == ["11.0", "30.0"]


def test_photographs_are_drawn_by_epoch_and_what_never_changes_is_level():
    axis = figures.photograph_curves(PHOTOGRAPHS).axes[0]
    assert [list(line.get_ydata()) for line in axis.lines] == [[0.2, 0.4], [0.1, 0.1]]
    assert list(axis.lines[0].get_xdata()) == [0, 2] and axis.texts[0].get_text() == "SLIC, 100"
    assert figures.photograph_curves(PHOTOGRAPHS[2:]) is None
    assert cells(sections.photographs(PHOTOGRAPHS), "SLIC, 100")[1:] == ["–", "0.300", "0.500", "0.100", "12.3", "200"]
