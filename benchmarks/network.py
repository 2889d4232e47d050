"""How long collectives take between nodes of several GPUs, on paper: what their links allow, and what every hop costs."""

import math
from typing import NamedTuple


class Network(NamedTuple):
    """Nodes of GPUs that NVLink joins, and a link from each node to the others.

    Attributes:
        gbits: of a node's link, Gbit/s each way; its GPUs share it.
        gpus: of a node.
        inside: of a GPU's NVLink, GB/s each way (A100: 300, H100: 450).
        start, hop, hop_inside: microseconds of a ring of messages: of the call, of a hop between nodes, of one inside.
        tree_start, tree_hop: of a tree.
    Source: the times are NCCL's own estimates for its fastest protocol (LL), src/graph/tuning.cc.
    """

    gbits: float
    gpus: int = 8
    inside: float = 300.0
    start: float = 3.6
    hop: float = 2.7
    hop_inside: float = 0.47
    tree_start: float = 4.4
    tree_hop: float = 5.0


def wire_bytes(operation: str, size: int, processes: int) -> float:
    """Bytes that a process sends, by a ring.

    Args:
        size: bytes that each hands in.
    """
    others = processes - 1
    return {
        "all_reduce": 2 * others / processes * size,
        "all_gather": others * size,
        "all_to_all": others / processes * size,
    }[operation]


def milliseconds(operation: str, size: int, processes: int, network: Network) -> float:
    """Of one collective, if nothing else is on the links: no less than this."""
    return (_latency(operation, processes, network) + _transfer(operation, size, processes, network)) / 1e3


def _latency(operation: str, processes: int, network: Network) -> float:
    """Microseconds that an empty message takes."""
    nodes = math.ceil(processes / network.gpus)
    # NCCL's: inside of nodes a hop takes longer where there are several.
    inside = network.hop_inside * (1.8 if nodes > 1 else 1)
    if operation == "all_to_all":
        # All messages leave at once.
        return network.start + (network.hop if nodes > 1 else inside)
    rounds = 2 if operation == "all_reduce" else 1
    ring = network.start + rounds * ((processes - nodes) * inside + (nodes - 1) * network.hop)
    if operation == "all_gather":
        return ring
    tree = network.tree_start + 2 * ((math.ceil(processes / nodes) - 1) * inside + math.log2(nodes) * network.tree_hop)
    return min(ring, tree)


def _transfer(operation: str, size: int, processes: int, network: Network) -> float:
    """Microseconds that the bytes take: inside of nodes, then between them, where a node's GPUs share the link."""
    nodes, own = math.ceil(processes / network.gpus), min(processes, network.gpus)
    if operation == "all_reduce":
        # Summed inside, each GPU a part; the parts between nodes; the sums gathered inside.
        inside, between = 2 * (own - 1) / own * size, 2 * (nodes - 1) / nodes * size
    elif operation == "all_gather":
        inside, between = (processes - 1) * size if own > 1 else 0, (nodes - 1) * own * size
    else:
        inside, between = (own - 1) / processes * size, own * (processes - own) / processes * size
    return inside / (1e3 * network.inside) + between / (1e3 * network.gbits / 8)
