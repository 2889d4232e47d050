import os
import signal
import subprocess
import sys
import time

import pytest

from tests.utils.two_ranks import two_rank_environments
from utils.watch import COMPUTING, READING, Heard, judge

SCRIPT = """
import os, signal, sys, time
from utils import watch
from utils.distributed import lost_contact
from utils.errors import LostError
from utils.launch import launch, shutdown
from utils.log import setup_logging
setup_logging(None)
how, rank = sys.argv[1], int(os.environ["RANK"])
try:
    launch(None, minutes=float(os.environ["MINUTES"]))
except LostError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
for step in range(1000):
    watch.at(step, watch.READING)
    if rank == 1 and step == 7:
        if how == "stop":
            for _ in range(20):  # until it has said so
                watch.at(step, watch.READING)
                time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGSTOP)
        if how == "stuck":
            time.sleep(1000)
        if how == "alone":
            watch.outside()
            time.sleep(6)
            break
    watch.at(step, watch.COMPUTING)
    if rank == 0 and step == 7:
        if how == "alone":
            break
        time.sleep(1000)
try:
    shutdown()
except RuntimeError as error:
    print(lost_contact(error) or error, file=sys.stderr)
    sys.exit(5 if lost_contact(error) else 1)
"""


def heard(rank, ago=1.0, step=7, doing=COMPUTING, still=100.0) -> Heard:
    return Heard(rank, ago, f"host{rank}", step, doing, still)


def test_nobody_is_named_while_all_are_heard_and_one_moves():
    assert judge([heard(0), heard(1, still=3.0)], 30) is None


def test_who_is_not_heard_of_is_lost_wherever_it_is():
    word = judge([heard(0, step=None, doing=""), heard(1, ago=31, step=None, doing="")], 30)
    assert word == "lost: rank 1 on host1 (outside of the training loop), not heard of for 31 s"


def test_who_is_least_far_is_stuck():
    word = judge([heard(0), heard(1, doing=READING), heard(2, step=8, doing=READING)], 30)
    assert word == "stuck for 100 s: rank 1 on host1 (at step 7, reading images)"


def test_who_does_not_move_and_says_nothing_is_lost():
    word = judge([heard(0), heard(1, ago=16, doing=READING)], 30)
    assert word == "lost: rank 1 on host1 (at step 7, reading images), not heard of for 16 s"


def test_all_at_one_place_are_all_named():
    assert judge([heard(0), heard(1)], 30) == "stuck for 100 s: all ranks at step 7, computing"


def test_nobody_is_stuck_while_one_works_outside_of_the_loop():
    assert judge([heard(0, step=None, doing="", still=9999), heard(1)], 30) is None


def run_two(how: str, *, minutes: float, ranks: tuple[int, ...] = (0, 1)) -> list[tuple[int, str]]:
    """Exit codes and what was said of two processes, of which rank 1 does something at step 7."""
    command, environments = [sys.executable, "-c", SCRIPT, how], two_rank_environments()
    processes = [
        subprocess.Popen(command, env=environments[rank] | {"MINUTES": str(minutes)}, stderr=subprocess.PIPE, text=True)
        for rank in ranks
    ]
    try:
        if how == "stop":
            processes[0].wait(timeout=100)
            os.kill(processes[1].pid, signal.SIGCONT)
        said = [process.communicate(timeout=100)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, said)]


@pytest.mark.parametrize("how", ["stop", "stuck"])
def test_one_that_is_lost_or_stuck_ends_all_by_name(how):
    began = time.monotonic()
    (first, said), (second, _) = run_two(how, minutes=0.05)
    assert (first, second) == (5, 5)
    assert "rank 1 on" in said and "at step 7, reading images" in said and "--resume auto" in said
    assert ("not heard of" if how == "stop" else "stuck for") in said
    assert time.monotonic() - began < 60


def test_what_one_does_alone_may_take_longer_than_the_limit():
    assert [code for code, _ in run_two("alone", minutes=0.05)] == [0, 0]


def test_a_process_that_never_comes_is_named():
    ((code, said),) = run_two("none", minutes=0.05, ranks=(0,))
    assert code == 5 and "rank 1 of 2 did not come within 0.05 minutes; here are rank 0 on " in said


def test_nobody_at_the_address_of_rank_0_is_said():
    ((code, said),) = run_two("none", minutes=0.05, ranks=(1,))
    assert code == 5 and "nobody answers at 127.0.0.1:" in said
