"""What a study consists of: the named presets, and how the command line changes one."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace

from study.data.patches.splits import DESIGNS
from study.errors import StudyError
from study.experiments.recipe import Recipe
from study.experiments.schedules import SCHEDULES
from study.networks.models import MODELS, PAPER_MODELS
from study.networks.registry import find_network
from study.tasks.losses import LOSSES

FRACTIONS = (0.125, 0.25, 0.5, 1.0)
"""The paper's data regimes."""


PRECISIONS = ("32-true", "bf16-mixed")
"""Of the training; both keep the weights in float32, in which they are evaluated."""


Grid = tuple[tuple[str, ...], tuple[float, ...], tuple[int, ...]]
"""Models, fractions of the data, seeds: a trial of each with each."""


def _check_grid(models: tuple[str, ...], fractions: tuple[float, ...], seeds: tuple[int, ...]) -> None:
    for model in models:
        if model not in MODELS:
            raise StudyError(f"unknown model {model!r}; choose from {', '.join(MODELS)}")
    for fraction in fractions:
        if not 0 < fraction <= 1:
            raise StudyError(f"fraction {fraction} of the data; give numbers above 0 and up to 1")
    if any(not 0 <= seed < 2**63 for seed in seeds):
        raise StudyError(f"seeds are {', '.join(map(str, seeds))}; give numbers from 0 to 2**63 - 1")
    for name, given in [("models", models), ("fractions", fractions), ("seeds", seeds)]:
        values = [f"{value:g}" if isinstance(value, float) else value for value in given]
        if len(set(values)) < len(values):
            raise StudyError(f"{name} {', '.join(map(str, values))} name one twice; give each once")


@dataclass(frozen=True)
class Preset:
    """A grid of trials: every model on every data regime with every seed, all by one recipe.

    Attributes:
        description: one line for people.
        source: where the patches come from: "miniature" (drawn slides), "ebhi" (EBHI-SEG), "nuinsseg" or "store" (any).
        task: what is foreground, where the source knows several; empty where it does not.
        size: side of the patches, in pixels.
        patches: how many patches to cut from the drawn slides, over all splits; other sources have what they have.
        recipe: how each network is built and trained.
        design: of the splits and of the data regimes: "stored", one split and regimes of patches, as in the paper, or
            "folds", cross-validation and regimes of patients (:mod:`study.data.patches.splits`).
        learning_rates: of models for which validation chose another than the recipe's.
        models, fractions, seeds: the grid of trials.
        more: further grids, each (models, fractions, seeds), run after the first.
        workers: processes that load patches, per device; no influence on the results.
    """

    description: str
    source: str
    size: int
    recipe: Recipe
    task: str = ""
    patches: int = 0
    design: str = "stored"
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    models: tuple[str, ...] = tuple(PAPER_MODELS)
    fractions: tuple[float, ...] = FRACTIONS
    seeds: tuple[int, ...] = (0,)
    more: tuple[Grid, ...] = ()
    workers: int = 0

    def __post_init__(self) -> None:
        for grid in self.grids:
            _check_grid(*grid)
        recipe = self.recipe
        for name in ("batch_size", "epochs", "batches_per_epoch", "learning_rate"):
            if not 0 < getattr(recipe, name) < math.inf:
                raise StudyError(f"{name} is {getattr(recipe, name)}; give a positive number")
        if self.design not in DESIGNS:
            raise StudyError(f"unknown design {self.design!r}; choose from {', '.join(DESIGNS)}")
        if recipe.schedule not in SCHEDULES:
            raise StudyError(f"unknown schedule {recipe.schedule!r}; choose from {', '.join(SCHEDULES)}")
        for name, value in [("patience", recipe.patience), ("workers", self.workers), ("patches", self.patches)]:
            if value < 0:
                raise StudyError(f"{name} is {value}; give 0 or more")
        if recipe.precision not in PRECISIONS:
            raise StudyError(f"unknown precision {recipe.precision!r}; choose from {', '.join(PRECISIONS)}")
        if recipe.loss not in LOSSES:
            raise StudyError(f"unknown loss {recipe.loss!r}; choose from {', '.join(LOSSES)}")
        for model in dict.fromkeys(model for models, _, _ in self.grids for model in models):
            MODELS[model].architecture(**recipe.network).sizes.check(self.size, self.size)

    @property
    def grids(self) -> tuple[Grid, ...]:
        """All grids of trials, in the order in which they are run."""
        return ((self.models, self.fractions, self.seeds), *self.more)

    def recipe_of(self, model: str) -> Recipe:
        """How a network of this model is trained."""
        rate = self.learning_rates.get(model, self.recipe.learning_rate)
        return replace(self.recipe, learning_rate=rate)

    def trial_settings(self, model: str) -> dict:
        """What decides the result of a model's trials; two presets that agree in it can share them."""
        keys = ("source", "task", "size", "patches", "design")
        return {**{key: getattr(self, key) for key in keys}, **self.recipe_of(model).settings()}


_TISSUE = Recipe.of(width=16, depth=4, grid="even", batch_size=16, epochs=16, batches_per_epoch=100, schedule="cosine")
"""Of the study on real tissue on CPUs; ``docs/protocol.md`` says how each value was chosen."""

_CANCER = Preset(
    "the study on real tissue, its primary task: cancer on EBHI-SEG, at 64 px, by patient",
    source="ebhi",
    task="cancer",
    size=64,
    design="folds",
    recipe=_TISSUE,
    models=("unet-aug", "p4m"),
    fractions=(0.125,),
    seeds=tuple(range(10)),
)
"""The primary contrast; the other studies on real tissue differ from it in what they name."""

