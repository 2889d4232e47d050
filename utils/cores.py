"""How many processes may work at once."""

import os


def available_cores() -> int:
    """Cores that this process may use, shared with the processes that a launcher started beside it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
