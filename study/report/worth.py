"""Is it worth it? What every network gains over the cheapest one of the paper, on the same patients, and its price.

Not values are compared, but differences to one reference, the augmented U-Net on the smallest data regime, and all of
them over the same seeds (:func:`~study.report.records.on_same_seeds`).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from study.networks.models import NATIVE_MODELS
from study.report.contrasts import BASELINE, Cell, find
from study.report.records import on_same_seeds

TTA = "tta_"


def reference(records: Sequence[dict]) -> Cell | None:
    """The augmented U-Net on the smallest data regime that it was trained on; None if it was not trained."""
    fractions = [r["trial"]["fraction"] for r in records if r["trial"]["model"] == BASELINE]
    return Cell(BASELINE, min(fractions)) if fractions else None


def worth_rows(records: Sequence[dict], measures: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
    """One row per network from scratch and data regime, and of the augmented U-Net one more with TTA.

    Columns: ``model``, ``reading``, ``fraction``, ``training_cases``, ``parameters``, ``multiplications``, ``seconds``,
    ``seeds`` (the same for all), and ``gain``, ``gain_low`` and ``gain_high``: its Dice above that of
    the :func:`reference`, in points, with the paired interval over seeds and cases. Cells of too few seeds have no row.
    Empty without a reference.

    Args:
        records: of the study.
        measures, costs: their :func:`~study.report.measures.measure_rows` and :func:`~study.report.costs.cost_rows`.

    Raises:
        StudyError: if networks of one seed were tested on different cases.
    """
    records = on_same_seeds([record for record in records if record["trial"]["model"] in NATIVE_MODELS])
    start, rows = reference(records), []
    cells = measures.merge(costs, on=["model", "reading"])
    cells = cells[(cells.reading == "") | (cells.model == BASELINE)]
    for cell in cells.itertuples() if start else ():
        found = find(records, [Cell(cell.model, cell.fraction, cell.reading)], [start])
        if found is None:
            continue
        own = Cell(cell.model, cell.fraction, cell.reading) == start
        rows.append(
            {
                **{name: getattr(cell, name) for name in ("model", "reading", "fraction", "training_cases")},
                **{name: getattr(cell, name) for name in ("parameters", "multiplications", "seconds")},
                "seeds": found.seeds,
                "gain": found.estimate,
                "gain_low": np.nan if own else found.low,
                "gain_high": np.nan if own else found.high,
            }
        )
    return pd.DataFrame(rows)
