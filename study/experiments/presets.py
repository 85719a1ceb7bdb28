"""What a study consists of: a preset, read from its file, and how the command line changes one.

A preset is a TOML file, those of the package in the folder ``presets`` beside this module. Its keys are the attributes
of :class:`Preset`, and in the table ``recipe`` those of :class:`~study.experiments.recipe.Recipe` together with the
settings of the network.
"""

import inspect
import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import NamedTuple, get_args, get_origin, get_type_hints

from study.errors import StudyError
from study.experiments.recipe import Recipe

FOLDER = Path(__file__).with_name("presets")
"""The folder of the package's presets."""

FRACTIONS = (0.125, 0.25, 0.5, 1.0)
"""The paper's data regimes."""

LONGEST_NAME = 100
"""Bytes in the name of a study; the names of its files are longer by some."""

PRECISIONS = {"32-true": "float32", "bf16-mixed": "bfloat16"}
"""Precisions of the training, and what autocast calls them; both keep the weights in float32, in which they are
evaluated."""


class Grid(NamedTuple):
    """A trial of each model on each fraction of the data with each seed."""

    models: tuple[str, ...]
    fractions: tuple[float, ...]
    seeds: tuple[int, ...]


def check_grid(models: Sequence[str], fractions: Sequence[float], seeds: Sequence[int]) -> None:
    """Raise a StudyError for an unknown model, a fraction or seed out of range, or one that is given twice."""
    from study.networks.models import MODELS

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
            raise StudyError(f"{name} {', '.join(map(str, values))} repeat a value; give each once")


@dataclass(frozen=True)
class Preset:
    """A grid of trials: every model on every data regime with every seed, all by one recipe.

    Attributes:
        description: one line that says what the preset is.
        source: where the patches come from, a key of :data:`~study.data.datasets.registry.DATA_SETS`.
        task: the task, if the source has several; otherwise empty.
        size: side of the patches, in pixels.
        patches: number of patches to cut from the drawn slides, over all splits; 0 for other sources.
        recipe: the settings of every network and its training.
        design: the rule of the splits and of the data regimes: "stored", one split and regimes of patches, as in the
            paper, or "folds", cross-validation and regimes of patients (:mod:`study.data.patches.splits`).
        learning_rates: learning rates of models for which validation chose another than the recipe's.
        models, fractions, seeds: the grid of trials.
        more: further grids, run after the first.
        workers: number of processes that load patches, for each device; results do not depend on it.
    """

    description: str
    source: str
    size: int
    recipe: Recipe
    task: str = ""
    patches: int = 0
    design: str = "stored"
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    models: tuple[str, ...] = ("unet", "unet-aug", "p4", "p4m")
    fractions: tuple[float, ...] = FRACTIONS
    seeds: tuple[int, ...] = (0,)
    more: tuple[Grid, ...] = ()
    workers: int = 0

    def __post_init__(self) -> None:
        from study.data.patches.splits import DESIGNS
        from study.experiments.schedules import SCHEDULES
        from study.networks.models import MODELS
        from study.tasks.losses import LOSSES

        for grid in self.grids:
            check_grid(*grid)
        for model, rate in self.learning_rates.items():
            if model not in MODELS or not 0 < rate < math.inf:
                raise StudyError(f"learning_rates has {model} = {rate}; give a model and a positive number")
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
        for model in self.all_models:
            MODELS[model].architecture(**recipe.network).sizes.check(self.size, self.size)

    @property
    def grids(self) -> tuple[Grid, ...]:
        """All grids of trials, in the order in which they are run."""
        return (Grid(self.models, self.fractions, self.seeds), *self.more)

    @property
    def all_models(self) -> list[str]:
        """The models of all grids, each once."""
        return list(dict.fromkeys(model for models, _, _ in self.grids for model in models))

    def recipe_of(self, model: str) -> Recipe:
        """The recipe of a model."""
        rate = self.learning_rates.get(model, self.recipe.learning_rate)
        return replace(self.recipe, learning_rate=rate)

    def trial_settings(self, model: str) -> dict:
        """The settings that decide the result of a model's trials; presets with equal settings can share trials."""
        keys = ("source", "task", "size", "patches", "design")
        return {**{key: getattr(self, key) for key in keys}, **self.recipe_of(model).settings()}


def preset_names() -> list[str]:
    """The presets of the package, sorted."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def descriptions() -> dict[str, str]:
    """What each preset of the package is, in one line, by its name."""
    return {name: _read_toml(FOLDER / f"{name}.toml")["description"] for name in preset_names()}


def study_name(preset: str) -> str:
    """What a study of a preset is called unless it has a name of its own: a file's name without its ending."""
    return Path(preset).stem if _is_file(preset) else preset


def find_preset(name: str) -> Preset:
    """A preset by its name, or from a TOML file of one's own.

    Raises:
        StudyError: if there is none of that name, or the file is missing or not a preset.
    """
    check_preset_name(name)
    return load_preset(Path(name) if _is_file(name) else FOLDER / f"{name}.toml")


def check_preset_name(name: str) -> str:
    """A name that is a file's or that of a preset of the package; it is returned.

    Raises:
        StudyError: for any other.
    """
    if not _is_file(name) and name not in preset_names():
        raise StudyError(f"unknown preset {name!r}; choose from {', '.join(preset_names())}, or give a TOML file")
    return name


