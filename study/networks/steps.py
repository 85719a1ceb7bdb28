"""A training step, and a forward pass, of any network on a batch of noise: what benchmarks and estimates time."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F


def training_step(network: nn.Module, images: torch.Tensor, precision: str) -> Callable[[], None]:
    """A training step of Adam on a batch of noise."""
    mask = (torch.rand_like(images[:, :1]) > 0.5).float()
    optimizer = torch.optim.Adam(network.parameters())

    def step() -> None:
        optimizer.zero_grad()
        with autocast(images.device, precision):
            logits = network(images)
        F.binary_cross_entropy_with_logits(logits.float(), mask).backward()
        optimizer.step()

    return step


def inference(network: nn.Module, images: torch.Tensor, precision: str) -> Callable[[], torch.Tensor]:
    """A forward pass of a network in eval mode."""

    @torch.inference_mode()
    def run() -> torch.Tensor:
        with autocast(images.device, precision):
            return network(images)

    return run


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Autocast to a precision; nothing for "float32"."""
    half = precision != "float32"
    return torch.autocast(device.type, dtype=getattr(torch, precision) if half else torch.bfloat16, enabled=half)
