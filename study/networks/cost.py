"""What a forward pass of a network costs."""

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


@torch.no_grad()
def multiplications(network: nn.Module, images: Tensor) -> float:
    """Of a forward pass of one image, by the form that each layer takes for a batch of ``images (B, C, H, W)``."""
    with FlopCounterMode(display=False) as counter:
        network(images)
    return counter.get_total_flops() / 2 / len(images)  # a flop counter counts additions too
