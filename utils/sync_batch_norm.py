"""BatchNorm over the images of all processes, on the CPU too, where PyTorch has none."""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from utils.distributed import all_gather_rows, all_reduce_sum, world_size


def convert_sync_batchnorm(module: nn.Module, device: torch.device) -> nn.Module:
    """Replace every BatchNorm in `module` by one that sees the images of all processes.

    Args:
        module: changed in place, except where it is a BatchNorm itself; parameters and buffers are kept, not copied.
        device: where it will run: PyTorch's SyncBatchNorm on a GPU, `CpuSyncBatchNorm` on the CPU.
    Returns:
        The module to use.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    return _convert(module)


def _convert(module: nn.Module) -> nn.Module:
    if isinstance(module, _BatchNorm) and not isinstance(module, CpuSyncBatchNorm):
        return CpuSyncBatchNorm.of(module)
    for name, child in module.named_children():
        setattr(module, name, _convert(child))
    return module


class CpuSyncBatchNorm(_BatchNorm):
    """BatchNorm whose training statistics are those of all processes' samples together.

    Takes (N, C, ...) with any N a process, zero included. Output, gradients and running statistics equal those of one
    process with the whole batch; running statistics are the same bits on every rank. Alone, or in eval mode, it is
    PyTorch's BatchNorm. Gradients of weight and bias are the local part: DDP averages them as it does the others.
    """

    @classmethod
    def of(cls, norm: _BatchNorm) -> "CpuSyncBatchNorm":
        """The same layer, with the parameters and buffers of `norm` themselves."""
        synced = cls(
            norm.num_features, norm.eps, norm.momentum, affine=norm.affine, track_running_stats=norm.track_running_stats
        )
        for name, parameter in norm.named_parameters(recurse=False):
            setattr(synced, name, parameter)
        for name, buffer in norm.named_buffers(recurse=False):
            setattr(synced, name, buffer)
        return synced.train(norm.training)

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2 or x.shape[1] != self.num_features:
            raise ValueError(f"expected (N, {self.num_features}, ...), got {tuple(x.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(x)
        self._check_input_dim(x)
        # Half precision is too coarse for sums over a batch.
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        count, mean, variance = _global_statistics(wide)
        if self.track_running_stats:
            self._update_running(mean, variance * (count / (count - 1)))
        return _Normalise.apply(wide, mean, variance, count, self.weight, self.bias, self.eps).to(x.dtype)

    @torch.no_grad()
    def _update_running(self, mean: Tensor, variance: Tensor) -> None:
        self.num_batches_tracked.add_(1)
        factor = 1.0 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.mul_(1 - factor).add_(mean, alpha=factor)
        self.running_var.mul_(1 - factor).add_(variance, alpha=factor)


def _global_statistics(x: Tensor) -> tuple[float, Tensor, Tensor]:
    """Samples, mean (C,) and biased variance (C,) of a channel over all processes, in float64."""
    local = x.detach()
    dims = _all_but_channels(local)
    num = local.numel() // local.shape[1]
    if num > 0:
        variance, mean = torch.var_mean(local, dims, correction=0)
    else:
        variance = mean = local.new_zeros(local.shape[1])
    packed = torch.cat([mean.new_tensor([num], dtype=torch.float64), mean, variance])
    # Gathered and summed in rank order, so that every rank gets the same bits; merged around the means, so that a large
    # mean costs no digits of the variance.
    parts = all_gather_rows(packed[None])
    counts, means, variances = parts[:, :1], *parts[:, 1:].chunk(2, dim=1)
    count = counts.sum().item()
    if count <= 1:
        raise ValueError(f"BatchNorm needs more than one value a channel, got {count:.0f} over all processes")
    mean = (counts * means).sum(0) / count
    variance = (counts * (variances + (means - mean) ** 2)).sum(0) / count
    return count, mean, variance


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, with the gradient through the statistics of all processes."""

    @staticmethod
    def forward(ctx, x, mean, variance, count, weight, bias, eps):
        mean, scale = mean.to(x.dtype), (variance + eps).rsqrt().to(x.dtype)
        ctx.save_for_backward(x, mean, scale, weight)
        ctx.count = count
        shape = _channel_shape(x)
        normal = (x - mean.view(shape)).mul_(scale.view(shape))
        if weight is not None:
            normal.mul_(weight.view(shape)).add_(bias.view(shape))
        return normal

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, mean, scale, weight = ctx.saved_tensors
        shape, dims = _channel_shape(x), _all_but_channels(x)
        normal = (x - mean.view(shape)).mul_(scale.view(shape))
        sum_gradient = gradient.sum(dims)
        sum_product = (gradient * normal).sum(dims)
        shared = all_reduce_sum(torch.stack([sum_gradient, sum_product]))
        along_mean, along_scale = (shared / ctx.count).unbind()
        grad_x = gradient - along_mean.view(shape) - normal.mul_(along_scale.view(shape))
        grad_x.mul_((scale if weight is None else scale * weight).view(shape))
        if weight is None:
            return grad_x, None, None, None, None, None, None
        return grad_x, None, None, None, sum_product.to(weight.dtype), sum_gradient.to(weight.dtype), None


def _all_but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]


def _channel_shape(x: Tensor) -> tuple[int, ...]:
    return (1, -1) + (1,) * (x.dim() - 2)
