"""Every call of every module of a network, watched: what it was given, and what it returned.

What is compared of an input or an output is the norm over its channels at each position: any orthogonal change of the
channels leaves it as it is, so it turns with the image whether a layer has no orientation channels, those of regular
representations, in any layout, or others.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from study.gconv.sizes import is_exact


@dataclass
class Layer:
    """One call of one module.

    Attributes:
        name: of the module in the network; empty for the network itself.
        kind: its class.
        size: side of its input in pixels; None where that is no map.
        arriving, leaving: errors of its inputs and of its output, relative; 0 where they are not compared.
        geometry: error by itself with symmetric filters; NaN where that is not tried.
        why, remedy: why it breaks, and what helps; empty if it does not.
        strided: its kernel (with dilation), stride and padding; None if it has none, or up-samples.
    """

    name: str
    kind: str
    size: int | None
    arriving: float = 0.0
    leaving: float = 0.0
    geometry: float = math.nan
    why: str = ""
    remedy: str = ""
    strided: dict[str, int] | None = None

    @property
    def leaves_something_over(self) -> bool:
        """Whether its stride does, on the side of its input."""
        return bool(self.strided and self.size) and not is_exact(self.size, **self.strided)

    def __str__(self) -> str:
        at = f" on {self.size} x {self.size}" if self.size else ""
        return f"{self.name or 'the network itself'} ({self.kind}){at}: {self.why}; {self.remedy}"


def copied(network: nn.Module) -> nn.Module:
    """A copy in the same mode, also of a network on escnn; every module keeps its own mode."""
    try:
        return copy.deepcopy(network)
    except RuntimeError:  # in eval mode, escnn keeps filters that cannot be copied
        modes = [module.training for module in network.modules()]
        another = copy.deepcopy(network.train())
        for one in (network, another):
            for module, mode in zip(one.modules(), modes, strict=True):
                if module.training != mode:  # from the outside inwards, so that each ends in its own
                    module.train(mode)
        return another


@contextmanager
def watched(network: nn.Module, look: Callable[[nn.Module, str, list[Tensor], object], None]) -> Iterator[None]:
    """``look`` is told of every call of every module as it ends: module, name, the tensors given, what it returned."""
    given, handles = [], []  # a stack: calls are nested

    def before(module, arguments, options) -> None:
        tensors = [getattr(x, "tensor", x) for x in (*arguments, *options.values())]  # escnn wraps its tensors
        # copies: an activation in place overwrites what is looked at when the call ends
        given.append([x.clone() for x in tensors if isinstance(x, Tensor) and x.is_floating_point()])

    for name, module in network.named_modules():

        def after(module, arguments, options, output, name=name) -> None:
            look(module, name, given.pop(), getattr(output, "tensor", output))

        handles += [
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_hook(after, with_kwargs=True),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def channel_norm(x: object) -> Tensor | None:
    """Over the channels: ``(B, H, W)`` of a map, ``(B,)`` of scores; None of what is neither.

    Maps are ``(B, C, H, W)``, ``(B, K, |G|, H, W)``, channels last ``(B, H, W, C)``, or tokens ``(B, H W, C)`` with or
    without a leading one for the class.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return None
    if x.ndim == 2:
        return x.norm(dim=1)
    if x.ndim == 3:
        side = math.isqrt(x.shape[1])
        if side**2 not in (x.shape[1], x.shape[1] - 1) or side < 2:
            return None
        return x[:, -(side**2) :].norm(dim=2).unflatten(1, (side, side))  # (B, H W) -> (B, H, W)
    if x.ndim == 4 and x.shape[2] == x.shape[3]:
        return x.norm(dim=1)
    if x.ndim == 4 and x.shape[1] == x.shape[2]:
        return x.norm(dim=3)
    if x.ndim == 5 and x.shape[3] == x.shape[4]:
        return x.flatten(1, 2).norm(dim=1)  # (B, K |G|, H, W)
    return None


def side_of(inputs: list[Tensor]) -> int | None:
    """Of the first input, in pixels; None where that is no map."""
    norm = channel_norm(inputs[0]) if inputs else None
    return norm.shape[-1] if norm is not None and norm.ndim == 3 else None


def stride_of(module: nn.Module) -> dict[str, int] | None:
    """Kernel (with its dilation), stride and padding of whatever has them as numbers and does not up-sample."""
    if "Transpose" in type(module).__name__ or "Unpool" in type(module).__name__:
        return None
    values = []
    for name, otherwise in (("kernel_size", None), ("stride", None), ("padding", 0), ("dilation", 1)):
        value = getattr(module, name, otherwise)
        value = value[0] if isinstance(value, list | tuple) else value
        if not isinstance(value, int):
            return None
        values.append(value)
    kernel, stride, padding, dilation = values
    return {"kernel_size": dilation * (kernel - 1) + 1, "stride": stride, "padding": padding}
