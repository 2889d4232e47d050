"""MoCo's queue: keys of the batches before this one, as negatives."""

import torch
from torch import Tensor, nn

from losses.byol import unit


class KeyQueue(nn.Module):
    """The newest `size` keys, oldest overwritten first; part of the state dict.

    Args:
        size: how many keys; they begin as random unit vectors.
        dim: numbers a key.
    Source: MoCo (He et al., 2020), section 3.2.
    """

    def __init__(self, size: int, *, dim: int):
        super().__init__()
        self.register_buffer("keys", unit(torch.randn(size, dim)))
        self.register_buffer("next", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Put (n, dim) keys in place of the oldest n <= size; the same on every process."""
        size = len(self.keys)
        assert len(keys) <= size, f"{len(keys)} keys in a queue of {size}"
        # The place stays on the device: to learn it the host would have to wait.
        rows = (self.next + torch.arange(len(keys), device=keys.device)) % size
        self.keys.index_copy_(0, rows, keys.to(self.keys.dtype))
        self.next.copy_((self.next + len(keys)) % size)


def check_queue(size: int, *, batch: int, processes: int) -> None:
    """Refuse a queue that is no multiple of what a step pushes, as released; `push` itself would take any number.

    Args:
        size: of the queue; batch: images a process and micro-batch.
    Raises:
        ValueError: names batches and queues that fit.
    """
    pushed = batch * processes
    if size % pushed == 0:
        return
    fitting = [n for n in range(1, size // processes + 1) if size % (n * processes) == 0]
    nearest = sorted(sorted(fitting, key=lambda n: max(n / batch, batch / n))[:6])
    who = f"{processes} process{'es' * (processes > 1)}"
    batches = f"data.train_batch_size may be {', '.join(map(str, nearest))}; or " if nearest else ""
    queues = [n for n in (size // pushed * pushed, (size // pushed + 1) * pushed) if n]
    raise ValueError(
        f"model.queue_size: {size} is not a multiple of the {pushed} keys that {who} x data.train_batch_size = {batch} push "
        f"at once. With {who}, {batches}"
        f"model.queue_size {' or '.join(map(str, queues))}"
    )
