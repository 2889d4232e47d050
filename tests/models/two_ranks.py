"""What two processes see for test_shuffle.py and test_resim_reference.py; started by tests.utils.two_ranks.run_two_ranks."""

import sys
from pathlib import Path

import torch

from models.backbone import make_trunk
from models.heads import MLP
from models.resim import ReSim
from models.shuffle import Shuffle
from tests.models.given_features import given_batch, given_resim
from tests.models.published import load_reference
from utils import distributed, launch
from utils.method import Progress

COUNT, SEEDS = 4, 6
SHAPES = {"vectors": (5,), "images": (3, 4, 2), "numbers": ()}
# With the second of them the two processes change their images.
SHUFFLE_SEEDS = (None, 0)


def numbered_rows(rank: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """(COUNT, *shape) values that say whose they are: those of rank 1 are 100 more."""
    return (torch.arange(COUNT * max(1, torch.Size(shape).numel())) + 100 * rank).view(COUNT, *shape).to(dtype)


def exchanged(rank: int) -> dict[str, dict]:
    """By name of the shape, type and seed: what `send` gave, and what `restore` made of twice that."""
    found = {}
    for name, shape in SHAPES.items():
        for dtype in (torch.float32, torch.bfloat16):
            for seed in range(SEEDS):
                shuffle = Shuffle(COUNT, torch.Generator().manual_seed(seed))
                rows = numbered_rows(rank, shape, dtype)
                sent = shuffle.send(rows)
                found[f"{name} {dtype} {seed}"] = {"own": rows, "sent": sent, "restored": shuffle.restore(2 * sent)}
    return found


def handed_out(rank: int) -> torch.Tensor:
    """Rank 0 hands out one of its four rows to itself and three to rank 1, rank 1 both of its own to rank 0."""
    rows = torch.arange(8.0).view(4, 2) if rank == 0 else torch.arange(8.0, 12).view(2, 2)
    send, receive = ([1, 3], [1, 2]) if rank == 0 else ([2, 0], [3, 0])
    return distributed.all_to_all_rows(rows.requires_grad_(), send, receive)


def compared(rank: int, shuffle_seed: int | None) -> dict[str, torch.Tensor]:
    method = given_resim(load_reference("resim_moco.npz"), shuffle_seed=shuffle_seed)
    output = method(given_batch(rank), torch.Generator())
    return output.losses | {"keys": method.queue.keys, "next": method.queue.next}


def key_statistics(rank: int, shuffle_seed: int | None, step: int) -> torch.Tensor:
    """What the key network's first BatchNorm has seen after a step; every image is brighter than the one before."""
    torch.manual_seed(0)
    trunk = make_trunk("resnet_tiny", width=4)
    head = MLP(trunk.levels["c5"].channels, hidden_dim=4, output_dim=4, norm=False)
    options = {"queue_size": 8, "dim": 4, "momentum": lambda progress: 1.0, "shuffle_seed": shuffle_seed}
    method = ReSim(trunk, head, **options)
    brightness = torch.arange(COUNT) + COUNT * rank
    method.before_step(Progress(step, 10, 0))
    method({"images": brightness.view(-1, 1, 1, 1, 1).expand(COUNT, 2, 3, 16, 16).float()}, torch.Generator())
    return method.target[0].bn1.running_mean


def main(folder: Path) -> None:
    launch.launch(None)
    rank = distributed.rank()
    torch.save(
        {
            "exchanged": exchanged(rank),
            "handed_out": handed_out(rank),
            "key_statistics": {
                f"{seed} {step}": key_statistics(rank, seed, step) for seed in SHUFFLE_SEEDS for step in range(3)
            },
            "gathered": distributed.all_gather_rows(numbered_rows(rank, (3,), torch.bfloat16)),
            "compared": {str(seed): compared(rank, seed) for seed in SHUFFLE_SEEDS},
        },
        folder / f"{rank}.pth",
    )
    distributed.barrier()
    launch.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
