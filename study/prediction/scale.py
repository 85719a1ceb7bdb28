"""The scale at which a slide is read: that of the network's training, if its checkpoint states it."""

from study.data.slides.slide import Slide, View
from study.errors import StudyError

MAGNIFICATION = 10.0
"""For networks whose checkpoint does not state its scale: the paper's."""

TOLERANCE = 1.2
"""Scales within this factor count as equal: scanners of one magnification differ by less."""


def choose_view(
    slide: Slide, trained: float | None, *, magnification: float | None = None, mpp: float | None = None
) -> tuple[View, str]:
    """The slide at the requested scale, or else at that of the training.

    Args:
        trained: micrometres per pixel of the patches that the network was trained on; None if they are not known.
        magnification, mpp: the requested scale, one or neither of them.

    Returns:
        the view, and a message about its scale; empty if the scale was requested.

    Raises:
        StudyError: if the two differ, or the slide is coarser than either.
    """
    if magnification is not None or mpp is not None:
        view = slide.at(magnification=magnification, mpp=mpp)
        if trained is not None and not 1 / TOLERANCE <= view.mpp / trained <= TOLERANCE:
            raise StudyError(
                f"{slide.path} would be read at {view.mpp:.3g} µm per pixel, but the network was trained at "
                f"{trained:.3g}; leave out the scale, or give --mpp {trained:.3g}"
            )
        return view, ""
    if trained is None:
        view = slide.at(magnification=MAGNIFICATION)
        return view, (
            f"The checkpoint does not say at which scale the network was trained; the slide is read at "
            f"{MAGNIFICATION:g}x, {view.mpp:.3g} µm per pixel (--magnification or --mpp for another)."
        )
    # a slide that is hardly coarser has the same magnification, of another scanner
    view = slide.at(mpp=slide.mpp if trained < slide.mpp <= TOLERANCE * trained else trained)
    return view, f"The slide is read at {view.mpp:.3g} µm per pixel; the network was trained at {trained:.3g}."
