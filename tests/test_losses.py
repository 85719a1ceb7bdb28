"""The losses against sums over pixels, one by one, and what they promise about batches, labels and constants."""

from itertools import product

import numpy as np
import pytest
import torch

from study.groups import P4M
from study.tasks.labels import IGNORE, label_counts
from study.tasks.losses import LOSSES, CrossEntropy, SoftDice

CHANNELS = [1, 2, 4]


def maps(channels: int, *, batch: int = 3, dtype=torch.float64, unlabelled: float = 0.2):
    """Random logits and a partly labelled mask; two classes are one channel or two."""
    logits = 2 * torch.randn(batch, channels, 8, 10, dtype=dtype)
    mask = torch.randint(0, max(2, channels), (batch, 1, 8, 10), dtype=torch.uint8)
    mask[torch.rand(mask.shape) < unlabelled] = IGNORE
    return logits, mask


def probability_by_hand(logits: torch.Tensor) -> np.ndarray:
    """Of every class, ``(B, C, H, W)``."""
    values = logits.numpy()
    if logits.shape[1] == 1:
        values = np.concatenate([np.zeros_like(values), values], axis=1)
    powers = np.exp(values)
    return powers / powers.sum(axis=1, keepdims=True)


def cross_entropy_by_hand(logits, mask) -> tuple[float, int]:
    p, truth = probability_by_hand(logits), mask[:, 0].numpy()
    places = [place for place in np.ndindex(truth.shape) if truth[place] != IGNORE]
    return -sum(np.log(p[b, truth[b, y, x], y, x]) for b, y, x in places), len(places)


def soft_dice_by_hand(logits, mask) -> tuple[float, int]:
    p, truth = probability_by_hand(logits), mask[:, 0].numpy()
    total, number = 0.0, 0
    for b, k in product(range(len(p)), range(1, p.shape[1])):
        labelled = truth[b] != IGNORE
        both = p[b, k][truth[b] == k].sum()
        total += 1 - (2 * both + 1) / (p[b, k][labelled].sum() + (truth[b] == k).sum() + 1)
        number += labelled.any()
    return total, number


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize(
    ("loss", "by_hand"), [(CrossEntropy(), cross_entropy_by_hand), (SoftDice(), soft_dice_by_hand)]
)
def test_losses_agree_with_sums_over_pixels_one_by_one(loss, by_hand, channels):
    logits, mask = maps(channels)
    mask[1] = IGNORE  # a patch that nobody labelled
    total, number = loss(logits, mask)
    expected = by_hand(logits, mask)
    assert float(total) == pytest.approx(expected[0], rel=1e-12)
    assert int(number) == expected[1]


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_one_channel_and_two_are_the_same_loss(loss):
    logits, mask = maps(1)
    two = torch.cat([torch.zeros_like(logits), logits], dim=1)
    for one, other in zip(loss(logits, mask), loss(two, mask), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_sums_and_numbers_add_up_over_batches_and_do_not_depend_on_the_orientation(loss, channels):
    logits, mask = maps(channels)
    whole = loss(logits, mask)
    parts = [loss(logits[n : n + 1], mask[n : n + 1]) for n in range(len(mask))]
    for place in range(2):
        torch.testing.assert_close(sum(part[place] for part in parts), whole[place], rtol=1e-12, atol=1e-12)
    for g in range(1, P4M.order):
        turned = loss(P4M.transform_image(logits, g), P4M.transform_image(mask, g))
        torch.testing.assert_close(turned[0], whole[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_the_gradient_is_that_of_the_labelled_pixels(loss, channels):
    logits, mask = maps(channels)
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits, mask)[0], logits)
    labelled = (mask != IGNORE).expand_as(gradient)
    assert (gradient[~labelled] == 0).all()
    assert (gradient[labelled] != 0).all()
    assert torch.autograd.gradcheck(lambda x: loss(x, mask)[0], logits)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_what_is_right_and_certain_costs_nothing(loss, channels):
    _, mask = maps(channels)
    classes = torch.arange(channels).view(1, -1, 1, 1) if channels > 1 else torch.ones(1, 1, 1, 1)
    logits = torch.where(mask == classes, 60.0, -60.0).double()
    total, number = loss(logits, mask)
    assert float(total / number) < 1e-12


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_half_precision_sums_as_many_pixels_as_there_are(loss):
    logits, mask = torch.zeros(1, 1, 320, 320, dtype=torch.bfloat16), torch.ones(1, 1, 320, 320, dtype=torch.uint8)
    exact = loss(logits.double(), mask)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert float(loss(logits, mask)[0]) == pytest.approx(float(exact), rel=1e-2)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_entropy_of_the_shares_is_the_lowest_loss_of_any_constant(classes):
    mask = maps(classes)[1]
    mask[0, :, :4] = 1  # classes are not alike
    counts = label_counts(mask, classes).numpy()
    labelled = mask[mask != IGNORE].long()
    candidates = np.random.default_rng(0).dirichlet(np.ones(classes), 4000)
    losses = [float(-np.log(p)[labelled].mean()) for p in candidates]
    found = CrossEntropy().of_best_constant(counts)
    assert found <= min(losses)
    assert found == pytest.approx(min(losses), rel=1e-2)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_best_constant_of_the_dice_names_one_class(channels):
    classes, (_, mask) = max(2, channels), maps(channels)
    mask[:2, :, :6] = 1
    losses = []
    for named in range(classes):
        logits = torch.full((3, channels, 8, 10), -200.0, dtype=torch.float64)
        if channels > 1:
            logits[:, named] = 200
        elif named == 1:
            logits[:] = 200
        total, number = SoftDice()(logits, mask)
        losses.append(float(total / number))
    assert SoftDice().of_best_constant(label_counts(mask, classes).numpy()) == pytest.approx(min(losses), rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_without_labels_there_is_no_constant_to_beat(loss):
    assert loss.of_best_constant(np.zeros((2, 3), int)) == 0


def unlabelled(mask):
    """The mask with its upper half unlabelled."""
    half = mask.clone()
    half[..., : mask.shape[-2] // 2, :] = IGNORE
    return half


def test_the_loss_is_of_the_labelled_pixels_alone():
    logits, mask = torch.randn(3, 1, 8, 8, requires_grad=True), torch.randint(0, 2, (3, 1, 8, 8), dtype=torch.uint8)
    loss, count = CrossEntropy()(logits, unlabelled(mask))
    assert count == mask.numel() / 2
    lower = torch.nn.functional.binary_cross_entropy_with_logits(
        logits[..., 4:, :], mask[..., 4:, :].float(), reduction="sum"
    )
    torch.testing.assert_close(loss, lower)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[..., :4, :] == 0).all()
    assert (gradient[..., 4:, :] != 0).all()


def test_a_batch_without_a_label_has_no_loss():
    loss, count = CrossEntropy()(torch.randn(1, 1, 4, 4), torch.full((1, 1, 4, 4), IGNORE, dtype=torch.uint8))
    assert loss / count.clamp(min=1) == 0


def test_with_every_pixel_labelled_it_is_the_mean():
    logits, mask = torch.randn(3, 1, 8, 8), torch.randint(0, 2, (3, 1, 8, 8), dtype=torch.uint8)
    loss, count = CrossEntropy()(logits, mask)
    torch.testing.assert_close(loss / count, torch.nn.functional.binary_cross_entropy_with_logits(logits, mask.float()))
