"""Batch norm of several processes: the moments are those of the whole batch, of which each process has a share.

With moments of its own, a network on two devices would be trained with batches half as large.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def share_moments(network: nn.Module, device_type: str) -> nn.Module:
    """The network with another kind of batch norm, which keeps the parameters, the moments and the state dict's keys.

    Args:
        network: on any device yet.
        device_type: of the training; "cuda" has torch's own ``nn.SyncBatchNorm``, which has kernels for GPUs only.
    """
    if device_type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = SharedBatchNorm  # it has no state but theirs
    return network


class SharedBatchNorm(_BatchNorm):
    """What ``nn.SyncBatchNorm`` computes, on CPUs; the shares must be equally large."""

    def _check_input_dim(self, x: Tensor) -> None:
        """Any ``(B, C, ...)`` will do."""

    def forward(self, x: Tensor) -> Tensor:
        """Args: x: this process's share of the batch, ``(B, C, ...)``. Returns: ``(B, C, ...)``."""
        if not self.training:
            return super().forward(x)
        dtype, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32))
        dims = [0, *range(2, x.ndim)]
        shape = (1, -1, *[1] * (x.ndim - 2))
        size = _Sum.apply(x.new_tensor(x.numel() / x.shape[1]))
        mean = _Sum.apply(x.sum(dims)) / size  # (C,)
        centred = x - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(dims)) / size  # (C,)
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean.detach(), self.momentum)
        self.running_var.lerp_(variance.detach() * size / (size - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()  # (C,)
        return (centred * scale.view(shape) + self.bias.view(shape)).to(dtype)


class _Sum(torch.autograd.Function):
    """The sum over the processes, to which each adds a summand; so the gradients add up as well."""

    @staticmethod
    def forward(ctx, summand: Tensor) -> Tensor:
        total = summand.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        torch.distributed.all_reduce(total)
        return total
