"""What follows from a task: channels, decisions, masks of each class; and how one is found for a study or a network."""

import numpy as np
import pytest
import torch
from data_helpers import assert_refused, make_patches, make_store

from study.data.patches.store import PatchStore, write_patches
from study.groups import P4M
from study.networks.unet import build_unet
from study.tasks.labels import IGNORE, label_counts, one_against_rest
from study.tasks.registry import FOREGROUND, TASKS, find_task, task_of_checkpoint
from study.tasks.stability import stability
from study.tasks.task import Task, slug

THREE = Task("three", ("background", "gland", "stroma, loose"))


@pytest.mark.parametrize("task", [*TASKS.values(), FOREGROUND, THREE], ids=lambda task: task.name)
def test_a_task_has_channels_and_a_name_for_each_and_a_measure_for_all_but_the_background(task):
    assert len(task.channels) == task.outputs == (1 if len(task.classes) == 2 else len(task.classes))
    assert list(task.foreground.values()) == list(task.classes[1:])
    assert [task.classes[label] for label in task.foreground] == list(task.foreground.values())
    assert slug("stroma, loose") == "stroma-loose"


def test_the_keys_of_the_registry_are_the_names():
    assert {name: task.name for name, task in TASKS.items()} == {name: name for name in TASKS}


def test_two_classes_are_decided_by_the_threshold_and_several_by_the_largest_probability():
    logits = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    p = THREE.probabilities(logits)
    torch.testing.assert_close(p.sum(dim=1), torch.ones(2, 5, 6, dtype=torch.float64))
    np.testing.assert_array_equal(THREE.decide(p)[:, 0], p.numpy().argmax(axis=1))
    one = FOREGROUND.probabilities(logits[:, :1])
    for threshold in (0.2, 0.5):
        decided = FOREGROUND.with_threshold(threshold).decide(one)
        np.testing.assert_array_equal(decided, one > threshold)
    with assert_refused("threshold of 0.2", "3", "leave it out"):
        THREE.with_threshold(0.2)


def test_one_channel_and_two_decide_alike():
    logits = torch.randn(2, 1, 20, 20, dtype=torch.float64)
    both = torch.cat([torch.zeros_like(logits), logits], dim=1).softmax(dim=1)
    torch.testing.assert_close(both[:, 1:], logits.sigmoid(), rtol=1e-14, atol=1e-14)
    assert torch.equal(THREE.decide(both), FOREGROUND.decide(logits.sigmoid()))


@pytest.mark.parametrize("classes", [2, 4])
def test_each_class_against_the_rest_is_that_of_pixels_one_by_one(classes):
    labels = torch.randint(0, classes, (3, 1, 4, 5), dtype=torch.uint8)
    labels[torch.rand(labels.shape) < 0.2] = IGNORE
    rest = one_against_rest(labels, classes)
    assert (rest.shape, rest.dtype) == ((3 * (classes - 1), 1, 4, 5), torch.uint8)
    for b, k, y, x in np.ndindex(3, classes - 1, 4, 5):
        value = int(labels[b, 0, y, x])
        expected = IGNORE if value == IGNORE else value == k + 1
        assert rest[b * (classes - 1) + k, 0, y, x] == expected
    if classes == 2:
        assert torch.equal(rest, labels)
    counts = [[int((patch == k).sum()) for k in range(classes)] for patch in labels]
    assert label_counts(labels, classes).tolist() == counts


@pytest.mark.parametrize("group", ["p4m", "z2"])
def test_the_decision_of_an_equivariant_network_turns_with_the_image_in_float64(group):
    network = build_unet(group, width=8, depth=2, num_classes=3).double()
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    mask = torch.randint(0, 3, (2, 1, 16, 16), dtype=torch.uint8)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(3):  # the promise is of trained networks
        optimizer.zero_grad()
        loss, number = THREE.loss(network(images), mask)
        (loss / number).backward()
        optimizer.step()
    with torch.no_grad():
        for _ in range(30):  # until the running moments are those of the images
            network(images)
        network.eval()
        p = THREE.probabilities(network(images))
        assert len(THREE.decide(p).unique()) == 3
        flips, errors = 0, []
        for g in range(P4M.order):
            turned = THREE.probabilities(network(P4M.transform_image(images, g)))
            errors.append((turned - P4M.transform_image(p, g)).abs().max())
            flips += (THREE.decide(turned) != P4M.transform_image(THREE.decide(p), g)).sum()
    views = stability(network, images, THREE)
    assert views.deviation.shape == (2, 3, 16, 16)
    assert views.changed.shape == views.largest_deviation.shape == (2, 1, 16, 16)
    assert torch.equal(views.largest_deviation[:, 0], views.deviation.amax(dim=1))
    if group == "p4m":
        assert max(errors) < 1e-12
        assert flips == 0
        assert not views.changed.any()
        assert views.deviation.max() < 1e-12
    else:
        assert flips > 0
        assert views.changed.any()


