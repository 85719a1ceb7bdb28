"""From sums over pixels to measures, without torch: tables and figures compute them from records."""

import numpy as np


def dice(tp, fp, fn):
    """``2 TP / (2 TP + FP + FN)`` from counts of pixels (numbers or arrays); 1 where nothing is there or found."""
    return _share(2 * np.asarray(tp), 2 * np.asarray(tp) + fp + fn)


def mean_dice(sums):
    """The mean over K classes of their Dice, of counts ``(..., 3 * K)``: tp, fp and fn of the first, then the next."""
    sums = np.asarray(sums)
    tp, fp, fn = np.moveaxis(sums.reshape(*sums.shape[:-1], -1, 3), -1, 0)  # each (..., K)
    return dice(tp, fp, fn).mean(axis=-1)


def iou(tp, fp, fn):
    """``TP / (TP + FP + FN)`` from counts of pixels (numbers or arrays); 1 where nothing is there or found."""
    return _share(np.asarray(tp), np.asarray(tp) + fp + fn)


def boundary_dice(decision, decision_hit, truth, truth_hit):
    """The share of both boundaries that is near the other, from :func:`~study.tasks.measures.boundary_counts`.

    It is 1 where there is neither.
    """
    return _share(np.asarray(decision_hit) + truth_hit, np.asarray(decision) + truth)


def calibration_error(pixels, probability, foreground) -> float:
    """The ECE from the sums of :func:`~study.tasks.measures.reliability`, each ``(BINS,)``; NaN without pixels."""
    difference = np.abs(np.asarray(probability) - foreground).sum()
    return float(difference / np.sum(pixels)) if np.sum(pixels) else np.nan


def _share(part, whole):
    return np.where(whole > 0, part / np.maximum(whole, 1), 1.0)
