"""What each of two processes sees for test_two_ranks.py; started by tests.utils.two_ranks.run_two_ranks."""

import sys
from pathlib import Path

import torch
from torch import nn

from engine.checkpoint import CheckpointStore, gather_buffers, restore_buffers
from engine.guard import FiniteGuard
from utils import distributed, launch
from utils.errors import DivergedError, UserError


def main(folder: Path) -> None:
    device = launch.launch(None)
    rank = distributed.rank()
    results = {}
    guard = FiniteGuard(device)
    for step in range(4):
        # Rank 1 is the first to diverge, rank 0 follows a step later.
        bad = step >= (3 if rank == 0 else 2)
        guard.update(step, {"byol": torch.tensor(float("nan") if bad else 0.5), "extra": torch.tensor(rank + step / 8)})
        if step == 1:
            guard.check(lambda step: 0.25)
    try:
        guard.check(lambda step: 0.25)
    except DivergedError as error:
        results["diverged"] = str(error)
    net = nn.BatchNorm1d(1)
    net.running_mean.fill_(rank + 1.0)
    buffers = gather_buffers(net)
    net.running_mean.zero_()
    restore_buffers(net, buffers)
    results["running_mean"] = net.running_mean.item()
    store = CheckpointStore(folder / "checkpoints")
    for step in (1, 2):
        store.save({"rank": rank}, step=step, epoch=0, permanent=False)
    distributed.barrier()
    results["newest"] = store.load_newest()[0]
    distributed.barrier()
    if distributed.is_main():
        for path in store.folder.glob("*.pth"):
            path.write_bytes(b"damaged")
    distributed.barrier()
    try:
        store.load_newest()
    except UserError as error:
        results["all_damaged"] = str(error)
    torch.save(results, folder / f"{rank}.pth")
    distributed.barrier()
    launch.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
