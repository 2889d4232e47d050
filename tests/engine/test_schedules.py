from pathlib import Path

import numpy as np
import pytest

from engine.schedules import (
    NO_CLUSTERING,
    PIECEWISE_DROPS,
    RELEASED_PIECEWISE_DROPS,
    ema_momentum,
    momentum_schedule,
    num_clusters,
    rate_schedule,
    released_total_steps,
    warmup_cosine,
    warmup_piecewise,
)
from utils.method import Progress

REFERENCE = Path(__file__).parents[1] / "reference"


@pytest.fixture(scope="module")
def clusters():
    return np.load(REFERENCE / "r2o_k_schedule.npz")


@pytest.fixture(scope="module")
def rates():
    return np.load(REFERENCE / "r2o_lr_mm.npz")


@pytest.mark.parametrize("i", range(9))
def test_number_of_clusters_is_the_releases(clusters, i):
    points = {"epochs": clusters[f"c{i}_epochs"].tolist(), "values": clusters[f"c{i}_values"].tolist()}
    ours = [num_clusters(int(epoch), type=str(clusters[f"c{i}_type"]), **points) for epoch in clusters["epoch"]]
    k, count = np.array(ours).T
    np.testing.assert_allclose(k, clusters[f"c{i}_k"], rtol=1e-12, atol=1e-11)
    # Where the curve touches a whole number, the last bit of a cosine decides.
    allowed = clusters[f"c{i}_near_integer"].astype(int)
    assert (np.abs(count - clusters[f"c{i}_num_segments"]) <= allowed).all()


def test_the_published_schedule_starts_at_127_and_ends_at_4():
    published = {"type": "cosine", "epochs": [0, 300], "values": [128, 4]}
    assert num_clusters(1, **published)[1] == 127
    assert num_clusters(300, **published)[1] == 4


def test_more_than_128_clusters_mean_none_and_there_is_always_one():
    assert [num_clusters(1, type="constant", epochs=[0], values=[v])[1] for v in (128, 128.5, 129, 0.5, -3)] == [
        128,
        128,
        NO_CLUSTERING,
        1,
        1,
    ]


def test_an_unknown_schedule_names_the_valid_ones():
    with pytest.raises(ValueError, match="'cosin'.*constant, piecewise, linear, cosine"):
        num_clusters(1, type="cosin", epochs=[0, 1], values=[1, 2])


@pytest.mark.parametrize(
    "type, epochs, values, message",
    [
        ("cosine", [0], [1], "at least two points, got 1"),
        ("linear", [0], [1], "at least two points, got 1"),
        ("piecewise", [0, 5], [1], "2 epochs and 1 values"),
        ("piecewise", [], [], "0 epochs"),
        ("piecewise", [5, 5], [1, 2], "must rise"),
    ],
)
def test_points_that_do_not_fit_the_type_are_refused(type, epochs, values, message):
    with pytest.raises(ValueError, match=message):
        num_clusters(1, type=type, epochs=epochs, values=values)


@pytest.mark.parametrize("i", range(3))
def test_learning_rate_and_momentum_are_the_releases(rates, i):
    def value(name):
        return rates[f"c{i}_{name}"][()]

    span = {"total_steps": int(value("total_steps")), "warmup_steps": int(value("warmup_steps"))}
    peak = value("base_lr") * value("global_batch") / 256
    assert peak == pytest.approx(value("max_lr"), rel=1e-12)
    by_k = 1.0 if np.isnan(value("scale_lr_by_k")) else value("k") / value("scale_lr_by_k")
    steps = [int(step) for step in value("step")]
    if value("lr_type") == "cosine":
        shares = [warmup_cosine(step, **span) for step in steps]
    else:
        shares = [warmup_piecewise(step, drops=RELEASED_PIECEWISE_DROPS, **span) for step in steps]
    np.testing.assert_allclose(peak * np.array(shares) * by_k, value("lr"), rtol=1e-12, atol=1e-12)
    # Beyond the last step the release's momentum turns back; ours stays, see below.
    within = value("step") <= span["total_steps"]
    momenta = [ema_momentum(step, span["total_steps"], float(value("base_mm"))) for step in steps]
    np.testing.assert_allclose(np.array(momenta)[within], value("mm")[within], rtol=1e-12)


@pytest.mark.parametrize("i", range(3))
def test_total_and_warmup_steps_are_counted_as_released(rates, i):
    size = int(rates[f"c{i}_num_examples"]), int(rates[f"c{i}_global_batch"])
    assert released_total_steps(int(rates[f"c{i}_total_epochs"]), *size) == rates[f"c{i}_total_steps"]
    assert released_total_steps(int(rates[f"c{i}_warmup_epochs"]), *size) == rates[f"c{i}_warmup_steps"]


