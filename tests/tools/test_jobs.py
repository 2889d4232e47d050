import argparse
import os
import signal

import cv2
import pytest

from data.images import UnreadableImage
from tools.jobs import Interrupted, ItemFailed, Summary, add_job_arguments, parse_shard, run_job
from utils.cores import available_cores
from utils.errors import UserError


def odd_is_made(item):
    if item == 4:
        raise UnreadableImage("four.jpg", "empty")
    if item == 6:
        raise ItemFailed("six.jpg", "too many")
    return item % 2 == 1


def fails(item):
    raise ZeroDivisionError


@pytest.mark.parametrize("workers", [1, 2])
def test_a_job_counts_what_was_made_was_there_and_cannot_be_read(workers):
    summary = run_job(odd_is_made, range(9), workers=workers, skipped=10, desc="numbers")
    assert summary == Summary(done=4, skipped=13, failures=[("four.jpg", "empty"), ("six.jpg", "too many")])


def test_nothing_to_do_is_no_error():
    assert run_job(odd_is_made, [], desc="numbers") == Summary()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_unexpected_error_stops_the_job(workers):
    with pytest.raises(ZeroDivisionError):
        run_job(fails, range(9), workers=workers, desc="numbers")


def is_single(item):
    return cv2.getNumThreads() == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_has_one_thread_and_the_others_are_back_after_it(workers):
    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        assert run_job(is_single, range(4), workers=workers, desc="numbers").done == 4
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(before)


def is_killed(item):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_told_with_what_to_do():
    with pytest.raises(UserError, match="fewer --workers"):
        run_job(is_killed, range(4), workers=2, desc="numbers")


def interrupts(item):
    raise KeyboardInterrupt


def test_an_interrupted_job_says_that_it_goes_on():
    with pytest.raises(Interrupted, match="goes on") as caught:
        run_job(interrupts, range(4), workers=1, desc="numbers")
    assert caught.value.exit_code == 130


def test_progress_ends_at_the_total(capsys):
    run_job(odd_is_made, range(3), workers=1, skipped=2, desc="numbers")
    assert "numbers 5/5" in capsys.readouterr().err


def test_a_long_list_of_failures_is_cut():
    text = str(Summary(failures=[(f"{number}.jpg", "empty") for number in range(30)]))
    assert "30 failed" in text and "19.jpg: empty" in text and "20.jpg" not in text and "and 10 more" in text


@pytest.mark.parametrize("text", ["", "1", "2/2", "-1/2", "a/b", "1/0"])
def test_a_shard_that_does_not_exist_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="i/n"):
        parse_shard(text)


def test_workers_are_counted_from_one():
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_job_arguments(parser)
    assert parser.parse_args(["--workers", "2"]).workers == 2 and parser.parse_args([]).workers is None
    for text in ("0", "-2", "many"):
        with pytest.raises(argparse.ArgumentError, match="--workers"):
            parser.parse_args([f"--workers={text}"])


def test_processes_of_one_launcher_share_the_cores(monkeypatch):
    assert parse_shard("1/3") == (1, 3)
    everything = available_cores()
    assert everything <= os.cpu_count()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(everything))
    assert available_cores() == 1
