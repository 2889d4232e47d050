import os
import signal
import subprocess
import sys
import time

import pytest

from detconb_config import DetConBConfig
from tests.paths import ROOT
from tools import demo
from tools.mask_options import chosen_types, parse_arguments
from utils.config import find_config, load_config


@pytest.fixture
def ran(monkeypatch, tmp_path) -> list[tuple[str, ...]]:
    """What the demo would run, with a probe that takes no time."""
    commands = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "run_python", lambda *arguments: commands.append(arguments) or 0)
    monkeypatch.setattr(demo, "probe_run", lambda run, data: run.mkdir(parents=True) or {})
    monkeypatch.setattr(demo, "format_comparisons", lambda comparisons: "figures")
    return commands


def test_detcon_makes_its_masks_first(ran, capsys):
    assert demo.main(["--method", "detconb"]) == 0
    masks, training = ran
    assert masks[:2] == ("-m", "tools.make_masks") and training[0] == "detconb_main.py"
    assert training[training.index("--cfg") + 1] == "detconb/demo"
    config, _ = load_config(find_config("demo", method="detconb"), DetConBConfig)
    assert chosen_types(parse_arguments(list(masks[2:]), description="")) == [config.data.mask_type]
    assert "figures" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["r2o", "resim", "orl", "cyborgs"])
def test_other_methods_need_none(ran, method):
    assert demo.main(["--method", method]) == 0
    assert [command[0] for command in ran] == [f"{method}_main.py"]


def test_a_failure_ends_the_demo_with_its_code(ran, monkeypatch):
    monkeypatch.setattr(demo, "run_python", lambda *arguments: ran.append(arguments) or 3)
    assert demo.main(["--method", "detconb"]) == 3
    assert len(ran) == 1


def test_an_unknown_method_or_length_is_refused_before_anything_runs(ran, capsys):
    assert demo.main(["--method", "detconb", "--long"]) == 2
    assert demo.main(["--method", "nothing"]) == 2
    assert ran == [] and "demo_long" in capsys.readouterr().err


SAVES = """
import signal, sys, time
asked = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: asked.append(number))
print("ready", flush=True)
while not asked:
    time.sleep(0.05)
time.sleep(1)
print("saved", flush=True)
sys.exit(75)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_the_demo_waits_until_its_run_has_saved(number):
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from tools.demo import run_python; sys.exit(run_python('-c', sys.argv[1]))",
            SAVES,
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert (said, process.returncode) == ("saved\n", 75)


def test_a_program_that_a_signal_ended_has_the_shells_code():
    assert demo.run_python("-c", "import os; os.kill(os.getpid(), 9)") == 137