PRESETS = {
    "quick": replace(
        _CANCER,
        description="cancer on EBHI-SEG in ten minutes: real patients, short trainings",
        recipe=replace(_TISSUE, epochs=5, batches_per_epoch=80),
        models=tuple(PAPER_MODELS),
        fractions=(0.125, 1.0),
        seeds=(0,),
    ),
    "ebhi-cancer": replace(
        _CANCER,
        more=(
            (("unet-aug", "p4m"), (1.0,), tuple(range(10))),
            (("unet", "unet-sym", "unet-time", "p4"), (0.125,), tuple(range(6))),
            (("unet-aug", "p4m"), (0.25, 0.5), tuple(range(5))),
            (("unet", "p4"), (1.0,), tuple(range(5))),
            (("pm", "p2", "pmm"), (0.125,), tuple(range(5))),
            (("p4m-max", "p4m-mean", "p4m-equal-width", "p4m-literal"), (0.125,), tuple(range(3))),
            (("p4m-escnn", "p4m-escnn-full"), (0.125,), tuple(range(2))),
        ),
    ),
    "ebhi-cancer-odd": replace(
        _CANCER,
        description="P4M on the odd grid, with the paper's 3x3 pooling: cancer on EBHI-SEG at 65 px",
        size=65,
        recipe=replace(_TISSUE, network=_TISSUE.network | {"grid": "odd"}),
        seeds=tuple(range(3)),
    ),
    "ebhi-glands": replace(
        _CANCER,
        description="the study's second task: glands on EBHI-SEG",
        task="glands",
        seeds=tuple(range(5)),
    ),
    "nuclei": replace(
        _CANCER,
        description="the study beyond EBHI-SEG: nuclei of 31 organs (NuInsSeg), by blocks of neighbouring images",
        source="nuinsseg",
        task="nuclei",
        seeds=tuple(range(5)),
    ),
    "ebhi-gpu": replace(
        _CANCER,
        description="cancer on EBHI-SEG at its full 224 px, for a GPU",
        size=224,
        recipe=Recipe.of(
            **_TISSUE.settings() | {"width": 32, "batch_size": 32, "epochs": 20, "precision": "bf16-mixed"}
        ),
        fractions=(0.125, 1.0),
        workers=8,
    ),
    "ebhi-cpu": Preset(
        "an older study: glands on EBHI-SEG at 80 px, width 8, 400 updates",
        source="ebhi",
        task="glands",
        size=80,
        recipe=Recipe.of(width=8, depth=3, grid="even", batch_size=16, epochs=20, batches_per_epoch=20, patience=5),
        seeds=(0, 1, 2),
    ),
    "miniature": Preset(
        "a miniature Camelyon, drawn: from slides to figures, for a trial run; proves nothing about tissue",
        source="miniature",
        size=64,
        patches=640,
        recipe=Recipe.of(width=8, depth=2, grid="even", batch_size=16, epochs=20, batches_per_epoch=10, patience=5),
    ),
    "paper": Preset(
        "Camelyon16 patches of 320 x 320, the paper's numbers",
        source="store",
        size=320,
        recipe=Recipe.of(width=32, depth=4, grid="even", batch_size=64, epochs=100, batches_per_epoch=468),
        workers=8,
    ),
}


def find_preset(name: str) -> Preset:
    """A preset by its name.

    Raises:
        StudyError: if there is none of that name.
    """
    if name not in PRESETS:
        raise StudyError(f"unknown preset {name!r}; choose from {', '.join(PRESETS)}")
    return PRESETS[name]


def override(preset: Preset, settings: Iterable[str]) -> Preset:
    """A preset with some of its values replaced, each given as ``key=value``; lists are separated by commas.

    Raises:
        StudyError: for a key that does not exist or a value of another type.
    """
    outer, inner, network = {}, {}, dict(preset.recipe.network)
    settings = sorted(settings, key=lambda text: not text.startswith("network="))  # which decides what else there is
    for setting in settings:
        key, equals, text = setting.partition("=")
        if key == "network":
            network = {name: value for name, value in network.items() if name in find_network(text).shared}
        owners = [(vars(preset), outer), (_of_network(network), network), (vars(preset.recipe), inner)]
        for known, changes in owners:
            if equals and key in known.keys() - _FIXED:
                changes[key] = _parse(key, text, known[key])
                break
        else:
            keys = dict.fromkeys(key for known, _ in owners for key in known if key not in _FIXED)
            raise StudyError(f"cannot set {setting!r}; give KEY=VALUE with a key out of {', '.join(keys)}")
    if outer.keys() & {"models", "fractions", "seeds"}:
        outer["more"] = ()  # the user says which trials
    if "learning_rate" in inner:
        outer["learning_rates"] = {}  # it is for all models
    return replace(preset, **outer, recipe=replace(preset.recipe, network=network, **inner))


def _of_network(settings: Mapping[str, object]) -> dict[str, object]:
    """What a study can set of a network: its name, and what all models share, as it is now or by default."""
    name = settings.get("network", "unet")
    kind = find_network(name)
    values = {f.name: f.type() if f.default is MISSING else f.default for f in fields(kind) if f.name in kind.shared}
    return {"network": name} | values | settings


_FIXED = {"recipe", "description", "source", "task", "learning_rates", "more"}
"""What makes a preset another one; ``--set`` does not change it."""

_ELEMENT = {"models": str, "fractions": float, "seeds": int}


def _parse(key: str, text: str, like: object) -> object:
    kind = _ELEMENT.get(key, type(like))
    try:
        return tuple(kind(part) for part in text.split(",")) if key in _ELEMENT else kind(text)
    except ValueError as error:
        raise StudyError(f"{key}={text}: not of type {kind.__name__}, like {like}") from error
