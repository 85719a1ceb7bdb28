"""How far a network is from equivariant, measured on every element of a group.

Which sizes are exact is foretold by :mod:`study.gconv.sizes`.
"""

import copy
import math

import torch
from torch import Tensor, nn

from study.groups import P4M, PlaneGroup


def transform(x: Tensor, g: int, group: PlaneGroup) -> Tensor:
    """Roto-reflect an image ``(B, C, H, W)`` or a feature map ``(B, K, |G|, H, W)``, by its number of axes."""
    return group.transform_feature(x, g) if x.ndim == 5 else group.transform_image(x, g)


@torch.no_grad()
def equivariance_errors(module: nn.Module, x: Tensor, group: PlaneGroup = P4M) -> Tensor:
    """For each element g of the group, ``max |m(L_g x) - L_g m(x)| / max |m(x)|``: a tensor ``(|G|,)``.

    Measured in the module's own mode and precision, on a copy, so that running statistics stay as they are.

    Args:
        module: from images or feature maps to images or feature maps.
        x: the input; float64 to see rounding alone.
        group: whose elements act; all eight roto-reflections by default.
    """
    module = copy.deepcopy(module)
    output = module(x)
    scale = output.abs().max().clamp_min(torch.finfo(output.dtype).tiny)
    errors = [module(transform(x, g, group)) - transform(output, g, group) for g in range(group.order)]
    return torch.stack([error.abs().max() for error in errors]) / scale


def assert_equivariant(module: nn.Module, x: Tensor, group: PlaneGroup, *, tolerance: float = 1e-10) -> Tensor:
    """Assert equivariance under every element of the group, in train and in eval mode.

    Returns:
        The errors of :func:`equivariance_errors`, ``(2, |G|)``: train, eval.

    Raises:
        AssertionError: naming the mode, the element and the error.
    """
    module = copy.deepcopy(module)
    errors = torch.stack([equivariance_errors(module.train(mode), x, group) for mode in (True, False)])
    if not errors.max() <= tolerance:  # not <=, so that a NaN fails too
        mode, g = divmod(int(errors.nan_to_num(nan=torch.inf).argmax()), group.order)
        raise AssertionError(
            f"{type(module).__name__} is not {group.name}-equivariant in {('train', 'eval')[mode]} mode: "
            f"error {errors[mode, g]:.1e} under element {g}, more than {tolerance:.0e}"
        )
    return errors


def rotate(x: Tensor, degrees: float) -> Tensor:
    """Turn images ``(B, C, H, W)`` counter-clockwise by any angle, by bicubic interpolation; beyond the border is 0."""
    angle = math.radians(degrees)
    # an affine grid says for each pixel of the output where, in (x, y) with y downwards, the input is read
    matrix = [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0]]
    theta = torch.tensor([matrix], dtype=x.dtype, device=x.device).expand(len(x), 2, 3)
    grid = nn.functional.affine_grid(theta, list(x.shape), align_corners=False)
    return nn.functional.grid_sample(x, grid, mode="bicubic", align_corners=False)


def measure(network: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """The errors under all eight roto-reflections, in float64 and float32, before and after some training steps.

    Args:
        network: from images to logits; it is trained, and left in float32.
        image: a float64 batch ``(B, C, H, W)``.
    """
    errors = {}
    for moment in ("before", "after"):
        network.double()
        if moment == "after":
            train_briefly(network, image)
        for mode in ("train", "eval"):
            errors[f"float64 {mode}, {moment}"] = equivariance_errors(network.train(mode == "train"), image)
    errors["float32 eval, after"] = equivariance_errors(network.float(), image.float())
    return errors


def train_briefly(network: nn.Module, x: Tensor, *, steps: int = 3) -> None:
    """A few steps of Adam towards random masks: moves every weight and statistic, as a training would."""
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        logits = network(x)
        target = (torch.rand_like(logits) > 0.5).to(x.dtype)
        nn.functional.binary_cross_entropy_with_logits(logits, target).backward()
        optimizer.step()
