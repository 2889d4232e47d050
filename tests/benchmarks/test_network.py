import pytest

from benchmarks.network import Network, milliseconds, wire_bytes

# No time passes but for bytes between nodes: 8 Gbit/s are 1 kB a microsecond.
PLAIN = Network(gbits=8, gpus=2, inside=1e12, start=0, hop=0, hop_inside=0, tree_start=0, tree_hop=0)
MEGABYTE = 1_000_000


def ring_all_reduce(processes: int, size: int) -> list[int]:
    """Bytes that each process sends, step by step: every part goes round once to be summed, and once as a sum."""
    sent = [0] * processes
    for _ in range(2):
        for _ in range(processes - 1):
            for process in range(processes):
                sent[process] += size // processes
    return sent


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_a_ring_sends_what_going_round_it_sends(processes):
    assert {wire_bytes("all_reduce", 800, processes)} == set(ring_all_reduce(processes, 800))
    # Everyone passes on all rows but those that its neighbour has already.
    assert wire_bytes("all_gather", 800, processes) == sum(800 for _ in range(processes - 1))
    assert wire_bytes("all_to_all", 800, processes) == sum(800 / processes for _ in range(processes - 1))


@pytest.mark.parametrize(
    ("operation", "megabytes"),
    [
        # Four nodes of two: a node's link carries the sums' halves of both GPUs, 2 x 3/4 of everything.
        ("all_reduce", 1.5),
        # The rows of the six processes elsewhere come in.
        ("all_gather", 6),
        # Each of the two sends three quarters of its rows elsewhere.
        ("all_to_all", 1.5),
    ],
)
def test_between_nodes_a_link_carries_what_leaves_a_node(operation, megabytes):
    assert milliseconds(operation, MEGABYTE, 8, PLAIN) == pytest.approx(megabytes)


@pytest.mark.parametrize("operation", ["all_reduce", "all_gather", "all_to_all"])
def test_within_a_node_the_link_to_others_carries_nothing(operation):
    slow, fast = (milliseconds(operation, MEGABYTE, 8, Network(gbits=gbits)) for gbits in (1, 1000))
    assert slow == fast < milliseconds(operation, MEGABYTE, 16, Network(gbits=1))


def test_a_gather_takes_a_hop_a_process_and_a_small_sum_a_tree():
    network = Network(gbits=400)
    gathers = [milliseconds("all_gather", 0, processes, network) for processes in (128, 256, 512)]
    assert gathers[1] - gathers[0] == pytest.approx((gathers[2] - gathers[1]) / 2)
    # 112 hops inside of 16 nodes, at 1.8 times what they take in one alone, and 15 between them.
    assert gathers[0] == pytest.approx((3.6 + 112 * 0.47 * 1.8 + 15 * 2.7) / 1e3)
    sums = [milliseconds("all_reduce", 0, processes, network) for processes in (128, 256, 512)]
    assert sums[1] - sums[0] == pytest.approx(sums[2] - sums[1]) == pytest.approx(2 * 5.0 / 1e3)
