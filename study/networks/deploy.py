"""A trained network made ready for inference: batch norm folded into the convolutions, filters prepared once.

A layer of :mod:`study.gconv` expands or transforms its filter in every call, so that it always follows its weights.
Here that is done once, and feature maps stay planes ``(B, K * |G|, H, W)`` from the lifting to the logits. Where the
Fourier form is not the faster one, what is left are ordinary convolutions of torch.
"""

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from study.errors import StudyError
from study.gconv import (
    GroupBatchNorm2d,
    GroupConv2d,
    GroupConvTranspose2d,
    GroupMaxPool2d,
    LiftingConv2d,
    OrientationPool2d,
    ProjectionConv2d,
)
from study.gconv.convolution import PlaneGroupConv2d
from study.gconv.fast import operators, planar
from study.gconv.fast.dispatch import prefers_fourier
from study.networks.parts import Part
from study.networks.receptive_field import Span, seen

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, Part)
"""What computes nothing by itself that planes and feature maps would not do alike."""


class ReadyGroupConv2d(nn.Module):
    """A convolution in its Fourier form, with the filter prepared, and the ReLU that follows it or not.

    Shapes: planes ``(B, in * |G|, H, W)``, or several whose channels are taken together -> planes ``(B, out * |G|, H',
    W')``.

    Args:
        layer: a :class:`~study.gconv.GroupConv2d`, or a transposed one; or any other convolution of planes with
            stride 1 and zero padding, which is one on Z2.
    """

    takes_several = True

    def __init__(self, layer: PlaneGroupConv2d | nn.Conv2d) -> None:
        super().__init__()
        self.transposed = isinstance(layer, GroupConvTranspose2d)
        if isinstance(layer, GroupConv2d):
            self.order, settings = layer.group.order, (layer.group.name, layer.kernel_size, layer.stride, layer.padding)
        else:
            self.order, settings = 1, ("z2", layer.kernel_size[0], 1, layer.padding[0])
        self.settings = settings
        _, self.kernel_size, self.stride, self.padding = settings
        weight = layer.weight.detach()
        self.register_buffer("weight", weight if weight.ndim == 5 else weight.unsqueeze(2))  # (out, in, |G|, k, k)
        bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().contiguous()
        self.register_buffer("bias", bias)
        self.relu = False
        self._prepare()

    def _prepare(self) -> None:
        prepared = operators.ready_filter(self.weight, self.settings[0], transposed=self.transposed)
        self.parts = len(prepared)
        for part, tensor in enumerate(prepared):
            self.register_buffer(f"part{part}", tensor, persistent=False)

    def _apply(self, fn, recurse: bool = True) -> "ReadyGroupConv2d":
        super()._apply(fn, recurse)
        self._prepare()  # each device and dtype has a form of its own
        return self

    def forward(self, *planes: Tensor) -> Tensor:
        # (B, in, |G|, H, W); autocast has no say here
        f = [x.to(self.weight.dtype).unflatten(1, (-1, self.order)) for x in planes]
        convolve = operators.group_conv_transpose_ready if self.transposed else operators.group_conv_ready
        prepared = [getattr(self, f"part{part}") for part in range(self.parts)]
        return convolve(f, prepared, self.bias, *self.settings, self.relu).flatten(1, 2)


class OnFields(nn.Module):
    """A module that wants feature maps ``(B, K, |G|, H, W)``, between layers that exchange planes."""

    def __init__(self, module: nn.Module, order: int) -> None:
        super().__init__()
        self.module = module
        self.order = order

    def forward(self, planes: Tensor) -> Tensor:
        out = self.module(planes.unflatten(1, (-1, self.order)))  # (B, K, |G|, H, W)
        return out.flatten(1, 2) if out.ndim == 5 else out  # a projection gives images

    def sees(self, span: Span) -> Span:
        return seen(self.module, span)


@torch.no_grad()
def deploy(network: Part, *, plain: bool = False) -> Part:
    """A copy for inference, several times faster on small batches: images ``(B, C, H, W)`` -> the same logits.

    Which form each convolution takes is decided for the device and precision that the network has now. Parametrised
    weights, as of weight norm, become what they are now. What is neither convolution nor batch norm, and a batch norm
    without running statistics, is kept as it is.

    Args:
        network: any :class:`~study.networks.network.Network`; its modules stand in the order in which they are called,
            as far as images and feature maps are told apart by that.
        plain: whether every convolution and pooling becomes torch's own, even where another form is faster; a network
            of the layers of this package is then one of ``torch.nn`` alone.

    Raises:
        StudyError: for a network on escnn, which has to be converted first; for hooks on layers, which would be lost;
            for a block that is neither an ``nn.Sequential`` nor a :class:`~study.networks.parts.Part`.
    """
    _check(network)
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for module in list(network.modules()):
        if parametrize.is_parametrized(module):
            _remove_parametrizations(module)
    _deploy_children(network, None, plain, {})
    return network


