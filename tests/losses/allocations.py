"""What a computation allocates, for tests that hold it to a bound."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Allocations(TorchDispatchMode):
    """`sizes`: elements of every tensor that an operation makes, views and results in place apart; `peak`: the most alive."""

    def __init__(self):
        super().__init__()
        self.sizes: list[int] = []
        self.peak = 0
        self._alive: list[weakref.ref] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(made, torch.Tensor) and made.untyped_storage().data_ptr() not in given:
                self.sizes.append(made.numel())
                self._alive.append(weakref.ref(made))
        alive = [tensor for reference in self._alive if (tensor := reference()) is not None]
        self.peak = max(self.peak, sum(tensor.numel() for tensor in alive))
        return result
