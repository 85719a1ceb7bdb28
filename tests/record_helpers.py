"""Records of trials that nobody trained: their Dice follows from counts that a test chooses."""

import numpy as np

from study.report.results import StudyResults


def record(model, fraction, seed, cases, **metrics) -> dict:
    """A record with a Dice that follows from its counts."""
    tp, fp, fn = np.array(list(cases.values())).sum(axis=0)
    numbers = {
        "dice": 2 * tp / (2 * tp + fp + fn),
        "dice_per_patch": 0.5,
        "deviation": 0.1,
        "deviation_max": 0.2,
        "changed": 0.01,
        "parameters": 1000,
        "training_patches": 10,
        "test_patches": 4,
    }
    return {
        "trial": {"model": model, "fraction": fraction, "seed": seed},
        "settings": {"source": "ebhi", "size": 80, "width": 8, "epochs": 2, "batches_per_epoch": 3, "batch_size": 4},
        "data": {"source": "EBHI-SEG", "fingerprint": "0123"},
        "metrics": numbers | metrics,
        "case_columns": ["tp", "fp", "fn"],
        "cases": cases,
        "history": [],
        "provenance": {"command": "python -m study"},
    }


# cases differ much from each other, and the two models little on each: what a paired interval is for
CASES = {f"case {n}": [100, 5 * n, 5 * n] for n in range(12)}
WORSE = {case: [tp - 5, fp + 5, fn + 5] for case, (tp, fp, fn) in CASES.items()}


def scaled(cases: dict, *, errors: int) -> dict:
    """The same cases with more errors (or fewer) in each."""
    return {case: [tp - errors, fp + errors, fn + errors] for case, (tp, fp, fn) in cases.items()}


def own_cases(seed: int, cases: dict) -> dict:
    """Cases of this seed alone: a nested design."""
    return {f"{case} of seed {seed}": counts for case, counts in cases.items()}


def results_of(**tasks: list[dict]) -> StudyResults:
    """What was found on each task, the study's own first."""
    (name, records), *further = tasks.items()
    return StudyResults(name, records, dict(further))