def _deploy_children(
    parent: nn.Module, order: int | None, plain: bool, done: dict[nn.Module, int | None]
) -> int | None:
    """Replace the layers below a part of a network, which sees a feature map on a group of that order, or an image.

    Args:
        parent, order, plain: the part, the order of the group in front of it (None for an image), see :func:`deploy`.
        done: the containers that are replaced already, with the order behind each: one may stand in two places.

    Returns:
        The order of the group behind it; None for an image.
    """
    if isinstance(parent, nn.Sequential):
        for place, (conv, norm) in enumerate(pairwise(parent)):
            if _takes_scale(conv) and _folds(norm):
                parent[place], parent[place + 1] = _fold(conv, norm), nn.Identity()
    for name, layer in list(parent._modules.items()):  # named_children() would leave out a layer's second place
        if isinstance(layer, _CONTAINERS):
            if layer not in done:
                done[layer] = _deploy_children(layer, order, plain, done)
            order = done[layer]
        else:
            parent._modules[name] = _ready(layer, order, plain)
            order = _order_behind(layer, order)
    if isinstance(parent, nn.Sequential):
        for place, (conv, norm, relu) in enumerate(zip(parent, parent[1:], parent[2:], strict=False)):
            if isinstance(conv, ReadyGroupConv2d) and type(norm) is nn.Identity and type(relu) is nn.ReLU:
                conv.relu, parent[place + 2] = True, nn.Identity()
    return order


def _check(network: Part) -> None:
    """Raise a StudyError unless the network can be deployed."""
    if any(type(module).__module__ == "study.escnn.layers" for module in network.modules()):
        raise StudyError("a network on escnn cannot be deployed; convert it with `python -m study convert --to native`")
    for name, module in network.named_modules():
        # the network's own see images and logits, as before
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()] if name else []
        if hooks:
            kind = getattr(hooks[0], "__name__", type(hooks[0]).__name__)
            raise StudyError(
                f"the layer {name} has a forward hook, {kind}, which would be lost; remove it before deploying "
                "(the handle's remove(); for pruning and old forms of weight norm, their functions in torch.nn.utils)"
            )
    for name, blocks in network.named_modules():
        for place, block in enumerate(blocks if type(blocks) is nn.ModuleList else ()):
            if not isinstance(block, _CONTAINERS):
                kind = type(block).__name__
                raise StudyError(f"the block {name}.{place} is of {kind}; give an nn.Sequential of layers to deploy")


def _remove_parametrizations(module: nn.Module) -> None:
    """Keep the tensors that they give. torch's own function changes the class too, which the original still needs."""
    tensors = {name: getattr(module, name) for name in module.parametrizations}
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module.parametrizations
    for name, tensor in tensors.items():
        setattr(module, name, nn.Parameter(tensor.clone(), requires_grad=False))


def _takes_scale(conv: nn.Module) -> bool:
    """Whether it is a convolution; in a transposed one in groups a scale has another place than :func:`_fold` knows."""
    plain = isinstance(conv, nn.Conv2d) or (isinstance(conv, nn.ConvTranspose2d) and conv.groups == 1)
    return plain or isinstance(conv, PlaneGroupConv2d)


def _folds(norm: nn.Module) -> bool:
    """Whether it is a batch norm, and in eval mode by its running statistics; a subclass may compute otherwise."""
    kinds = (nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, GroupBatchNorm2d)
    return type(norm) in kinds and norm.running_var is not None


def _fold(conv: nn.Module, norm: nn.Module) -> nn.Module:
    """The convolution followed by the batch norm, with its running moments, as one convolution with a bias."""
    conv = copy.deepcopy(conv)  # layers may share their weights
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight
    if isinstance(conv, nn.ConvTranspose2d):
        conv.weight.mul_(scale.view(1, -1, 1, 1))
    else:
        conv.weight.mul_(scale.view(-1, *[1] * (conv.weight.ndim - 1)))
    bias = (0 if conv.bias is None else conv.bias) - norm.running_mean
    bias = bias * scale + (norm.bias if norm.affine else 0)
    conv.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)  # norms may be kept in float32
    return conv


def _order_behind(layer: nn.Module, order: int | None) -> int | None:
    """The order of the group that a layer's output is on, given that of its input; None for an image."""
    if isinstance(layer, LiftingConv2d | GroupConv2d):
        return layer.group.order
    return None if isinstance(layer, ProjectionConv2d | OrientationPool2d) else order


def _ready(layer: nn.Module, order: int | None, plain: bool) -> nn.Module:
    """What does to planes as the layer does to feature maps on a group of that order."""
    if plain and isinstance(layer, PlaneGroupConv2d):
        return layer.export().requires_grad_(False)
    if plain and isinstance(layer, GroupMaxPool2d):
        return nn.MaxPool2d(layer.kernel_size, layer.stride, layer.padding)
    if isinstance(layer, PlaneGroupConv2d):
        device, dtype = layer.weight.device.type, layer.weight.dtype
        fast = isinstance(layer, GroupConv2d) and prefers_fourier(layer, device, dtype, training=False)
        if fast and layer.padding_mode == "zeros":
            return ReadyGroupConv2d(layer)
        conv = layer.export().requires_grad_(False)
        ordinary = type(conv) is nn.Conv2d and (conv.stride, conv.padding_mode) == ((1, 1), "zeros")
        return ReadyGroupConv2d(conv) if ordinary and planar.is_faster(conv.weight) else conv
    alike = order is None or isinstance(layer, nn.ReLU | nn.Identity)  # on planes and on fields
    return layer if alike else OnFields(layer, order)