def test_our_piecewise_rate_reaches_its_second_drop():
    shares = [warmup_piecewise(step, total_steps=1000, warmup_steps=10) for step in (5, 10, 959, 960, 979, 980, 1000)]
    assert shares == [0.5, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    assert PIECEWISE_DROPS[-1] not in RELEASED_PIECEWISE_DROPS


def test_schedules_hold_their_end_beyond_the_last_step():
    assert warmup_cosine(101, total_steps=100, warmup_steps=0) == 0.0
    assert ema_momentum(101, 100, 0.99) == 1.0


def test_a_run_that_is_all_warmup_ends_at_the_peak():
    assert [warmup_cosine(step, total_steps=4, warmup_steps=4) for step in (0, 2, 4)] == [0.0, 0.5, 1.0]


def test_a_cosine_of_three_points_passes_through_them():
    points = {"type": "cosine", "epochs": [0, 10, 30], "values": [8, 64, 4]}
    assert [num_clusters(epoch, **points)[0] for epoch in (-1, 0, 10, 30, 31)] == pytest.approx([8, 8, 64, 4, 4])


def test_rate_and_momentum_schedules_scale_with_the_global_batch():
    rate = rate_schedule(lr_type="cosine", base_lr=0.3, global_batch=512, total_steps=100, warmup_steps=10)
    assert [rate(Progress(step, 100, 0)) for step in (5, 10)] == pytest.approx([0.3, 0.6])
    drops = rate_schedule(lr_type="piecewise", base_lr=0.3, global_batch=256, total_steps=100, warmup_steps=10)
    assert drops(Progress(99, 100, 0)) == pytest.approx(0.003)
    plain, scaled = (momentum_schedule(base=0.99, global_batch=64, reference_batch=b) for b in (None, 256))
    assert plain(Progress(0, 100, 0)) == pytest.approx(0.99)
    assert scaled(Progress(0, 100, 0)) == pytest.approx(0.99**0.25)


def test_the_rate_of_moco_and_resim_is_the_releases_at_every_epoch():
    """The release sets it once an epoch; ours moves at every step of the cosine."""
    published = np.load(REFERENCE / "resim_fpn.npz")
    common = {"base_lr": 0.03, "global_batch": 256, "total_steps": 200 * 7, "warmup_steps": 0}
    ours = {
        "lr_cos": rate_schedule(lr_type="cosine", **common),
        "lr_step": rate_schedule(lr_type="steps", milestones=[120 * 7, 160 * 7], **common),
    }
    for name, rate in ours.items():
        rates = [rate(Progress(7 * epoch, 1400, epoch)) for epoch in range(200)]
        np.testing.assert_allclose(rates, published[name], rtol=1e-12, atol=1e-18)
    assert ours["lr_step"](Progress(120 * 7 - 1, 1400, 119)) == 0.03


def test_a_momentum_that_does_not_rise_stays_from_the_first_step_to_the_last():
    still = momentum_schedule(base=0.999, global_batch=64, rises=False)
    assert [still(Progress(step, 100, 0)) for step in (0, 50, 100)] == [0.999] * 3
    scaled = momentum_schedule(base=0.999, global_batch=512, reference_batch=256, rises=False)
    assert scaled(Progress(50, 100, 0)) == pytest.approx(0.999**2)


@pytest.mark.parametrize("i", range(3))
def test_cyborgs_learning_rates_are_the_releases(i):
    """Warmed up from a hundredth of the peak, then in steps or by a cosine to 1e-6."""
    released = np.load(REFERENCE / "cyborgs_lr.npz")
    iterations, warmup, epochs = (int(released[f"c{i}_{name}"]) for name in ("n_iter", "warmup_epoch", "epochs"))
    ours = rate_schedule(
        lr_type={"step": "steps", "cosine": "cosine"}[str(released[f"c{i}_lr_scheduler"])],
        base_lr=2 * float(released[f"c{i}_base_lr"]),
        global_batch=128,
        total_steps=epochs * iterations,
        warmup_steps=warmup * iterations,
        warmup_start=1 / int(released[f"c{i}_warmup_multiplier"]),
        milestones=[int(epoch) * iterations for epoch in released[f"c{i}_lr_decay_epochs"]],
        final_lr=1e-6,
    )
    theirs = released[f"c{i}_lr"]
    rates = [ours(Progress(step, epochs * iterations, step // iterations)) for step in range(len(theirs))]
    np.testing.assert_allclose(rates, theirs, rtol=1e-12)


def rate_of(**options):
    rate = rate_schedule(base_lr=0.2, global_batch=32, total_steps=100, **{"warmup_steps": 0} | options)
    return lambda step: rate(Progress(step, 100, 0))


def test_poly_falls_by_its_power_and_not_below_its_end():
    rate = rate_of(lr_type="poly", base_batch=16, final_lr=0.01)
    assert rate(0) == pytest.approx(0.4) and rate(50) == pytest.approx(0.4 * 0.5**0.9)
    assert rate(99) == rate(100) == rate(200) == pytest.approx(0.01)


def test_poly_warms_up_along_its_own_curve():
    rate = rate_of(lr_type="poly", base_batch=32, warmup_steps=10, warmup_start=0.1)
    assert rate(0) == pytest.approx(0.02) and rate(5) == pytest.approx(0.2 * 0.55 * 0.95**0.9)


def test_a_milestones_drop_and_the_batch_that_the_rate_is_for_may_be_others():
    rate = rate_of(lr_type="steps", base_batch=64, milestones=[40, 60], drop=0.2)
    assert [rate(step) for step in (0, 39, 40, 60)] == pytest.approx([0.1, 0.1, 0.02, 0.004])


def test_a_constant_rate_stays():
    rate = rate_of(lr_type="constant", warmup_steps=4)
    assert [rate(step) for step in (2, 4, 99)] == pytest.approx([0.0125, 0.025, 0.025])
