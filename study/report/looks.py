"""How everything that is compared looks: each model, each implementation of its layers, each form of a convolution.

Colours are from the Okabe-Ito palette and Tol's muted one, and every model has a marker of its own, so that a figure
can be read without colour. Markers are filled ones, as seaborn asks for.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

from study.networks.models import MODELS


@dataclass(frozen=True)
class Look:
    """A colour, and a marker in matplotlib's terms."""

    colour: str
    marker: str | tuple[int, int, int]


_MODELS = {
    "unet": Look("#000000", "o"),
    "unet-aug": Look("#E69F00", "s"),
    "unet-time": Look("#888888", "p"),
    "unet-sym": Look("#882255", "*"),
    "p2": Look("#56B4E9", "<"),
    "pm": Look("#D55E00", ">"),
    "pmm": Look("#CC79A7", "X"),
    "p4": Look("#009E73", "^"),
    "p4m": Look("#0072B2", "D"),
    "p4m-max": Look("#332288", (4, 1, 0)),
    "p4m-mean": Look("#44AA99", "h"),
    "p4m-equal-width": Look("#999933", "d"),
    "p4m-literal": Look("#CC6677", "8"),
    # on escnn: the colour of the twin from scratch, or of a model that they never stand beside
    "p4-escnn": Look("#009E73", (3, 1, 0)),
    "p4-escnn-full": Look("#009E73", (3, 1, 180)),
    "p4m-escnn": Look("#0072B2", (6, 1, 0)),
    "p4m-escnn-full": Look("#0072B2", (8, 1, 0)),
    "p8-escnn": Look("#CC79A7", "v"),
    "p8m-escnn": Look("#D55E00", "P"),
}

_SPARE = [Look(colour, marker) for marker, colour in product(("H", (5, 0, 180), (7, 1, 0)), ("#117733", "#AA4499"))]
"""For models that have no entry, in their order."""

LAYERS = {
    "native": Look("#0072B2", "o"),
    "escnn": Look("#D55E00", "s"),
    "escnn, full basis": Look("#CC79A7", "D"),
}
"""Of each implementation of the same network."""

FORMS = {
    "dense": Look("#000000", "o"),
    "fourier": Look("#0072B2", "D"),
    "escnn": LAYERS["escnn"],
    "plain": Look("#009E73", "^"),
}
"""Of each form of the same convolution."""

ROLES = {
    "primary": Look("#D55E00", "D"),
    "secondary": Look("#0072B2", "s"),
    "described": Look("#777777", "o"),
}
"""Of each role of a contrast."""


def look(model: str) -> Look:
    """Of a model; one that has no entry in the table gets what is left."""
    if model in _MODELS:
        return _MODELS[model]
    others = [name for name in MODELS if name not in _MODELS]
    return _SPARE[others.index(model) % len(_SPARE)]


def labelled(model: str) -> dict:
    """Colour, marker and label of a model, for matplotlib."""
    return {"color": look(model).colour, "marker": look(model).marker, "label": MODELS[model].label}


def seaborn_looks(models: Iterable[str]) -> dict:
    """The same of several models, for a plot of seaborn in which ``model`` has the hue and the style."""
    models = list(models)
    return {
        "hue": "model",
        "style": "model",
        "hue_order": models,
        "style_order": models,
        "palette": {model: look(model).colour for model in models},
        "markers": {model: look(model).marker for model in models},
    }