def load_preset(path: Path) -> Preset:
    """The preset of a TOML file.

    Raises:
        StudyError: if the file is missing or not TOML; it lacks a key or has an unknown one; or a value is of another
            type, or is not one that a preset can have.
    """
    from study.data.datasets.registry import find_data_set

    try:
        preset = _build(Preset, _read_toml(path))
        find_data_set(preset.source)
        return preset
    except StudyError as error:
        raise StudyError(f"{path}: {error}") from error


def check_study_name(name: str | None) -> None:
    """Raise a :class:`~study.errors.StudyError` if no folder can have the name that a study is given."""
    if name is None:
        return
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise StudyError(f"--name {name!r} cannot name a folder; use letters, digits, '.', '_' and '-'")
    if len(name.encode()) > LONGEST_NAME:
        raise StudyError(f"--name {name[:20]}... is too long to name a folder; use at most {LONGEST_NAME} letters")


def _is_file(name: str) -> bool:
    return Path(name).suffix == ".toml"


def _read_toml(path: Path) -> dict:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise StudyError(f"cannot be read ({error.strerror})") from error
    except ValueError as error:  # not UTF-8, or not TOML
        raise StudyError(f"not TOML ({error})") from error


def _build(kind: type, table: dict):
    """A :class:`Preset` or :class:`Grid` from a table of TOML."""
    return kind(**_checked(kind.__name__.lower(), table, get_type_hints(kind), _needed(kind)))


def _build_recipe(table: dict) -> Recipe:
    """A recipe; in its table the settings of the network stand beside those of the training."""
    from study.networks.registry import find_network

    network = find_network(table.get("network", "unet"))
    hints = {"network": str, **{key: hint for key, hint in get_type_hints(network).items() if key in network.shared}}
    hints |= {key: hint for key, hint in get_type_hints(Recipe).items() if key != "network"}
    needed = [key for key in (*_needed(network), *_needed(Recipe)) if key in hints and key != "network"]
    return Recipe.of(**_checked("recipe", table, hints, needed))


def _needed(kind: type) -> list[str]:
    """The arguments that have no default."""
    return [name for name, p in inspect.signature(kind).parameters.items() if p.default is p.empty]


def _checked(what: str, table: dict, hints: Mapping[str, type], needed: Iterable[str]) -> dict:
    """The values of a table in the types of its keys."""
    for key in table:
        if key not in hints:
            raise StudyError(f"unknown key {key!r} of a {what}; the keys are {', '.join(hints)}")
    for key in needed:
        if key not in table:
            raise StudyError(f"a {what} needs {key}")
    return {key: _typed(key, value, hints[key]) for key, value in table.items()}


def _typed(key: str, value: object, kind: type) -> object:
    """A value of TOML in the type of its key: an array becomes a tuple, a table a mapping, a recipe or a grid."""
    if get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_typed(key, item, get_args(kind)[0]) for item in value)
    if get_origin(kind) is Mapping and isinstance(value, dict):
        return {name: _typed(f"{key}.{name}", item, get_args(kind)[1]) for name, item in value.items()}
    if kind in (Recipe, Grid) and isinstance(value, dict):
        return _build_recipe(value) if kind is Recipe else _build(kind, value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise StudyError(f"{key} is {value!r}; give {_KINDS.get(kind, 'an array or a table, as in the other presets')}")
    return value


_KINDS = {str: "a string", int: "an integer", float: "a number"}


def override(preset: Preset, settings: Iterable[str]) -> Preset:
    """A preset with some of its values replaced, each given as ``key=value``; lists are separated by commas.

    Raises:
        StudyError: for a key that does not exist or a value of another type.
    """
    from study.networks.registry import find_network

    outer, inner, network = {}, {}, dict(preset.recipe.network)
    settings = sorted(settings, key=lambda text: not text.startswith("network="))  # it decides the other keys
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
        outer["more"] = ()  # the user chooses the trials
    if "learning_rate" in inner:
        outer["learning_rates"] = {}  # the new rate is for all models
    return replace(preset, **outer, recipe=replace(preset.recipe, network=network, **inner))


def _of_network(settings: Mapping[str, object]) -> dict[str, object]:
    """What a study can set of a network: its name, and what all models share, as it is now or by default."""
    from study.networks.registry import find_network

    name = settings.get("network", "unet")
    kind = find_network(name)
    values = {f.name: f.type() if f.default is MISSING else f.default for f in fields(kind) if f.name in kind.shared}
    return {"network": name} | values | settings


def setting_keys() -> list[str]:
    """The keys that :func:`override` can replace in a study of U-Nets, without importing the network."""
    keys = dict.fromkeys(f.name for f in (*fields(Preset), *fields(Recipe)) if f.name not in _FIXED)
    return [*keys, "width", "depth", "grid"]


_FIXED = {"recipe", "description", "source", "task", "learning_rates", "more"}
"""The keys that ``--set`` cannot change."""

_ELEMENT = {"models": str, "fractions": float, "seeds": int}


def _parse(key: str, text: str, like: object) -> object:
    kind = _ELEMENT.get(key, type(like))
    try:
        return tuple(kind(part) for part in text.split(",")) if key in _ELEMENT else kind(text)
    except ValueError as error:
        raise StudyError(f"{key}={text}: not of type {kind.__name__}, like {like}") from error