def test_a_flip_is_any_two_of_the_eight_that_decide_otherwise():
    class Places(torch.nn.Module):
        """Sees only where a pixel stands: one class on the left, one in the middle, one on the right."""

        def forward(self, x):
            place = torch.arange(x.shape[-1]) * 3 // x.shape[-1]
            return 9.0 * torch.nn.functional.one_hot(place, 3).T[None, :, None].expand(len(x), 3, *x.shape[-2:])

    changed = stability(Places(), torch.rand(1, 3, 9, 9), THREE).changed[0, 0]
    expected = torch.ones(9, 9, dtype=torch.bool)
    expected[3:6, 3:6] = False  # in the middle of rows and of columns
    assert torch.equal(changed, expected)


@pytest.mark.parametrize(
    ("classes", "named"),
    [(("background",), "1 classes"), (("a", "b", "b"), "'b'"), (("a", "b c", "b-c"), "'b c'"), (("a", ""), "''")],
)
def test_classes_that_cannot_be_told_apart_are_refused(classes, named):
    with assert_refused(named):
        Task("odd", classes)
    with assert_refused("256 classes"):
        Task("many", tuple(f"class {n}" for n in range(256)))


def test_a_study_learns_its_presets_task_or_the_classes_that_its_store_names():
    assert find_task("cancer") is TASKS["cancer"]
    assert find_task("") is TASKS["tumour"]  # Camelyon16, which names none
    assert find_task("", TASKS["nuclei"].classes) is TASKS["nuclei"]
    assert find_task("cancer", ("background", "nerve")).foreground == {1: "nerve"}
    assert find_task("cancer", THREE.classes).classes == THREE.classes


def test_the_task_of_a_checkpoint_is_the_one_it_names_or_that_of_its_settings():
    old = {"architecture": {"group": "p4"}}
    assert task_of_checkpoint(old) is None
    assert task_of_checkpoint(old | {"settings": {"task": ""}}) is None
    assert task_of_checkpoint(old | {"settings": {"task": "nuclei"}}) is TASKS["nuclei"]
    assert task_of_checkpoint(old | {"settings": {}, "data": {"source": "EBHI-SEG"}}) is TASKS["glands"]
    for task in (TASKS["cancer"], THREE):
        assert task_of_checkpoint(old | {"settings": {"task": "nuclei"}, "task": task.about()}) == task
    assert task_of_checkpoint({"architecture": {"num_classes": 3}}).outputs == 3


# the store


def test_a_store_keeps_the_names_of_its_classes_and_its_scale(tmp_path):
    patches, split = make_patches(), {"a": "train", "b": "validation", "c": "test"}
    for patch in patches:
        patch.mask[0, :3] = (2, 3, IGNORE)
    options = {"source": "test", "recipe": {}}
    write_patches(tmp_path / "s.h5", patches, split, classes=("rest", "a", "b", "c"), mpp=0.25, **options)
    store = PatchStore(tmp_path / "s.h5")
    assert (store.classes, store.mpp) == (("rest", "a", "b", "c"), 0.25)
    assert store.foreground().tolist() == [int(((p.mask > 0) & (p.mask < 4)).sum()) for p in patches]
    with assert_refused("mask value 3", "0 to 2 or 255"):
        write_patches(tmp_path / "t.h5", patches, split, classes=("rest", "a", "b"), **options)
    with assert_refused("mask value 2", "0, 1, or 255"):
        write_patches(tmp_path / "t.h5", patches, split, **options)
    before = PatchStore(make_store(tmp_path / "before.h5"))
    assert before.classes is before.mpp is None
