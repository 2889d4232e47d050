"""LARS and the target's moving average: for all tensors at once, against one tensor after the other as published.

    python -m benchmarks.optimizer [--backbone resnet50] [--device cuda] [--json FILE]

Both forms start from the same weights and gradients, and must agree after three steps before they are timed.
"""

import utils.threads  # noqa: F401  isort: skip  before torch

import copy

import torch
from torch import nn

from benchmarks.baselines.lars import PerTensorLARS, update_target_per_tensor
from benchmarks.compare import compare
from benchmarks.report import Report, make_parser
from engine.lars import LARS, parameter_groups
from engine.precision import memory_format
from models.backbone import make_trunk
from models.heads import MLP
from models.momentum import make_target, update_target
from utils.cli import shows_errors

_MOMENTUM = 0.99


def make_networks(backbone: str, device: torch.device) -> nn.ModuleList:
    """R2O's trunk, projector and predictor with gradients."""
    torch.manual_seed(0)
    trunk = make_trunk(backbone)
    projector = MLP(trunk.levels["c5"].channels, hidden_dim=4096, output_dim=256)
    networks = nn.ModuleList([trunk, projector, MLP(256, hidden_dim=4096, output_dim=256)])
    networks.to(device, memory_format=memory_format(device))
    for parameter in networks.parameters():
        parameter.grad = 0.01 * torch.randn_like(parameter)
    return networks


def make_optimizer(form: type[LARS], networks: nn.Module, *, variant: str = "released") -> LARS:
    groups = parameter_groups(networks, weight_decay=1e-6, exclude_bias_and_bn=True)
    return form(groups, lr=0.1, momentum=0.9, variant=variant)


def check(networks: nn.ModuleList, *, variant: str = "released") -> None:
    """Three steps of both forms come to the same weights, online and target, or nothing is timed."""
    moved = []
    for form, average in ((LARS, update_target), (PerTensorLARS, update_target_per_tensor)):
        copied = _copy(networks)
        optimizer, target = make_optimizer(form, copied, variant=variant), make_target(copied)
        for _ in range(3):
            optimizer.step()
            average(target, copied, momentum=_MOMENTUM)
        moved.append([*copied.parameters(), *target.parameters()])
    for ours, plain in zip(*moved):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)


def _copy(networks: nn.ModuleList) -> nn.ModuleList:
    copied = copy.deepcopy(networks)
    for new, old in zip(copied.parameters(), networks.parameters()):
        new.grad = old.grad.clone()
    return copied


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--backbone", default="resnet50", help="whose tensors are moved, with R2O's heads (resnet50)")
    arguments = parser.parse_args(argv)
    with Report("optimizer", arguments) as report:
        networks = make_networks(arguments.backbone, arguments.device)
        check(networks)
        tensors = list(networks.parameters())
        millions = sum(map(torch.Tensor.numel, tensors)) / 1e6
        report.line(f"{arguments.backbone} and heads: {len(tensors)} tensors, {millions:.1f} million numbers")
        ours, plain = (make_optimizer(form, _copy(networks)) for form in (LARS, PerTensorLARS))
        compare(report, "LARS", ours.step, plain.step)
        targets = [make_target(networks) for _ in range(2)]
        compare(
            report,
            "moving average",
            lambda: update_target(targets[0], networks, momentum=_MOMENTUM),
            lambda: update_target_per_tensor(targets[1], networks, momentum=_MOMENTUM),
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
