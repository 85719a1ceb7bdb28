"""A patch store from slides: plan, extraction, manifest. It can be cut at any moment, and goes on."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import pandas as pd
from tqdm import tqdm

from study.data.extraction.cluster import extract_all
from study.data.extraction.one_slide import Scale, Task, read_rows
from study.data.extraction.sampling import SlideKind, draws, split_slides
from study.data.patches.manifest import (
    is_extraction,
    manifest_path,
    read_recipe,
    write_manifest,
    write_recipe,
)
from study.data.patches.schema import patches_fingerprint
from study.data.slides.annotations import GROUPS, Groups
from study.data.slides.files import SlideFiles
from study.errors import StudyError
from study.files import remove_half_written, require_space
from study.locks import only_one

VERSION = 1
"""Raised when the same slides and settings would give other patches."""


@dataclass(frozen=True)
class Extraction:
    """What came of an extraction.

    Attributes:
        folder: the patch store.
        patches: how many there are.
        failed: why, for every slide that failed.
        short: for every slide that has fewer patches than were drawn for it, how many fewer.
        notes: what is to be said of the annotations, for every slide of which there is something.
    """

    folder: Path
    patches: int
    failed: dict[str, str]
    short: dict[str, int]
    notes: dict[str, str]


@dataclass(frozen=True)
class Plan:
    """What to extract.

    Attributes:
        tasks: one for every slide that is at hand.
        recipe: what the store is made from, and is told from any other by.
    """

    tasks: list[Task]
    recipe: dict


def plan(
    slides: Sequence[SlideFiles],
    *,
    scale: Scale,
    patches: int,
    seed: int,
    source: str,
    missing: Iterable[SlideKind] = (),
    groups: Groups = GROUPS,
    tiff_masks: bool = False,
    slide_mpp: float | None = None,
) -> Plan:
    """What to extract by the paper's sampling: ``patches`` in all.

    Args:
        slides: of the study; what one gives depends on the others only by their names and kinds.
        scale: how patches are cut.
        patches: how many in all.
        seed: of the split and of the draws.
        source: what the slides are, for people.
        missing: slides that belong to the study but cannot be used yet. They have their place in the plan, so that what
            is extracted stays as it is when they are mended.
        groups: what the names of groups and classes in annotations mean.
        tiff_masks: take the tumour from the mask TIFFs, not from the annotations.
        slide_mpp: micrometres per pixel of level 0 of all slides, whatever they say.

    Raises:
        StudyError: if there are no slides, or a slide lacks the mask that is asked for.
    """
    kinds = [*(SlideKind(s.name, s.tumour, s.partial) for s in slides), *missing]
    split, wanted = split_slides(kinds, seed=seed), draws(kinds, patches=patches, seed=seed)
    tasks = [
        _task(
            s,
            split=split[s.name],
            scale=scale,
            slide_mpp=slide_mpp,
            seed=seed,
            wanted=wanted[s.name],
            groups=groups,
            tiff_masks=tiff_masks,
        )
        for s in _sorted(slides)
    ]
    recipe = {
        "source": source,
        "version": VERSION,
        "patch_size": scale.patch_size,
        "scale": asdict(scale),
        "seed": seed,
        "patches": patches,
        "masks": "tiff" if tiff_masks else "outlines",
        "slides": {name: [split[name], *wanted[name]] for name in sorted(split)},
    }
    return Plan(tasks, recipe)


def plan_again(
    slides: Sequence[SlideFiles],
    manifest: pd.DataFrame,
    *,
    source: str,
    problems: Mapping[str, str] = MappingProxyType({}),
    groups: Groups = GROUPS,
    tiff_masks: bool = False,
    slide_mpp: float | None = None,
) -> Plan:
    """What to extract so that the patches are the identical ones of a manifest.

    Args:
        problems: why slides of the folder cannot be used.

    Raises:
        StudyError: if the folder lacks a slide of the manifest, or it cannot be used, or ``tiff_masks`` lack its mask.
    """
    files = {s.name: s for s in slides}
    rows_of = dict(list(manifest.groupby("slide")))
    if missing := sorted(rows_of.keys() - files.keys()):
        reason = problems.get(missing[0], "it is not in the folder; get it")
        raise StudyError(f"the manifest needs the slide {missing[0]}: {reason}")
    tasks = []
    for s in _sorted([files[name] for name in rows_of]):
        rows = rows_of[s.name]
        scale = Scale(int(rows.patch_size.iloc[0]), magnification=None, mpp=rows.mpp.iloc[0])
        positions = tuple(zip(rows.x.tolist(), rows.y.tolist(), rows.hash.tolist(), strict=True))
        split = rows.split.iloc[0]
        options = {"split": split, "scale": scale, "slide_mpp": slide_mpp, "positions": positions, "groups": groups}
        tasks.append(_task(s, tiff_masks=tiff_masks, **options))
    recipe = {
        "source": source,
        "version": VERSION,
        "patch_size": tasks[0].scale.patch_size,
        "masks": "tiff" if tiff_masks else "outlines",
        "manifest": patches_fingerprint(manifest.slide + manifest.split + manifest.hash),
    }
    return Plan(tasks, recipe)


def extract_store(folder: Path, plan: Plan, *, workers: int = 2, scheduler: str | None = None) -> Extraction:
    """Extract patches into ``folder``, a patch store (see :mod:`study.data.patches.manifest`), or go on with that.

    Args:
        folder: where the store is, or will be.
        plan: of :func:`plan` or :func:`plan_again`.
        workers, scheduler: see :func:`~study.data.extraction.cluster.extract_all`.

    Raises:
        StudyError: if there is nothing to extract, ``folder`` holds another extraction, another process extracts to it,
            or no scheduler answers.
    """
    if not plan.tasks:
        raise StudyError("no slides to extract from; check the folder and --slides")
    folder = folder.absolute()  # workers elsewhere have another working directory
    with only_one(folder, "extracts to"):
        return _extract(folder, plan, workers, scheduler)


def _extract(folder: Path, plan: Plan, workers: int, scheduler: str | None) -> Extraction:
    tasks = plan.tasks
    if is_extraction(folder):
        _check_same(folder, plan.recipe)
    write_recipe(folder, plan.recipe)
    remove_half_written(folder / "slides")
    rows = {task.name: found for task in tasks if (found := read_rows(folder, task)) is not None}
    todo = [task for task in tasks if task.name not in rows]
    needed = sum(task.count * task.scale.patch_size**2 * 4 for task in todo)  # bytes: RGB, and the mask
    (folder / "slides").mkdir(exist_ok=True)
    require_space(folder / "slides", needed)
    with tqdm(total=len(tasks), initial=len(rows), desc="slides", unit="slide", disable=None, leave=False) as bar:
        made, failed = extract_all(todo, folder, workers=workers, scheduler=scheduler, done=bar.update)
    rows |= made
    rows |= {t.name: found for t in todo if t.name in failed and (found := read_rows(folder, t)) is not None}
    failed = {name: reason for name, reason in failed.items() if name not in rows}  # done, only nobody was told
    tables = [rows[task.name] for task in tasks if task.name in rows and len(rows[task.name])]
    if tables:
        write_manifest(folder, pd.concat(tables))
    else:
        manifest_path(folder).unlink(missing_ok=True)
    lacking = {task.name: task.count - len(rows[task.name]) for task in tasks if task.name in rows}
    return Extraction(
        folder,
        patches=sum(map(len, tables)),
        failed=failed,
        short={name: n for name, n in lacking.items() if n > 0},
        notes={name: table.attrs["notes"] for name, table in sorted(rows.items()) if table.attrs["notes"]},
    )


def _check_same(folder: Path, recipe: dict) -> None:
    """Make sure that going on in a folder costs nothing that was done, but for slides that were mended since."""
    found = read_recipe(folder)
    differing = sorted(key for key in found.keys() | recipe.keys() if found.get(key) != recipe.get(key))
    if differing == ["slides"] and found["slides"].keys() == recipe["slides"].keys():
        return  # one of them turned out to be of the other kind; what that changes is made again
    if differing and any((folder / "slides").glob("[!.]*.h5")):
        raise StudyError(f"{folder} holds another extraction: its {', '.join(differing)} differ; choose another folder")


def _task(slide: SlideFiles, *, tiff_masks: bool, seed: int = 0, **plan) -> Task:
    if tiff_masks and slide.tumour and slide.mask is None:
        raise StudyError(f"{slide.name} has no mask TIFF ({slide.name}_mask.tif); get it, or use the annotations")
    return Task(
        name=slide.name,
        slide=slide.path,
        annotation=None if tiff_masks else slide.annotation,
        mask=slide.mask if tiff_masks else None,
        partial=slide.partial,
        seed=seed,
        **plan,
    )


def _sorted(slides: Sequence[SlideFiles]) -> list[SlideFiles]:
    return sorted(slides, key=lambda s: s.name)
