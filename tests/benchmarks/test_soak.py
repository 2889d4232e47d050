import json

import pytest

from benchmarks.soak import Sample, growth, main


def test_what_a_run_takes_at_first_is_no_growth_and_what_it_goes_on_taking_is():
    warming = [Sample(n, n, min(500, 300 + 20 * n), 100, 20, 5) for n in range(40)]
    leaking = [Sample(n, n, 300 + n, 100, 20, 5) for n in range(40)]
    assert growth(warming, "main_mb") == 0 and growth(leaking, "main_mb") == 20


@pytest.mark.slow
@pytest.mark.parametrize("method", ["r2o", "cyborgs"])
def test_memory_files_and_threads_stay_what_they_are_over_short_epochs(tmp_path, method):
    out = tmp_path / "samples.json"
    asked = ["--method", method, "--minutes", "0.6", "--images", "32", "--folder", str(tmp_path / "run")]
    assert main([*asked, "--json", str(out)]) == 0
    samples = [Sample(**one) for one in json.loads(out.read_text())]
    assert samples[-1].epoch >= 5 and min(sample.main_mb for sample in samples) > 100
    # Within an epoch all of them vary with what is being done: masks are made by more processes and threads.
    assert growth(samples, "total_mb") < 20
    assert growth(samples, "files") <= 10 and growth(samples, "threads") <= 2
