"""Which patches of a store a trial trains on, is watched on, and is tested on.

Two designs. ``stored``, the paper's: one split for all seeds, written in the store; a data regime is a share of the
*patches*. ``folds``, for few patients: every seed has a split of its own, and a data regime is a share of the
*patients*, as a small share of the patches would still show half of them. In both, no patient is in two parts, and the
smaller regimes are inside the larger ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from study.data.patches.schema import TEST, TRAIN, VALIDATION
from study.data.patches.store import PatchStore
from study.errors import StudyError

FOLDS = 10
"""Of the patients that are tested; ten seeds in a row test each of them once."""


@dataclass(frozen=True)
class Split:
    """The patches of each part, by their places in the store, ascending."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split(design: str, store: PatchStore, fraction: float, seed: int) -> Split:
    """The patches of one trial.

    Args:
        design: a key of :data:`DESIGNS`.
        store: the patches.
        fraction: of the training patches or patients, above 0 and up to 1.
        seed: of the trial.

    Raises:
        StudyError: if a part would be empty.
    """
    return DESIGNS[design](store, fraction, seed)


def stored_split(store: PatchStore, fraction: float, seed: int) -> Split:
    """As the store says; trained on a random ``fraction`` of its training patches, drawn by ``seed``."""
    training = store.indices(TRAIN)
    count = max(1, round(fraction * len(training)))
    regime = np.sort(np.random.default_rng(seed).permutation(training)[:count])
    return Split(regime, store.indices(VALIDATION), store.indices(TEST))


def fold_split(store: PatchStore, fraction: float, seed: int) -> Split:
    """Cross-validation by patient.

    A tenth of the patients is the validation set of every seed, and is never trained on nor tested: what is chosen by
    it has seen no test patient. The others are in ten folds; seed ``s`` tests on fold ``s % 10`` and trains on a
    ``fraction`` of the patients in the other nine. Every ten seeds there is another partition into folds. Parts and
    regimes are stratified: patients are ordered by their foreground, and each part takes from all along the order.

    Raises:
        StudyError: if there are fewer than 20 patients.
    """
    cases = _by_foreground(store)
    if len(cases) < 2 * FOLDS:
        needed = f"folds by case need at least {2 * FOLDS}; take the split of the store, --set design=stored"
        raise StudyError(f"{store.path} has {len(cases)} cases; {needed}")
    validation = _deal(cases, FOLDS, [0]) == 0
    others = cases[~validation]
    test = _deal(others, FOLDS, [1, seed // FOLDS]) == seed % FOLDS
    training = others[~test]
    turn = _deal(training, 8, [2, seed])  # each eighth is stratified, and so are the paper's regimes
    order = np.lexsort([np.random.default_rng([3, seed]).random(len(training)), turn])
    regime = training[order[: max(1, round(fraction * len(training)))]]
    return Split(*(np.flatnonzero(np.isin(store.case, part)) for part in (regime, cases[validation], others[test])))


DESIGNS = {"stored": stored_split, "folds": fold_split}


def _by_foreground(store: PatchStore) -> np.ndarray:
    """The cases from the most foreground pixels to the fewest; of those without any, from the most patches."""
    table = pd.DataFrame({"case": store.case, "foreground": store.foreground(), "patches": 1})
    sums = table.groupby("case").sum().sort_values(["foreground", "patches"], ascending=False, kind="stable")
    return sums.index.to_numpy()


def _deal(cases: np.ndarray, parts: int, seed: Sequence[int]) -> np.ndarray:
    """Of each case the part, 0 to ``parts - 1``: of every ``parts`` neighbours in the order, each part has one."""
    generator = np.random.default_rng(seed)
    rounds = -(-len(cases) // parts)
    return np.concatenate([generator.permutation(parts) for _ in range(rounds)])[: len(cases)]


def split_by_case(cases: Sequence[str], *, seed: int, parts: Sequence[float] = (0.8, 0.1, 0.1)) -> dict[str, str]:
    """Assign every case to "train", "validation" or "test", whole, so that no patient is in two of them.

    Args:
        cases: the case of each patch.
        seed: of the shuffle.
        parts: the share of patches for train, validation and test (8:1:1 in the paper); that of validation and
            of test is exceeded by less than one case.

    Raises:
        StudyError: if there are fewer than three cases.
    """
    names, counts = np.unique(np.asarray(cases), return_counts=True)
    if len(names) < 3:
        raise StudyError(f"{len(names)} case(s) cannot be split into train, validation and test; give at least three")
    order = np.random.default_rng(seed).permutation(len(names))
    wanted = {TEST: parts[2] * len(cases), VALIDATION: parts[1] * len(cases)}
    split = {}
    remaining = list(order)
    for (part, target), kept_back in zip(wanted.items(), (2, 1), strict=True):  # a case for each part still to fill
        filled = 0
        while filled < max(target, 1) and len(remaining) > kept_back:
            case = remaining.pop()
            split[str(names[case])] = part
            filled += counts[case]
    split.update({str(names[case]): TRAIN for case in remaining})
    return split
