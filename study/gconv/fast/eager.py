"""Whether single operations are observed, or a computation can be done in another way without notice."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.forward_ad import unpack_dual
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


def is_transformed(*tensors: Tensor) -> bool:
    """Whether ``torch.func`` or forward-mode autograd is active: neither supports a custom operator."""
    if torch._C._are_functorch_transforms_active():  # there is no public function for this
        return True
    return not torch.compiler.is_compiling() and any(unpack_dual(tensor).tangent is not None for tensor in tensors)


def is_unobserved(tensors: Sequence[Tensor]) -> bool:
    """Whether ordinary tensors, all of one device and dtype, are computed with eagerly: without compiling, tracing,
    counting, transforming or casting of operations."""
    first = tensors[0]
    device = first.device.type
    return (
        not (torch.compiler.is_compiling() or torch.jit.is_tracing() or is_in_torch_dispatch_mode())
        and all(type(x) in (Tensor, nn.Parameter) for x in tensors)
        and all(x.device == first.device and x.dtype == first.dtype for x in tensors)
        and not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device))
        and not is_transformed(*tensors)
        and forward_ad._current_level < 0  # within a level, parameters that are not among the tensors may be dual
    )
