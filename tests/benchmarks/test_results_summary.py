import math

import pytest

from benchmarks.results import sections
from benchmarks.results.manifest import SIZES, read_manifest
from benchmarks.results.orderings import FAMILIES, Ordering, judge, learned, not_run
from benchmarks.results.summary import MAIN_METRIC, difference, gather, made_regions, rows_of, write_results
from tests.benchmarks.small_results import cells, make_regions, make_result, make_seeds, make_untrained, write_runs
from utils.errors import UserError
from utils.files import read_json


def test_results_come_in_the_order_of_the_manifest_then_by_seed(tmp_path):
    results = [*make_seeds("byol", 0.1, 0.2), *make_seeds("r2o", *[0.3] * 11), *make_seeds("another", 0.2)]
    found = gather(write_runs(tmp_path, results), ["r2o", "byol"])
    assert [(one["name"], one["seed"]) for one in found] == [
        *(("r2o", seed) for seed in range(11)),
        ("byol", 0),
        ("byol", 1),
        ("another", 0),
    ]


def test_loss_curves_are_thinned_and_numbers_shortened_without_losing_the_ends(tmp_path):
    losses = [[step, 3.123456789 - step / 1000] for step in range(1000)]
    odd = make_regions(float("nan"), 0.4, kind="gen")
    write_runs(tmp_path, [make_result("r2o", losses=losses, regions=odd)])
    (found,) = gather(tmp_path, ["r2o"])
    assert 50 < len(found["losses"]) <= 100
    assert (found["losses"][0], found["losses"][-1]) == ([0, 3.1235], [999, 2.1245])
    assert found["regions"][0]["best IoU"] is None
    write_results(tmp_path / "cpu.json", [found])
    assert read_json(tmp_path / "cpu.json") == [found] and "NaN" not in (tmp_path / "cpu.json").read_text()


def test_what_is_no_result_is_refused_by_its_name(tmp_path):
    with pytest.raises(UserError, match="no NAME/seedN/result.json"):
        gather(tmp_path, [])
    broken = make_result("r2o")
    del broken["metrics"]
    write_runs(tmp_path, [broken])
    with pytest.raises(UserError, match="r2o/seed0/result.json.*metrics missing"):
        gather(tmp_path, [])
    (tmp_path / "r2o/seed0/result.json").write_text("{")
    with pytest.raises(UserError, match="r2o/seed0/result.json: damaged"):
        gather(tmp_path, [])


def test_scores_are_per_cent_with_the_deviation_of_the_sample_over_make_seeds():
    lacking = make_result("cyborgs", seed=2, miou=None)
    rows = rows_of(
        [*make_untrained(0.09), *make_seeds("r2o", 0.2, 0.21, 0.22), *make_seeds("cyborgs", 0.3, 0.3), lacking]
    )
    text = sections.scores(rows)
    assert cells(text, "R2O") == ["R2O", "3", "21.0 ± 1.0", "51.0 ± 1.0", "400", "101"]
    assert cells(text, "Untrained")[1:3] == ["1", "9.0"] and cells(text, "Untrained")[-2:] == ["–", "–"]
    assert cells(text, "CYBORGS")[2] == "30.0 ± 0.0 (n = 2)"


def test_noise_is_the_larger_deviation_of_both_rows_or_else_the_largest_of_all():
    rows = rows_of(
        [*make_seeds("a", 0.1, 0.2), *make_seeds("b", 0.3, 0.31), *make_seeds("c", 0.5), *make_seeds("d", 0.4)]
    )
    wide = 0.1 / math.sqrt(2)

    def noise(first: str, second: str) -> tuple[float, bool]:
        found = difference(rows[first], rows[second], MAIN_METRIC, rows.values())
        return pytest.approx(found.noise), found.is_own

    assert noise("a", "b") == noise("b", "a") == (wide, True)
    # One seed tells no noise of its own, and the other row's may be small by chance.
    assert noise("a", "c") == noise("b", "c") == noise("c", "d") == (wide, False)
    alone = rows_of([*make_seeds("c", 0.5), *make_seeds("d", 0.4)])
    assert difference(alone["c"], alone["d"], MAIN_METRIC, alone.values()).deviations is None
    assert difference(rows["a"], rows["b"], "AP", rows.values()) is None


def test_a_run_that_is_not_clearly_above_the_untrained_backbone_has_failed():
    # 0.01 is the deviation of the untrained.
    results = [
        *make_untrained(0.09, 0.1, 0.11),
        *make_seeds("r2o", 0.129),
        *make_seeds("byol", 0.131),
        *make_seeds("orl", 0.05),
    ]
    rows = rows_of(results)
    assert {one.row.name: one.verdict for one in learned(rows)} == {"r2o": "FAILED", "byol": "yes", "orl": "FAILED"}
    text = sections.learning(rows)
    assert "**FAILED: R2O, ORL.** 1 of 3" in text
    assert cells(text, "R2O")[2:4] == ["+2.9; +2.9 std†", "**FAILED**"] and cells(text, "BYOL")[3] == "yes"


def test_where_seeds_differ_the_mean_may_be_clearly_above_all_the_same():
    rows = rows_of([*make_untrained(0.09, 0.1, 0.11), *make_seeds("r2o", 0.11, 0.16, 0.16, 0.19, 0.16)])
    (one,) = learned(rows)
    std = math.sqrt((0.046**2 + 3 * 0.004**2 + 0.034**2) / 4)
    assert one.difference.deviations == pytest.approx(0.056 / std) and one.difference.deviations < 3
    assert (
        one.difference.errors == pytest.approx(0.056 / math.sqrt(std**2 / 5 + 0.01**2 / 3))
        and one.verdict == "the mean"
    )
    assert "the mean, by 4.0 standard errors" in sections.learning(rows)
    assert "Of R2O it is the mean" in sections.learning(rows) and "FAILED" not in sections.learning(rows)


