"""Synthetic patches: reproducible, well formed, and without a preferred direction."""

import numpy as np
import pytest
from data_helpers import assert_refused

from study.data.synthetic import synthetic_patches


def draw(count, size=32, *, seed=0, **options):
    return list(synthetic_patches(count, size, seed=seed, **options))


def assert_same(patches, others):
    for patch, other in zip(patches, others, strict=True):
        assert (patch.case, patch.slide) == (other.case, other.slide)
        np.testing.assert_array_equal(patch.image, other.image)
        np.testing.assert_array_equal(patch.mask, other.mask)


@pytest.mark.parametrize("size", [16, 33, 64])
def test_patches_are_rgb_bytes_with_a_binary_mask(size):
    patches = draw(12, size)
    for patch in patches:
        assert (patch.image.shape, patch.mask.shape) == ((size, size, 3), (size, size))
        assert patch.image.dtype == patch.mask.dtype == np.uint8
        assert set(np.unique(patch.mask)) <= {0, 1}
        assert patch.image.std() > 1  # something is drawn


def test_the_same_seed_draws_the_same_patches():
    assert_same(draw(10, seed=5), draw(10, seed=5))


def test_a_longer_run_begins_with_the_patches_of_a_shorter_one():
    assert_same(draw(11), draw(20)[:11])


def test_seeds_cases_and_patches_all_differ():
    images = [patch.image.tobytes() for seed in range(3) for patch in draw(17, 16, seed=seed)]
    assert len(set(images)) == len(images)


@pytest.mark.parametrize(("per_case", "cases"), [(8, [0] * 8 + [1] * 2), (3, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3])])
def test_cases_are_whole_and_called_synthetic(per_case, cases):
    patches = draw(10, 16, patches_per_case=per_case)
    assert [patch.case for patch in patches] == [f"synthetic-{case:05d}" for case in cases]


def test_patches_are_drawn_one_by_one():
    patches = synthetic_patches(10**9, 16, seed=0)
    assert_same([next(patches), next(patches)], draw(2, 16))


@pytest.mark.parametrize("size", [32, 64])
def test_some_patches_hold_tumour_some_none_and_most_of_the_former_both_classes(size):
    shares = np.array([patch.mask.mean() for patch in draw(60, size)])
    assert 10 < (shares == 0).sum() < 50
    assert ((shares > 0) & (shares < 1)).sum() > 20
    assert 0.1 < shares.mean() < 0.7


@pytest.mark.parametrize("size", [32, 64])
def test_no_direction_is_preferred(size):
    images = np.stack([patch.image for patch in draw(40, size, seed=1)]).astype(float)
    down, right = (np.abs(np.diff(images, axis=axis)).mean() for axis in (1, 2))
    assert right / down == pytest.approx(1, abs=0.1)  # over six seeds it is within 0.03


@pytest.mark.parametrize(
    ("name", "value", "minimum"),
    [("count", 0, 1), ("count", -3, 1), ("size", 15, 16), ("size", 0, 16), ("patches_per_case", 0, 1)],
)
def test_arguments_below_their_minimum_are_refused_at_the_call(name, value, minimum):
    with assert_refused(f"{name} is {value}", f"at least {minimum}"):
        synthetic_patches(**{"count": 4, "size": 32, "seed": 0, name: value})
