import copy
import re
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from study.data.patches.loading import PatchDataset
from study.data.patches.splits import stored_split
from study.errors import StudyError, StudyNotice
from study.experiments import training
from study.experiments.training import Trained, roto_reflect, shared_loader, train, validate
from study.groups import P4M
from study.tasks.labels import IGNORE
from study.unet import build_unet


def run(recipe, store, fabric, folder, **kwargs):
    settings = {"fraction": 1.0, "seed": 0, **kwargs}
    parts = stored_split(store, settings.pop("fraction"), settings["seed"])
    return train(recipe, settings.pop("model", "unet"), store, parts, fabric=fabric, folder=folder, **settings)


def same_weights(a, b) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(recipe, store, fabric, tmp_path):
    first, again = (run(recipe, store, fabric, tmp_path / name).network for name in ("a", "b"))
    other = run(recipe, store, fabric, tmp_path / "c", seed=1).network
    assert same_weights(first, again)
    assert not same_weights(first, other)


def test_the_seconds_of_an_epoch_are_kept_to_hundredths(recipe, store, fabric, tmp_path, monkeypatch):
    clock = SimpleNamespace(perf_counter=count(step=1.234).__next__)  # asked as an epoch begins, and as it ends
    monkeypatch.setattr(training, "time", clock)
    assert [row["seconds"] for row in run(recipe, store, fabric, tmp_path).history] == [1.23, 1.23]


def test_loading_with_workers_changes_nothing(recipe, store, fabric, tmp_path):
    alone = run(recipe, store, fabric, tmp_path / "a").network
    helped = run(recipe, store, fabric, tmp_path / "b", workers=2).network
    assert same_weights(alone, helped)


