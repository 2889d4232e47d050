"""What a step's collectives carry on paper, against what real processes hand in."""

import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules._functions import SyncBatchNorm

from benchmarks import traffic
from benchmarks.traffic import Pass
from models.backbone import make_trunk
from tests.benchmarks import traffic_ranks
from tests.benchmarks.traffic_ranks import CASES, LOGGED, PLAIN, load_case
from tests.utils.two_ranks import two_rank_environments

MAIN = ("R2O", "DetCon-B", "DetCon-S", "ReSim", "ORL", "CYBORGS")
Sizes = dict[tuple[str, str], list[int]]


def run_ranks(processes: int, folder: Path, *cases: str) -> list[dict[str, list]]:
    """What each of so many gloo processes counted in each case."""
    base = two_rank_environments()[0] | {"WORLD_SIZE": str(processes)}
    command = [sys.executable, traffic_ranks.__file__, str(folder), *cases]
    environments = [base | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
    ranks = [subprocess.Popen(command, env=environment) for environment in environments]
    try:
        codes = [process.wait(timeout=300) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert codes == [0] * processes
    return [torch.load(folder / f"{rank}.pth", weights_only=True) for rank in range(processes)]


def sizes_of(calls: list[tuple], step: int) -> Sizes:
    found = defaultdict(list)
    for number, kind, operation, size in calls:
        if number == step:
            found[kind, operation].append(size)
    return {key: sorted(sizes) for key, sizes in found.items()}


def on_paper(case: str, processes: int) -> tuple[Sizes, Sizes]:
    """Of a step that writes no log line, and of one that does."""
    name, config = load_case(case)
    method = traffic.build_skeleton(name, config)
    parts = traffic.traffic(name, config, method, processes=processes, device="cpu")
    plain = {(part.kind, part.operation): sorted(part.sizes) for part in parts}
    return plain, plain | {(one.kind, one.operation): sorted(one.sizes) for one in traffic.log_line(name, config)}


def assert_counted(case: str, calls: list[tuple], processes: int) -> None:
    plain, logged = on_paper(case, processes)
    assert sizes_of(calls, PLAIN) == plain, case
    assert sizes_of(calls, LOGGED) == logged, case


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    return run_ranks(2, tmp_path_factory.mktemp("traffic"), *MAIN)


@pytest.mark.parametrize("case", MAIN)
def test_two_processes_hand_in_what_paper_says_call_by_call(counted, case):
    for calls in counted:
        assert_counted(case, calls[case], 2)


@pytest.mark.slow
def test_four_processes_hand_in_what_paper_says_of_every_variant(tmp_path):
    for counted in run_ranks(4, tmp_path, *CASES):
        for case in CASES:
            assert_counted(case, counted[case], 4)


@pytest.mark.parametrize(
    ("case", "wrong"),
    [
        ("R2O", {"_FLOAT": 2}),
        ("R2O", {"_DOUBLE": 4}),
        ("DetCon-B", {"GATHERED": traffic.GATHERED | {"targets": lambda config: 2}}),
        ("ReSim", {"GATHERED": traffic.GATHERED | {"negatives": lambda config: 2}}),
        ("ReSim", {"GATHERED": traffic.GATHERED | {"keys": lambda config: 2}}),
        ("ReSim", {"network_bytes": lambda config: 2}),
        ("ReSim", {"_LONG": 4}),
        ("ORL", {"BRANCHES": ("global", "intra")}),
        ("CYBORGS", {"_until": lambda trunk, level: trunk.until("layer3")}),
    ],
)
def test_a_wrong_formula_is_noticed(counted, monkeypatch, case, wrong):
    for name, value in wrong.items():
        monkeypatch.setattr(traffic, name, value)
    with pytest.raises(AssertionError):
        assert_counted(case, counted[0][case], 2)


def test_a_collective_that_paper_does_not_know_is_noticed(counted):
    calls = [*counted[0]["R2O"], (PLAIN, "unknown: r2o.py:forward", "all_reduce", 4)]
    with pytest.raises(AssertionError):
        assert_counted("R2O", calls, 2)


def test_buckets_are_those_of_ddp():
    assert (traffic.FIRST_BUCKET, traffic.BUCKET) == (dist._DEFAULT_FIRST_BUCKET_BYTES, 25 * 2**20)
    trunk = make_trunk("resnet50")
    parameters = list(reversed(list(trunk.parameters())))
    limits = [traffic.FIRST_BUCKET, traffic.BUCKET]
    buckets, _ = dist._compute_bucket_assignment_by_size(parameters, limits, [False] * len(parameters))
    expected = [sum(parameters[index].nbytes for index in bucket) for bucket in buckets]
    found = traffic._gradients(trunk)
    assert list(found.sizes) == expected and len(expected) == 5 and found.hides == 4


def test_torchs_sync_batch_norm_hands_in_what_paper_says(monkeypatch):
    # It runs on GPUs alone; what it computes there does not matter to what it sends.
    def statistics(x, *_):
        return x.new_zeros(x.shape[1]), x.new_ones(x.shape[1])

    monkeypatch.setattr(torch, "batch_norm_stats", statistics)
    monkeypatch.setattr(torch, "batch_norm_gather_stats_with_counts", statistics)
    monkeypatch.setattr(torch, "batch_norm_elemt", lambda x, *_: x.clone())
    monkeypatch.setattr(torch, "batch_norm_backward_reduce", lambda gradient, x, *_: (*statistics(x), None, None))
    monkeypatch.setattr(torch, "batch_norm_backward_elemt", lambda gradient, *_: gradient)
    sent = []

    def gather(gathered, own, *_, **__):
        sent.append(("all_gather", own.nbytes))

    # The second name is that of older torch.
    for name in ("all_gather_single", "all_gather_into_tensor"):
        monkeypatch.setattr(dist, name, gather, raising=False)
    monkeypatch.setattr(dist, "all_reduce", lambda own, *_, **__: sent.append(("all_reduce", own.nbytes)))
    norm, x = nn.BatchNorm2d(6), torch.randn(2, 6, 3, 3, requires_grad=True)
    group = SimpleNamespace(_get_backend_name=lambda: "nccl")
    arguments = (norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps, 0.1, group, 8)
    SyncBatchNorm.apply(x, *arguments).sum().backward()
    paper = traffic._batch_norm([Pass(norm, 1, True)], device="cuda")
    assert sent == [(one.operation, one.bytes) for one in paper]
