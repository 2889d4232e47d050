"""A run goes on with another number of processes: with the same global batch, as the same run."""

from pathlib import Path

import pytest

from tests.mains import orl_runs, test_cyborgs, test_detconb, test_r2o, test_resim, train_in_float64
from tests.mains.runs import make_pictures, near, write_own_config
from tests.utils.two_ranks import run_two_ranks

CASES = {
    "r2o": (test_r2o.CONFIG, {}),
    "detconb": (test_detconb.CONFIG, {}),
    "resim": (
        test_resim.CONFIG,
        {
            "loss": {"c3": {"size": 8, "stride": 6, "gather": True}},
            "amp": {"sync_bn": True},
            "model": {"fpn_norm": True},
        },
    ),
    "orl": (orl_runs.CONFIG, {}),
    "cyborgs": (test_cyborgs.CONFIG, {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", CASES)
def test_begun_by_two_processes_and_ended_by_one_equals_one_all_the_way(tmp_path, method, request, caplog):
    """In float64, where only the order of sums differs; stopped within an epoch."""
    config, sections = CASES[method]
    make_pictures(tmp_path)
    if method == "detconb":
        test_detconb.make_masks(tmp_path)
    if method == "orl":
        (tmp_path / "stage2").symlink_to(request.getfixturevalue("finished") / "run" / "stage2")
    write_own_config(tmp_path, config, name="own", **sections)
    whole = train_in_float64.main(tmp_path, method, "own", out="whole")["own"]
    set_batch(tmp_path, config, sections, 4)
    run_two_ranks(train_in_float64.__file__, tmp_path, method, "own", "--out", "parts", "--steps", "2")
    set_batch(tmp_path, config, sections, 8)
    caplog.clear()
    parts = train_in_float64.main(tmp_path, method, "own", out="parts")["own"]
    assert "resuming from" in caplog.text and "1 processes now, and 2 before" in caplog.text
    different = [name for name, value in whole.items() if not near(parts[name], value)]
    assert different == []


def set_batch(folder: Path, config: dict, sections: dict, each: int) -> None:
    """Images of a process in every step."""
    data = sections.get("data", {}) | {"train_batch_size": each}
    write_own_config(folder, config, name="own", **{**sections, "data": data})