@pytest.mark.parametrize("schedule", ["plateau", "cosine"])
def test_a_training_that_was_cut_goes_on_as_if_it_had_not_been(recipe, store, fabric, tmp_path, schedule):
    recipe = replace(recipe, epochs=4, patience=0, schedule=schedule)
    whole = run(recipe, store, fabric, tmp_path / "whole", model="unet-aug")

    def cut(row):
        if row["epoch"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(recipe, store, fabric, tmp_path / "cut", model="unet-aug", log=cut)
    rest = []
    resumed = run(recipe, store, fabric, tmp_path / "cut", model="unet-aug", log=rest.append)
    assert [row["epoch"] for row in rest] == [2, 3]
    assert same_weights(whole.network, resumed.network)
    for key in ("train_loss", "validation_loss", "validation_dice", "learning_rate"):
        assert [row[key] for row in whole.history] == [row[key] for row in resumed.history]


def test_what_is_left_of_other_settings_is_neither_resumed_nor_destroyed(recipe, store, fabric, tmp_path):
    run(recipe, store, fabric, tmp_path)
    left = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(StudyError, match="another --name"):
        run(replace(recipe, epochs=3), store, fabric, tmp_path)
    assert (tmp_path / "last.pt").read_bytes() == left


@pytest.mark.parametrize("state", [[1, 2], {"settings": {}}])
def test_a_state_of_another_kind_is_started_over(recipe, store, fabric, tmp_path, state):
    torch.save(state, tmp_path / "last.pt")
    with pytest.warns(StudyNotice, match="starts from the beginning"):
        assert len(run(recipe, store, fabric, tmp_path).history) == recipe.epochs


def test_a_damaged_state_is_started_over(recipe, store, fabric, tmp_path):
    (tmp_path / "last.pt").write_bytes(b"not a checkpoint")
    with pytest.warns(StudyNotice, match="starts from the beginning"):
        assert len(run(recipe, store, fabric, tmp_path).history) == recipe.epochs


def test_the_weights_of_the_lowest_validation_loss_are_returned_not_the_last(
    recipe, store, fabric, tmp_path, monkeypatch
):
    losses = iter([0.5, 0.2, 0.9, 0.8])
    seen = []

    def fake_validate(network, batches, fabric, task):
        seen.append(copy.deepcopy(network.state_dict()))
        return {"validation_loss": next(losses), "validation_dice": 0.5}

    monkeypatch.setattr(training, "validate", fake_validate)
    trained = run(replace(recipe, epochs=4), store, fabric, tmp_path)
    assert trained.epoch == 1
    returned = trained.network.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(returned, seen[1].values(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(returned, seen[3].values(), strict=True))


def test_the_learning_rate_is_halved_after_the_patience_is_over(recipe, store, fabric, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "validate", lambda *_: {"validation_loss": 1.0, "validation_dice": 0.0})
    history = run(replace(recipe, epochs=6, patience=2), store, fabric, tmp_path).history
    assert [row["learning_rate"] for row in history] == [1e-3, 1e-3, 1e-3, 1e-3, 5e-4, 5e-4]


def test_the_cosine_anneals_the_learning_rate_batch_by_batch_and_the_last_weights_are_returned(
    recipe, store, fabric, tmp_path, monkeypatch
):
    losses, rates, seen, step = iter([0.1, 0.2, 0.9]), [], [], torch.optim.Adam.step

    def watched(self, closure=None):
        rates.append(self.param_groups[0]["lr"])
        return step(self, closure)

    def fake_validate(network, batches, fabric, task):
        seen.append(copy.deepcopy(network.state_dict()))
        return {"validation_loss": next(losses), "validation_dice": 0.5}

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    monkeypatch.setattr(training, "validate", fake_validate)
    trained = run(replace(recipe, epochs=3, schedule="cosine"), store, fabric, tmp_path)
    batches = 3 * recipe.batches_per_epoch
    np.testing.assert_allclose(rates, [5e-4 * (1 + np.cos(np.pi * n / batches)) for n in range(batches)], atol=1e-9)
    assert trained.epoch == 2
    assert all(torch.equal(a, b) for a, b in zip(trained.network.state_dict().values(), seen[-1].values(), strict=True))


def test_every_data_regime_gets_the_same_number_of_updates(recipe, store, fabric, tmp_path, monkeypatch):
    steps, step = [], torch.optim.Adam.step

    def counted(self, closure=None):
        steps.append(1)
        return step(self, closure)

    monkeypatch.setattr(torch.optim.Adam, "step", counted)
    for fraction in (0.125, 1.0):
        run(recipe, store, fabric, tmp_path / str(fraction), fraction=fraction)
    assert len(steps) == 2 * recipe.epochs * recipe.batches_per_epoch


def test_training_lowers_the_loss(recipe, store, fabric, tmp_path):
    history = run(replace(recipe, epochs=6, batches_per_epoch=8), store, fabric, tmp_path, model="p4m").history
    assert history[-1]["train_loss"] < 0.9 * history[0]["train_loss"]


def test_the_loss_of_the_best_constant_is_that_on_the_patches_of_the_epoch(recipe, fabric):
    class Blank(torch.nn.Module):
        def forward(self, x):
            return torch.zeros_like(x[:, :1], requires_grad=True)

    masks = torch.randint(0, 2, (12, 1, 4, 4), dtype=torch.uint8)
    masks[:, :, :1] = IGNORE
    batches = [(torch.zeros(4, 3, 4, 4, dtype=torch.uint8), masks[n : n + 4]) for n in (0, 4, 8)]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    schedule = training._schedule(recipe, optimizer)
    found = training._train_epoch(Blank(), optimizer, schedule, batches, fabric, None)[1]
    labelled = masks[masks != IGNORE].double()
    constants = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    losses = [torch.nn.functional.binary_cross_entropy(c.expand_as(labelled), labelled) for c in constants]
    assert found == pytest.approx(float(min(losses)), abs=1e-5)
    assert found <= float(min(losses))


@pytest.mark.parametrize(("loss", "diverged"), [(0.6, False), (0.61, True), (float("nan"), True)])
def test_a_training_that_ends_worse_than_a_constant_has_diverged(loss, diverged):
    history = [{"train_loss": 0.1, "constant_loss": 0.6}, {"train_loss": loss, "constant_loss": 0.6}]
    assert Trained(torch.nn.Identity(), history, 1).diverged == diverged


def test_augmentation_turns_image_and_mask_together_and_uses_all_eight_elements():
    mask = torch.arange(4 * 4).view(1, 1, 4, 4).expand(64, 1, 4, 4).to(torch.uint8)
    images = mask.expand(64, 3, 4, 4) * 2
    turned, turned_mask = roto_reflect(images, mask, np.arange(64) * 5 % 8)
    assert torch.equal(turned, turned_mask.expand(64, 3, 4, 4) * 2)
    orbit = {tuple(P4M.transform_image(mask[0], g).flatten().tolist()) for g in range(8)}
    assert {tuple(m.flatten().tolist()) for m in turned_mask} == orbit


def test_validation_pools_over_all_pixels(recipe, store, fabric):
    loader = shared_loader(fabric, PatchDataset(store, store.indices("validation")), 3, 0)

    class AllForeground(torch.nn.Module):
        def forward(self, x):
            return torch.full_like(x[:, :1], 2.0)

    masks = torch.cat([mask for _, mask in loader]).float()
    numbers = validate(AllForeground(), loader, fabric)
    logits = torch.full_like(masks, 2.0)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, masks)
    assert numbers["validation_loss"] == pytest.approx(float(expected), rel=1e-6)
    assert numbers["validation_dice"] == pytest.approx(float(2 * masks.sum() / (masks.sum() + masks.numel())))


def test_validation_without_a_labelled_pixel_is_refused(fabric):
    batch = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.full((2, 1, 8, 8), IGNORE, dtype=torch.uint8)
    with pytest.raises(StudyError, match="no validation pixel is labelled"):
        validate(build_unet("z2", width=4, depth=1), [batch], fabric)


def test_validation_is_in_eval_mode_and_learns_nothing_of_the_validation_patches(store, fabric):
    network = build_unet("p4m", width=4, depth=1).train()
    loader = shared_loader(fabric, PatchDataset(store, store.indices("validation")), 3, 0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    numbers = validate(network, loader, fabric)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    one_by_one = shared_loader(fabric, PatchDataset(store, store.indices("validation")), 1, 0)
    assert validate(network.train(), one_by_one, fabric) == pytest.approx(numbers, rel=1e-6)  # no moments of a batch


def test_patches_that_would_break_the_equivariance_are_refused(recipe, store, fabric, tmp_path):
    with pytest.raises(StudyError, match="pad it symmetrically to 32"):
        run(replace(recipe, network=recipe.network | {"depth": 5}), store, fabric, tmp_path)


@pytest.mark.parametrize("loss", [float("nan"), 1e18])
def test_a_validation_loss_that_diverged_stops_the_training(recipe, store, fabric, tmp_path, monkeypatch, loss):
    monkeypatch.setattr(training, "validate", lambda *_: {"validation_loss": loss, "validation_dice": 0.0})
    with pytest.raises(StudyError, match=re.escape(f"loss of epoch 1 is {loss:.3g}; lower learning_rate from 0.001 ")):
        run(recipe, store, fabric, tmp_path)
    assert not (tmp_path / "last.pt").exists()


def test_a_batch_whose_loss_diverged_is_named_and_stops_the_training(recipe, store, fabric, tmp_path):
    with pytest.raises(StudyError, match=r"loss of batch \d+ of epoch 1 is .*; lower learning_rate from 1e\+06 "):
        run(replace(recipe, learning_rate=1e6), store, fabric, tmp_path)
