"""Fig. 2 of the paper: stability maps."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from study.report.results import StudyResults
from study.report.style import PAGE, captioned, styled


def draw(study: StudyResults) -> Figure | None:
    """Fig. 2: mean and standard deviation over the eight roto-reflections of three test patches, P4M and U-Net."""
    return panel(study.maps, f"{study.maps['networks']}; {study.caption}") if study.maps else None


@styled
def panel(maps: Mapping[str, np.ndarray], caption: str) -> Figure:
    """Fig. 2: patch with the mask's border, mean maps of P4M and U-Net over the eight roto-reflections, deviation of
    U-Net.

    Args:
        maps: of :func:`study.experiments.saved_maps.load_stability_maps`.
        caption: says which networks and what data.
    """
    patches = len(maps["image"])
    figure = Figure(figsize=(PAGE, 0.8 + 1.95 * patches), layout="constrained")
    grid = figure.subplots(patches, 4, squeeze=False)
    figure.get_layout_engine().set(w_pad=0.02, wspace=0.02)
    largest = max(0.05, float(maps["unet_deviation"].max()))
    for row, axes in enumerate(grid):
        axes[0].imshow(maps["image"][row])
        foreground = (maps["mask"][row] > 0) & (maps["mask"][row] < 255)  # 255 is what nobody labelled
        if 0 < foreground.mean() < 1:
            axes[0].contour(foreground, [0.5], colors="yellow", linewidths=1)
        mean = axes[1].imshow(maps["p4m_mean"][row], vmin=0, vmax=1, cmap="viridis")
        axes[2].imshow(maps["unet_mean"][row], vmin=0, vmax=1, cmap="viridis")
        deviation = axes[3].imshow(maps["unet_deviation"][row], vmin=0, vmax=largest, cmap="magma")
        axes[1].set_xlabel(f"P4M deviation: at most {maps['p4m_deviation_max'][row]:.0e}")
        axes[3].set_xlabel(f"U-Net deviation: at most {maps['unet_deviation'][row].max():.2f}")
        for panel in axes:
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set_visible(False)
    titles = ("Patch, border of the mask", "P4M U-Net, mean", "U-Net, mean", "U-Net, standard deviation")
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title)
    figure.colorbar(mean, ax=grid[:, 1:3], location="bottom", shrink=0.5, aspect=40, label="Foreground probability")
    figure.colorbar(deviation, ax=grid[:, 3], location="bottom", shrink=0.9, aspect=20, label="Standard deviation")
    return captioned(figure, caption)
