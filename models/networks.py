"""What a method's parameters are in, whatever it does between them."""

from torch import nn

from models.backbone import Trunk
from models.fpn import FPN
from models.heads import MLP


def networks_of(method: nn.Module) -> list[nn.Module]:
    """Trunks, necks and heads, online and target."""
    return [module for module in method.modules() if isinstance(module, (Trunk, FPN, MLP))]
