"""Pictures of what the layers do, for the notebook that introduces them."""

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from study.gconv import GroupConv2d, LiftingConv2d, ProjectionConv2d, filters
from study.groups import P4, PlaneGroup
from study.report.style import PAGE, styled


def element_name(group: PlaneGroup, g: int) -> str:
    """An element of a group in words: its index, and what it does."""
    mirrors, turns = divmod(g, group.rotations)
    turn = f"turn {360 * turns // group.rotations}°" if turns else ""
    words = ",\n".join(filter(None, ["mirror" if mirrors else "", turn])) or "identity"
    return f"{g}: {words}"


@styled
def orbit(psi: Tensor, group: PlaneGroup) -> Figure:
    """The |G| transformed copies of a planar filter ``(k, k)``, which are the weight of a lifting convolution."""
    copies = filters.lifting_weight(psi[None, None], filters.image_filter_taps(group, len(psi)))[:, 0]
    figure = Figure(figsize=(PAGE, 1.35), layout="constrained")
    for g, (axes, copy) in enumerate(zip(figure.subplots(1, group.order, squeeze=False)[0], copies, strict=True)):
        _filter(axes, copy)
        axes.set_title(element_name(group, g))
    return figure


@styled
def expanded(psi: Tensor, group: PlaneGroup) -> Figure:
    """A filter on the group ``(|G|, k, k)`` and the weight that it expands to, output planes by input planes."""
    taps = filters.feature_filter_taps(group, psi.shape[-1])
    weight = filters.group_weight(psi[None, None], taps)  # (g, h, k, k)
    figure = Figure(figsize=(PAGE * 0.6, PAGE * 0.6), layout="constrained")
    panels = figure.subplots(group.order, group.order, squeeze=False)
    for g, h in np.ndindex(group.order, group.order):
        _filter(panels[g, h], weight[g, h])
    for g in range(group.order):
        panels[g, 0].set_ylabel(f"out {g}")
        panels[-1, g].set_xlabel(f"in {g}")
    return figure


@torch.no_grad()
def example_layers() -> tuple[LiftingConv2d, GroupConv2d, ProjectionConv2d]:
    """Three convolutions on P4 with filters made by hand: they see edges, where edges meet, and where much of it is."""
    offset = torch.arange(-4, 5.0)
    bell = torch.exp(-(offset**2) / 8)
    lift = LiftingConv2d(3, 1, 9, group=P4, padding=4, bias=False)
    lift.weight.copy_(-offset * bell * bell[:, None])  # light on the left, dark on the right
    conv = GroupConv2d(1, 1, 9, group=P4, padding=4, bias=False)
    conv.weight.zero_()
    conv.weight[0, 0, 0] = bell * bell[:, None] * (offset[:, None] > 0)  # such an edge below,
    conv.weight[0, 0, 1] = bell * bell[:, None] * (offset > 0)  # and one a quarter turn from it to the right
    project = ProjectionConv2d(1, 1, 9, group=P4, padding=4, bias=False)
    project.weight.copy_(bell * bell[:, None])
    return lift, conv, project


@styled
@torch.no_grad()
def three_convolutions(image: Tensor, layers: tuple[nn.Module, nn.Module, nn.Module], g: int = 1) -> Figure:
    """The paper's Fig. 1: an image, the same turned, their feature maps on P4, and what the last layer makes of them.

    Args:
        image: ``(1, 3, H, W)``, values from 0 to 1.
        layers: a lifting, a group and a projecting convolution, all on P4 and with one field or channel as output.
        g: the element of P4 by which the second image is turned.
    """
    lift, conv, project = layers
    figure = Figure(figsize=(PAGE, 1.9), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.02, wspace=0, hspace=0.02)
    panels = figure.subplots(2, 1 + P4.order + P4.order + 1)
    for row, x in zip(panels, (image, P4.transform_image(image, g)), strict=True):
        lifted = lift(x - x.mean()).relu()
        combined = conv(lifted)
        row[0].imshow(x[0].permute(1, 2, 0))
        for axes, plane in zip(row[1:-1], torch.cat([lifted[0, 0], combined[0, 0]]), strict=True):
            axes.imshow(plane[8:-8, 8:-8], cmap="magma")  # without the edges that the padding makes
        row[-1].imshow(project(combined)[0, 0, 8:-8, 8:-8], cmap="viridis")
    titles = ["Image", *(f"Lifted, {h}" for h in range(4)), *(f"Group, {h}" for h in range(4)), "Projected"]
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title, fontsize=7)
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    panels[0, 0].set_ylabel("as it is")
    panels[1, 0].set_ylabel("turned")
    return figure


def _filter(axes, values: Tensor) -> None:
    largest = float(values.abs().max())
    axes.imshow(values, cmap="RdBu_r", vmin=-largest, vmax=largest)
    axes.set(xticks=[], yticks=[])
