"""A trained U-Net made ready for inference: batch norm folded into the convolutions, filters prepared once.

A layer of :mod:`study.gconv` expands or transforms its filter in every call, so that it always follows its weights.
Here that is done once, and feature maps stay planes ``(B, K * |G|, H, W)`` from the lifting to the logits. Where the
Fourier form is not the faster one, what is left are ordinary convolutions of torch.
"""

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn

from study.errors import StudyError
from study.gconv import GroupConv2d, GroupConvTranspose2d, GroupMaxPool2d, operators
from study.gconv.layers import PlaneGroupConv2d
from study.unet import UNet


class ReadyGroupConv2d(nn.Module):
    """A :class:`~study.gconv.GroupConv2d`, or a transposed one, in its Fourier form, with the filter transformed.

    Shapes: planes ``(B, in * |G|, H, W)`` -> planes ``(B, out * |G|, H', W')``, as of ``layer.export()``.
    """

    def __init__(self, layer: GroupConv2d) -> None:
        super().__init__()
        self.transposed = isinstance(layer, GroupConvTranspose2d)
        one, two = operators.ready_filter(layer.weight.detach(), layer.group.name, transposed=self.transposed)
        self.register_buffer("one", one)
        self.register_buffer("two", two)
        self.register_buffer("bias", layer.bias.detach())
        self.order = layer.group.order
        self.settings = (layer.group.name, layer.kernel_size, layer.stride, layer.padding)

    def forward(self, planes: Tensor) -> Tensor:
        f = planes.to(self.one.dtype).unflatten(1, (-1, self.order))  # (B, in, |G|, H, W); autocast has no say here
        convolve = operators.group_conv_transpose_ready if self.transposed else operators.group_conv_ready
        return convolve(f, self.one, self.two, self.bias, *self.settings).flatten(1, 2)


@torch.no_grad()
def deploy(network: UNet) -> UNet:
    """A copy for inference, several times faster on small batches: images ``(B, C, H, W)`` -> the same logits.

    Which form each convolution takes is decided for the device and precision that the network has now.

    Raises:
        StudyError: for a network on escnn; convert it first.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    if not isinstance(network.project, PlaneGroupConv2d | nn.Conv2d):
        raise StudyError("a network on escnn cannot be deployed; convert it with `python -m study convert --to native`")
    for part in (network.encoder, network.decoder, network.up):
        for layers in part:
            for place, (conv, norm) in enumerate(pairwise(layers)):
                if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d):
                    layers[place], layers[place + 1] = _ready(_fold(conv, norm)), nn.Identity()
    network.project = _ready(network.project)
    if isinstance(network.pool, GroupMaxPool2d):
        network.pool = nn.MaxPool2d(network.pool.kernel_size, network.pool.stride, network.pool.padding)
    return network


def _fold(conv: nn.Module, norm: nn.Module) -> nn.Module:
    """The convolution followed by the batch norm, with its running moments, as one convolution with a bias."""
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight
    if isinstance(conv, nn.ConvTranspose2d):
        conv.weight.mul_(scale.view(1, -1, 1, 1))
    else:
        conv.weight.mul_(scale.view(-1, *[1] * (conv.weight.ndim - 1)))
    bias = (0 if conv.bias is None else conv.bias) - norm.running_mean
    conv.bias = nn.Parameter(bias * scale + (norm.bias if norm.affine else 0), requires_grad=False)
    return conv


def _ready(conv: nn.Module) -> nn.Module:
    if not isinstance(conv, PlaneGroupConv2d):
        return conv
    fast = isinstance(conv, GroupConv2d) and conv.prefers_fourier(conv.weight.device.type, conv.weight.dtype)
    if fast and conv.padding_mode == "zeros":
        return ReadyGroupConv2d(conv)
    return conv.export().requires_grad_(False)
