"""Counts, without a GPU, what would make the host wait for one."""

import traceback
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

aten = torch.ops.aten
# Operations whose result, or the shape of it, the host must learn from the device.
_READS = {
    aten._local_scalar_dense,
    aten.is_nonzero,
    aten.nonzero,
    aten.nonzero_numpy,
    aten.masked_select,
    aten.masked_scatter_,
    aten.unique_consecutive,
    aten.unique_dim,
    aten._unique,
    aten._unique2,
    aten.equal,
    aten.bincount,
    aten.histc,
    aten._linalg_check_errors,
    aten.repeat_interleave,
}
_INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
# A CPU tensor gives these away without an operation.
_METHODS = {Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__array__}
_FROM_NUMBERS = {torch.tensor, torch.as_tensor, Tensor.new_tensor}


class HostReads:
    """Within it, `found` fills with a line for each operation that reads the device, or waits to write it.

    Args:
        host: tensors that stay on the host in training too, such as the seeds of a batch.
    Tensors drawn by a generator are the host's, as ours all are, and so is what is made of the host's alone; every other tensor
    stands for one on the device.
    """

    def __init__(self, *, host: Iterable[Tensor] = ()):
        self.found: list[str] = []
        self._host = WeakIdKeyDictionary()
        for tensor in host:
            self.mark(tensor)
        self._modes = (_Operations(self), _Methods(self))

    def __enter__(self) -> "HostReads":
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)

    def mark(self, tensor: Tensor) -> None:
        self._host[tensor] = True

    def on_device(self, value: object) -> bool:
        return isinstance(value, Tensor) and value not in self._host

    def note(self, what: object) -> None:
        frames = [frame for frame in traceback.extract_stack() if "/torch/" not in frame.filename]
        caller = next(frame for frame in reversed(frames) if frame.filename != __file__)
        self.found.append(f"{what} at {caller.filename}:{caller.lineno}: {caller.line}")


class _Operations(TorchDispatchMode):
    def __init__(self, reads: HostReads):
        super().__init__()
        self._reads = reads

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        touches_device = any(map(self._reads.on_device, tensors))
        packet = func.overloadpacket
        if touches_device and (packet in _READS or packet in _INDEXING and _by_mask(args)):
            self._reads.note(func)
        result = func(*args, **kwargs)
        drawn = kwargs.get("generator") is not None
        if drawn or tensors and not touches_device:
            for made in tree_leaves(result):
                if isinstance(made, Tensor):
                    self._reads.mark(made)
        return result


def _by_mask(args: tuple) -> bool:
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])


class _Methods(TorchFunctionMode):
    def __init__(self, reads: HostReads):
        super().__init__()
        self._reads = reads

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _METHODS and self._reads.on_device(args[0]):
            self._reads.note(func.__name__)
        if func in _FROM_NUMBERS and kwargs.get("device") is not None:
            self._reads.note(func.__name__)
        if func is Tensor.to and not self._reads.on_device(args[0]) and _names_device(args, kwargs):
            # A copy that is not told otherwise waits until it has arrived.
            if not kwargs.get("non_blocking"):
                self._reads.note("to(device)")
        if func is Tensor.__getitem__ and self._reads.on_device(args[0]) and _holds_list(args[1]):
            self._reads.note("index by a list")
        return func(*args, **kwargs)


def _names_device(args: tuple, kwargs: dict) -> bool:
    given = [*args[1:], kwargs.get("device")]
    return any(isinstance(one, (torch.device, str)) for one in given)


def _holds_list(index: object) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, list) for part in parts)
