"""What a process makes of signals: the first is noted, the same one twice is one, a second ends it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from engine.stop import StopRequest
from tests.paths import ROOT

# Says that it is ready, and ten times a second whether it was asked.
BODY = """
import time
from engine.stop import StopRequest
with StopRequest() as stop:
    for _ in range(80):
        print(int(stop.asked(agree=True)), flush=True)
        time.sleep(0.1)
"""


@pytest.fixture
def process():
    process = subprocess.Popen(
        [sys.executable, "-c", BODY],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout.readline() == "0\n"
    yield process
    process.kill()
    process.communicate()


def wait_until_noted(process: subprocess.Popen) -> None:
    while process.stdout.readline() != "1\n":
        assert process.poll() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_the_first_is_noted_and_a_second_ends_the_process_at_once(process, number):
    process.send_signal(number)
    wait_until_noted(process)
    time.sleep(2.1)
    assert process.poll() is None
    process.send_signal(number)
    assert process.wait(timeout=2) == 128 + number
    said = process.stderr.read()
    assert "finishing the step and saving" in said and "stopping at once" in said


def test_one_request_that_comes_twice_is_one(process):
    """As where a scheduler signals all processes, and the launcher passes on what it got as well."""
    process.send_signal(signal.SIGTERM)
    wait_until_noted(process)
    process.send_signal(signal.SIGUSR1)
    time.sleep(0.5)
    assert process.poll() is None


def test_afterwards_signals_are_what_they_were():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]
    with StopRequest():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)] == before
