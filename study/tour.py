"""Pictures of what the layers do, for the notebook that introduces them."""

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from study.gconv import filters
from study.groups import P4, PlaneGroup
from study.plots import PAGE, styled


def element_name(g: int) -> str:
    """A roto-reflection in words: its index, and what it does."""
    turn = f"turn {90 * (g % 4)}°" if g % 4 else ""
    words = ", ".join(filter(None, ["mirror" if g >= 4 else "", turn])) or "identity"
    return f"{g}: {words}"


@styled
def orbit(psi: Tensor, group: PlaneGroup) -> Figure:
    """The |G| transformed copies of a planar filter ``(k, k)``, which are the weight of a lifting convolution."""
    copies = filters.lifting_weight(psi[None, None], filters.image_filter_taps(group, len(psi)))[:, 0]
    figure = Figure(figsize=(PAGE, 1.2), layout="constrained")
    for g, (axes, copy) in enumerate(zip(figure.subplots(1, group.order), copies, strict=True)):
        _filter(axes, copy)
        axes.set_title(element_name(g))
    return figure


@styled
def expanded(psi: Tensor, group: PlaneGroup) -> Figure:
    """A filter on the group ``(|G|, k, k)`` and the weight that it expands to, output planes by input planes."""
    taps = filters.feature_filter_taps(group, psi.shape[-1])
    weight = filters.group_weight(psi[None, None], taps)  # (g, h, k, k)
    figure = Figure(figsize=(PAGE * 0.6, PAGE * 0.6), layout="constrained")
    panels = figure.subplots(group.order, group.order)
    for g, h in np.ndindex(group.order, group.order):
        _filter(panels[g, h], weight[g, h])
    for g in range(group.order):
        panels[g, 0].set_ylabel(f"out {g}")
        panels[-1, g].set_xlabel(f"in {g}")
    return figure


@styled
@torch.no_grad()
def three_convolutions(image: Tensor, layers: tuple[nn.Module, nn.Module, nn.Module], g: int = 1) -> Figure:
    """The paper's Fig. 1: an image, the same turned, their feature maps on P4, and what the last layer makes of them.

    Args:
        image: ``(1, 3, H, W)``, values from 0 to 1.
        layers: a lifting, a group and a projecting convolution, all on P4 and with one field or channel as output.
        g: the element of P4 by which the second image is turned.
    """
    figure = Figure(figsize=(PAGE, 3.0), layout="constrained")
    panels = figure.subplots(2, 2 + P4.order + 2)
    lift, conv, project = layers
    for row, x in zip(panels, (image, P4.transform_image(image, g)), strict=True):
        lifted = lift(x).relu()
        combined = conv(lifted).relu()
        row[0].imshow(x[0].permute(1, 2, 0))
        for axes, plane in zip(row[1:5], lifted[0, 0], strict=True):
            axes.imshow(plane, cmap="viridis")
        row[5].imshow(combined[0, 0, 0], cmap="viridis")
        row[6].imshow(combined[0, 0, 1], cmap="viridis")
        row[7].imshow(project(combined)[0, 0], cmap="magma")
    titles = ["Image", *(f"Lifted, plane {h}" for h in range(P4.order)), "Group, 0", "Group, 1", "Projected"]
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title)
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    panels[0, 0].set_ylabel("x")
    panels[1, 0].set_ylabel(f"x, {element_name(g)}")
    return figure


def _filter(axes, values: Tensor) -> None:
    largest = float(values.abs().max())
    axes.imshow(values, cmap="RdBu_r", vmin=-largest, vmax=largest)
    axes.set(xticks=[], yticks=[])
