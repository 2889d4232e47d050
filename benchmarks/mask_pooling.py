"""DetCon's masks and loss: this repository's against the published shape of the same computation, in one run.

    python -m benchmarks.mask_pooling [--batch 32] [--size 224] [--processes 8] [--labels 60] [--sweep AXIS [VALUE ...]]

The baseline of the masks is a one-hot map of 256 ids at full resolution, adaptive average pooling, argmax; that of the loss holds
all logits and labels as matrices. Both forms must agree before they are timed. Where only one of the two depends on what is
swept, the other is measured once.
"""

import utils.threads  # noqa: F401  isort: skip  before torch

import sys

import torch

from benchmarks.baselines import detcon as baseline
from benchmarks.compare import compare
from benchmarks.report import Axis, Report, check_sizes, make_parser, points
from losses.byol import unit
from losses.detcon import detcon_loss
from models.pooling import majority_labels
from utils.cli import positive, shows_errors

STRIDE, BLOCK, IDS, VIEWS, REGIONS, CHANNELS, TEMPERATURE = 32, 8, 256, 2, 16, 256, 0.1
AXES = (
    Axis("batch", 32, (4, 8, 16, 32, 64), "images of one process: masks of one view, regions of two"),
    Axis("size", 224, (96, 160, 224, 320, 448), "of a view, in pixels"),
    Axis("processes", 8, (1, 2, 8, 32, 128), "whose regions the loss compares with"),
)


def measure_masks(report: Report, labels: int, *, batch: int, size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, labels, (batch, size // BLOCK, size // BLOCK), generator=generator)
    masks = blocks.repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2).to(torch.uint8).to(report.device)
    grid = (size // STRIDE,) * 2
    forms = (
        lambda: majority_labels(masks, num_labels=labels, size=grid),
        lambda: baseline.majority_labels(masks, num_labels=IDS, size=grid),
    )
    assert torch.equal(*(form() for form in forms))
    compare(report, f"masks of {labels} labels", *forms, point={"batch": batch, "size": size})


def measure_loss(report: Report, *, batch: int, processes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (batch, VIEWS, REGIONS)
    targets = unit(torch.randn(batch * processes, *shape[1:], CHANNELS, generator=generator)).to(report.device)
    prediction = torch.randn(*shape, CHANNELS, generator=generator).to(report.device).requires_grad_()
    ids = torch.randint(0, 20, shape, generator=generator).to(report.device)
    options = {"temperature": TEMPERATURE, "offset": batch * (processes - 1)}
    forms = (
        lambda: detcon_loss(prediction, targets, ids, ids, **options),
        lambda: baseline.loss(prediction, targets, ids, **options),
    )
    steps = [lambda form=form: torch.autograd.grad(form(), prediction)[0] for form in forms]
    assert torch.allclose(*(form() for form in forms), rtol=1e-5)
    assert torch.allclose(*(step() for step in steps), atol=1e-7)
    compare(report, "loss and gradient", *steps, point={"batch": batch, "processes": processes})


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = make_parser(__doc__, AXES)
    parser.add_argument("--labels", type=positive, default=60, help=f"segments of a mask, {IDS} at most")
    arguments = parser.parse_args(argv)
    places = list(points(arguments, AXES))
    check_sizes(places, STRIDE)
    measured = set()
    with Report("mask_pooling", arguments) as report:
        for place in places:
            for measure, axis in ((measure_masks, "size"), (measure_loss, "processes")):
                own = {"batch": place["batch"], axis: place[axis]}
                if (key := (axis, *own.values())) in measured:
                    continue
                measured.add(key)
                options = (arguments.labels,) if measure is measure_masks else ()
                measure(report, *options, **own)
    return 0


if __name__ == "__main__":
    sys.exit(main())
