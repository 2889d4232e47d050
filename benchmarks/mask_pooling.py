"""DetCon's masks and loss: this repository's against the plain form of the same computation, in one run.

    python -m benchmarks.mask_pooling [--masks 8] [--labels 60] [--images 32] [--processes 8] [--threads 2]

The plain form of the masks is what the published code does in effect: a one-hot map of 256 ids at full resolution, adaptive
average pooling, argmax. That of the loss holds all logits and labels as matrices. Both forms must agree before they are timed.
Memory is the growth of the process' peak; it needs Linux.
"""

import utils.threads  # noqa: F401  isort: skip  before torch

import argparse
import os

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.compare import report
from losses.byol import unit
from losses.detcon import detcon_loss
from models.pooling import majority_labels

SIDE, GRID, IDS, VIEWS, REGIONS, CHANNELS, TEMPERATURE = 224, 7, 256, 2, 16, 256, 0.1


def plain_majority(labels: Tensor) -> Tensor:
    one_hot = torch.zeros(len(labels), IDS, SIDE, SIDE).scatter_(1, labels[:, None].long(), 1.0)
    return F.adaptive_avg_pool2d(one_hot, GRID).flatten(2).argmax(1)


def plain_loss(prediction: Tensor, targets: Tensor, ids: Tensor, offset: int) -> Tensor:
    B, V, M, D = prediction.shape
    logits = unit(prediction).flatten(0, 2) @ targets.flatten(0, 2).T / TEMPERATURE
    own = slice(offset * V * M, (offset + B) * V * M)
    image = torch.arange(B).repeat_interleave(V * M)
    view = torch.arange(V).repeat_interleave(M).repeat(B)
    region = ids.flatten()
    same = (image[:, None] == image) & (region[:, None] == region)
    same_view = view[:, None] == view
    labels = torch.zeros_like(logits)
    labels[:, own] = (same & ~same_view).float()
    left_out = torch.zeros_like(logits)
    left_out[:, own] = (same & same_view).float()
    log_softmax = (logits - 1e9 * left_out).log_softmax(1)
    num_positives = labels.sum(1)
    weight = (num_positives > 0) / (same & same_view).sum(1)
    cross_entropy = -(labels / num_positives.clamp(min=1)[:, None] * log_softmax).sum(1)
    return (weight * cross_entropy).sum() / (B * M)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=int, default=8)
    parser.add_argument("--labels", type=int, default=60, help="segments of a mask, 256 at most")
    parser.add_argument("--images", type=int, default=32, help="of one process, in the loss")
    parser.add_argument("--processes", type=int, default=8, help="whose regions the loss compares with")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    generator = torch.Generator().manual_seed(0)
    print(f"{arguments.threads} threads; load of the machine before: {os.getloadavg()[0]:.1f}")

    blocks = torch.randint(0, arguments.labels, (arguments.masks, SIDE // 8, SIDE // 8), generator=generator)
    labels = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2).to(torch.uint8)

    def ours_majority() -> Tensor:
        return majority_labels(labels, num_labels=arguments.labels, size=(GRID, GRID))

    assert torch.equal(ours_majority(), plain_majority(labels))
    name = f"{arguments.masks} masks, {arguments.labels} labels, {SIDE} to {GRID}"
    report(name, ours_majority, lambda: plain_majority(labels))

    shape = (arguments.images, VIEWS, REGIONS)
    gathered = (arguments.images * arguments.processes, VIEWS, REGIONS, CHANNELS)
    targets = unit(torch.randn(gathered, generator=generator))
    prediction = torch.randn(*shape, CHANNELS, generator=generator).requires_grad_()
    ids = torch.randint(0, 20, shape, generator=generator)
    offset = arguments.images * (arguments.processes - 1)
    forms = (
        lambda: detcon_loss(prediction, targets, ids, ids, temperature=TEMPERATURE, offset=offset),
        lambda: plain_loss(prediction, targets, ids, offset),
    )
    steps = [lambda form=form: torch.autograd.grad(form(), prediction)[0] for form in forms]
    assert torch.allclose(forms[0](), forms[1](), rtol=1e-5) and torch.allclose(steps[0](), steps[1](), atol=1e-7)
    rows, keys = arguments.images * VIEWS * REGIONS, gathered[0] * VIEWS * REGIONS
    report(f"loss and gradient, {rows} x {keys} regions of {CHANNELS}", *steps)


if __name__ == "__main__":
    main()
