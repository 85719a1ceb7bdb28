"""From what the command line says to a study with its data."""

from pathlib import Path

from study.data.datasets.registry import labels_of, prepare
from study.errors import StudyError
from study.experiments.presets import check_study_name, find_preset, override, study_name
from study.experiments.trials import Study


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
        StudyError: if a setting or the name is wrong, the data cannot be made, or they or the settings are not the
            preset's and the study has no name of its own.
    """
    preset = find_preset(preset_name)
    changed = override(preset, settings)
    if name is None and any(changed.trial_settings(m) != preset.trial_settings(m) for m in changed.models):
        raise StudyError(f"--set {' --set '.join(settings)} makes another study of {preset_name}; give it a --name")
    check_study_name(name)
    batch_size = changed.recipe.batch_size
    if batch_size % devices:  # said here, before data are made and there are several processes to say it
        raise StudyError(f"a batch of {batch_size} cannot be shared by {devices} devices; --set batch_size")
    store = prepare(
        changed.source,
        data=data,
        folder=root / "data",
        size=changed.size,
        count=changed.patches,
        task=preset.task,
        make=make,
    )
    about = labels_of(preset.source, preset.task)
    if name is None and store is not None and about is not None and about.source != store.source:
        raise StudyError(
            f"{data} holds other data ({store.source}) than {preset_name} is about; give the study a --name"
        )
    return Study(name or study_name(preset_name), changed, store, root)
