"""What a study found: its records, and all that its tables and figures are made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from study.experiments.records import Trial, diverged_trials, record_files, results_folder
from study.experiments.saved_maps import load_stability_maps, maps_path
from study.report.claims import claim_rows
from study.report.contrasts import contrast_rows
from study.report.costs import cost_rows, read_updates
from study.report.measures import class_rows, measure_rows
from study.report.records import caption, epoch_rows, load_records, trial_rows
from study.report.summary import has_escnn, implementation_rows, summary_rows
from study.report.worth import worth_rows

FURTHER_TASKS = {"ebhi-cancer": ("ebhi-glands", "nuclei")}
"""Studies whose contrasts are tested together with those of another, and whose claims stand beside its own."""


@dataclass(frozen=True, eq=False)
class StudyResults:
    """The records of a study, and what follows from them, each computed when it is first asked for.

    Attributes:
        name: of the study.
        records: of its trials that did not diverge, all of one study; some may be missing yet.
        further: the records of further tasks, by task (:data:`FURTHER_TASKS`).
        answered_elsewhere: whether its contrasts and claims stand beside those of another study.
        diverged: the trials that are not in the records for that reason.
        maps_file: of its stability maps; there need not be one.
        updates: the times of its networks, measured in turn (:func:`~study.report.costs.read_updates`).
    """

    name: str
    records: Sequence[dict]
    further: Mapping[str, Sequence[dict]] = field(default_factory=dict)
    answered_elsewhere: bool = False
    diverged: Sequence[Trial] = ()
    maps_file: Path | None = None
    updates: pd.DataFrame | None = None

    @property
    def tasks(self) -> dict[str, Sequence[dict]]:
        """The records by task, its own first."""
        return {_task(self.name, self.records): self.records, **self.further}

    @cached_property
    def caption(self) -> str:
        """What the numbers are about."""
        return caption(self.records)

    @cached_property
    def trials(self) -> pd.DataFrame:
        """See :func:`~study.report.records.trial_rows`."""
        return trial_rows(self.records)

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """See :func:`~study.report.records.epoch_rows`."""
        return epoch_rows(self.records)

    @cached_property
    def summary(self) -> pd.DataFrame:
        """See :func:`~study.report.summary.summary_rows`."""
        return summary_rows(self.records)

    @cached_property
    def measures(self) -> pd.DataFrame:
        """See :func:`~study.report.measures.measure_rows`."""
        return measure_rows(self.records)

    @cached_property
    def classes(self) -> pd.DataFrame:
        """See :func:`~study.report.measures.class_rows`."""
        return class_rows(self.records)

    @cached_property
    def costs(self) -> pd.DataFrame:
        """See :func:`~study.report.costs.cost_rows`."""
        return cost_rows(self.records, self.updates)

    @cached_property
    def worth(self) -> pd.DataFrame:
        """See :func:`~study.report.worth.worth_rows`."""
        return worth_rows(self.records, self.measures, self.costs)

    @cached_property
    def contrasts(self) -> pd.DataFrame:
        """See :func:`~study.report.contrasts.contrast_rows`; empty where they stand beside another study's."""
        return contrast_rows({} if self.answered_elsewhere else self.tasks)

    @cached_property
    def claims(self) -> pd.DataFrame:
        """See :func:`~study.report.claims.claim_rows`; empty where they stand beside another study's."""
        return claim_rows({} if self.answered_elsewhere else self.tasks)

    @cached_property
    def implementations(self) -> pd.DataFrame | None:
        """See :func:`~study.report.summary.implementation_rows`; None without a trial on escnn and its twin."""
        return implementation_rows(self.records) if has_escnn(self.records) else None

    @cached_property
    def maps(self) -> dict[str, np.ndarray] | None:
        """See :func:`~study.experiments.saved_maps.load_stability_maps`; None without maps of the same data.

        Raises:
            StudyError: if the file is damaged.
        """
        if self.maps_file is None or not self.maps_file.is_file():
            return None
        maps = load_stability_maps(self.maps_file)
        return maps if maps["fingerprint"] == self.records[0]["data"]["fingerprint"] else None


def read_study(root: Path | str, name: str) -> StudyResults:
    """What is in ``results/<name>`` below a folder; needs neither data nor networks.

    Raises:
        StudyError: if there are no results, or they are damaged.
    """
    root = Path(root)
    folder = results_folder(root, name)
    further = {}
    for other in FURTHER_TASKS.get(name, ()):
        if record_files(results_folder(root, other)):
            found = load_records(results_folder(root, other))
            further[_task(other, found)] = found
    records = load_records(folder)
    return StudyResults(
        name,
        records,
        further,
        answered_elsewhere=any(name in others for others in FURTHER_TASKS.values()),
        diverged=diverged_trials(folder),
        maps_file=maps_path(root, name),
        updates=read_updates(folder, records),
    )


def _task(name: str, records: Sequence[dict]) -> str:
    return records[0]["settings"].get("task") or name
