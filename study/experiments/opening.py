"""From what the command line says to a study with its data."""

from pathlib import Path

from study.data.datasets.registry import labels_of, prepare
from study.data.patches.schema import SPLITS
from study.devices import check_processes
from study.errors import StudyError, notice
from study.experiments.presets import Preset, check_study_name, find_preset, override, study_name
from study.experiments.trials import Study
from study.tasks.labels import IGNORE


def open_study(
    preset_name: str,
    data: Path | None,
    settings: list[str],
    name: str | None,
    root: Path,
    devices: int,
    make: bool = True,
) -> Study:
    """The study that a command is about: a preset, changed by ``--set``, on its data, which are made if need be.

    Args:
        preset_name, data, settings, name, root, devices: of the command line.
        make: the data, if they are not there yet; else the study has no store then.

    Raises:
        StudyError: if the data cannot be made, or are not the preset's and the study has no name of its own; see also
            :func:`changed_preset` and :func:`~study.devices.check_processes`.

    Warns:
        StudyNotice: naming the training, validation or test patches, if they have no foreground.
    """
    preset = changed_preset(preset_name, settings, name)
    check_processes(devices)
    batch_size = preset.recipe.batch_size
    if batch_size % devices:  # said here, before data are made and there are several processes to say it
        raise StudyError(f"a batch of {batch_size} cannot be shared by {devices} devices; --set batch_size")
    store = prepare(
        preset.source,
        data=data,
        folder=root / "data",
        size=preset.size,
        count=preset.patches,
        task=preset.task,
        make=make,
    )
    about = labels_of(preset.source, preset.task)
    if name is None and store is not None and about is not None and about.source != store.source:
        raise StudyError(
            f"{data} holds other data ({store.source}) than {preset_name} is about; give the study a --name"
        )
    study = Study(name or study_name(preset_name), preset, store, root)
    if store is not None:
        _warn_of_parts_without_foreground(study)
    return study


def changed_preset(preset_name: str, settings: list[str], name: str | None) -> Preset:
    """A preset, changed by ``--set``.

    Raises:
        StudyError: if a setting or the name is wrong, or the settings are not the preset's and there is no name.
    """
    preset = find_preset(preset_name)
    changed = override(preset, settings)
    if name is None and any(changed.trial_settings(m) != preset.trial_settings(m) for m in changed.models):
        raise StudyError(f"--set {' --set '.join(settings)} makes another study of {preset_name}; give it a --name")
    check_study_name(name)
    return changed


def _warn_of_parts_without_foreground(study: Study) -> None:
    has_foreground = study.store.has_foreground()
    splits = {(trial.fraction, trial.seed): study.split(trial) for trial in study.trials()}
    for part in SPLITS:
        lacking = [cell for cell, split in splits.items() if not has_foreground[getattr(split, part)].any()]
        if lacking:
            fraction, seed = lacking[0]
            where = f" at {100 * fraction:g} % of the data with seed {seed}" if len(lacking) < len(splits) else ""
            notice(
                f"{study.store.path} has no foreground in its {part} patches{where}; check the masks (0 is background, "
                f"{IGNORE} unlabelled), or split more cases"
            )