def test_without_seeds_nothing_is_clear_but_a_failure():
    rows = rows_of([*make_untrained(0.1), *make_seeds("r2o", 0.3), *make_seeds("byol", 0.1)])
    assert [one.verdict for one in learned(rows)] == ["one seed", "FAILED"]
    assert "nothing to compare with" in sections.learning(rows_of(make_seeds("r2o", 0.3)))


@pytest.mark.parametrize(
    ("second", "verdict"),
    [((0.27, 0.27), "yes"), ((0.285, 0.285), "within noise"), ((0.315, 0.315), "within noise"), ((0.33, 0.33), "no")],
)
def test_an_ordering_holds_where_the_difference_is_more_than_noise(second, verdict):
    rows = rows_of([*make_seeds("r2o", 0.29, 0.3, 0.31), *make_seeds("byol", *second)])
    assert judge(Ordering("r2o", ("byol",)), MAIN_METRIC, rows).verdict == verdict


def test_an_ordering_is_judged_by_the_best_of_the_others():
    rows = rows_of(
        [*make_seeds("r2o", 0.3), *make_seeds("byol", 0.2), *make_seeds("mocov2", 0.31), *make_seeds("orl", None)]
    )
    found = judge(Ordering("r2o", ("byol", "mocov2", "orl", "absent")), MAIN_METRIC, rows)
    assert (found.verdict, found.best) == ("lower", "MOCOV2")
    assert judge(Ordering("r2o", ("byol",)), MAIN_METRIC, rows).verdict == "higher"
    for first, other in (("absent", "byol"), ("r2o", "absent"), ("orl", "byol"), ("r2o", "orl")):
        assert judge(Ordering(first, (other,)), MAIN_METRIC, rows) is None


def test_each_family_of_orderings_says_what_came_out():
    rows = rows_of(
        [
            *make_seeds("r2o", 0.29, 0.31),
            *make_seeds("byol", 0.1),
            *make_seeds("r2o_k4", 0.5),
            *make_seeds("r2o_k32", 0.3),
        ]
    )
    text = sections.rankings(rows)
    assert "**Object-level above image-level**: in linear segmentation mIoU 1 yes, 9 not measured." in text
    assert "no refinement**: in linear segmentation mIoU 1 within noise, 1 no, 2 not measured." in text
    assert "**Bootstrapped masks (CYBORGS) above fixed ones**: not measured." in text
    assert cells(text, "R2O above BYOL")[1] == "yes: 30.0 against 10.0, +14 std†"
    assert cells(text, "R2O above R2O_K4")[1] == "**no**: 30.0 against 50.0, -14 std†"


def test_a_deviation_of_other_rows_is_marked():
    rows = rows_of([*make_untrained(0.09, 0.11), *make_seeds("cyborgs", 0.2), *make_seeds("detconb_fh", 0.1)])
    text = sections.rankings(rows)
    assert cells(text, "CYBORGS above DETCONB_FH")[1] == "yes: 20.0 against 10.0, +7.1 std†"


@pytest.mark.parametrize("size", SIZES)
def test_the_manifests_have_the_runs_that_orderings_speak_of(size):
    names = read_manifest(size).runs.keys()
    assert {name for family in FAMILIES.values() for one in family for name in (one.first, *one.others)} <= names
    assert not_run(names) == []


def test_what_was_not_run_is_said():
    text = sections.what_was_measured(rows_of([*make_untrained(0.1, 0.1), *make_seeds("byol", 0.2)]))
    assert "Runs: 2, of 1 to 2 seeds each, 3 in all; images seen in pretraining: 40,000." in text
    assert "A processor, 2 cores" in text and "2026-11-22. Versions: python 3.11.7, torch 2.15.0." in text
    assert "`r2o`" in text and "`byol`" not in text


def test_settings_that_all_methods_share_are_said_once():
    shared = {"optimizer.total_epochs": 10, "seed": 3}
    results = [*make_seeds("r2o", 0.2, settings=shared | {"loss.scale": 2}), *make_seeds("byol", 0.2, settings=shared)]
    text = sections.what_was_run(rows_of(results))
    assert text.startswith("All methods have `optimizer.total_epochs=10`.\n") and "seed" not in text
    assert cells(text, "R2O")[-1] == "`loss.scale=2`" and cells(text, "BYOL")[-1] == "–"


def test_superpixels_are_not_an_epoch_of_the_regions_that_are_made_of_them():
    run, bootstrapped = (make_result("r2o", regions=make_regions(0.1, 0.3, kind=kind)) for kind in ("epoch", "gen"))
    assert [len(one["regions"]) for one in (run, bootstrapped)] == [7, 6]
    assert [entry["epoch"] for entry in made_regions(run)] == [0, 2, 4, 6, 8, 10]
    assert len(made_regions(bootstrapped)) == 6 and made_regions(make_result("byol")) == []
    constant = make_result("detconb_fh", regions=make_regions(0.2, 0.2, kind="fh")[:1])
    text = sections.region_quality(rows_of([run, constant, make_result("byol")]))
    assert cells(text, "R2O")[1:3] == ["0 → 10", "0.100 → 0.300"] and cells(text, "R2O")[-1] == "20.0 → 10.0"
    assert cells(text, "DETCONB_FH")[1:3] == ["constant", "0.200"] and "BYOL" not in text
