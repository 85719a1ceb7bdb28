"""The patch store, its splits and regimes, and the order in which training reads it."""

import json
import multiprocessing
import pickle
import shutil
import warnings
import weakref
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from data_helpers import SPLIT, as_older, assert_refused, contents, flip_byte, make_patches, make_store
from torch.utils.data import DataLoader

from study.data.patches.integrity import fixed_length
from study.data.patches.loading import PatchDataset, ShuffledBatches, to_input
from study.data.patches.store import PatchStore, write_patches
from study.errors import StudyError
from study.files import replacing
from study.groups import P4M


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """One store for all tests that only read it, or copy it."""
    return make_store(tmp_path_factory.mktemp("good") / "store.h5", 40)


@pytest.fixture
def path(good, tmp_path):
    return shutil.copy(good, tmp_path / "store.h5")


OLDER = pytest.mark.filterwarnings("ignore:.*older version")


def write(path, patches, split=SPLIT, recipe=None):
    return write_patches(path, patches, split, source="random", recipe=recipe or {})


# --- writing and reading ---


@pytest.mark.parametrize("count", [1, 64, 65, 200])  # the arrays grow at 64 and at 192
def test_what_is_written_is_read_and_room_to_grow_is_trimmed(tmp_path, count):
    patches = make_patches(count)
    fingerprint = write(tmp_path / "s.h5", patches, recipe={"b": [1], "a": "ä"})
    store = PatchStore(tmp_path / "s.h5")
    assert (len(store), store.size, store.source) == (count, (8, 8), "random")
    assert (store.recipe, store.fingerprint) == ({"b": [1], "a": "ä"}, fingerprint)
    assert store.case.tolist() == [patch.case for patch in patches]
    assert store.slide.tolist() == [patch.slide for patch in patches]
    assert store.split.tolist() == [SPLIT[patch.case] for patch in patches]
    with h5py.File(store.path) as file:
        np.testing.assert_array_equal(file["x"], [patch.image for patch in patches])
        np.testing.assert_array_equal(file["mask"], [patch.mask for patch in patches])


def test_a_chunk_is_one_patch_of_bytes_with_a_checksum(good):
    with h5py.File(good) as file:
        for array, shape in [(file["x"], (8, 8, 3)), (file["mask"], (8, 8))]:
            assert (array.shape, array.chunks) == ((40, *shape), (1, *shape))
            assert array.dtype == np.uint8
            assert array.fletcher32


def test_the_fingerprint_depends_on_neither_path_nor_recipe(tmp_path):
    first = write(tmp_path / "a.h5", make_patches(), recipe={"a": 1})
    second = write_patches(tmp_path / "b.h5", iter(make_patches()), dict(SPLIT), source="else", recipe={"b": 2})
    assert first == second
    assert len(first) == 16
    assert int(first, 16) >= 0


def test_the_fingerprint_is_that_of_every_earlier_version(good):
    assert PatchStore(good).fingerprint == "54c8d585fa57ad54"  # records and checkpoints name it


def test_recipes_are_stored_as_sorted_json(tmp_path):
    write(tmp_path / "s.h5", make_patches(), recipe={"b": 1, "a": 2})
    with h5py.File(tmp_path / "s.h5") as file:
        assert file.attrs["recipe"].decode() == json.dumps({"a": 2, "b": 1})


@pytest.mark.parametrize("part", ["image", "mask", "case", "slide", "split", "order", "count"])
def test_the_fingerprint_changes_with(tmp_path, part):
    patches, split = make_patches(), dict(SPLIT)
    before = write(tmp_path / "a.h5", patches, split)
    if part in ("image", "mask"):
        array = getattr(patches[3], part).copy()
        array.flat[-1] ^= 1
        patches[3] = replace(patches[3], **{part: array})
    elif part in ("case", "slide"):
        patches[3] = replace(patches[3], **{part: "b"})
    elif part == "split":
        split["b"] = "test"
    elif part == "order":
        patches.reverse()
    else:
        patches.pop()
    assert write(tmp_path / "b.h5", patches, split) != before


def test_patches_are_consumed_one_by_one(tmp_path):
    born, most = [], 0

    def generate():
        nonlocal most
        for n in range(100):
            patch = make_patches(1, seed=n)[0]
            born.append(weakref.ref(patch))
            most = max(most, sum(reference() is not None for reference in born))
            yield patch
            del patch

    write(tmp_path / "s.h5", generate())
    assert most <= 2  # the writer still holds the last one when the next one is drawn


def failing():
    yield from make_patches(70)
    raise RuntimeError("the scanner caught fire")


@pytest.mark.parametrize("before", [True, False], ids=["over a store", "new"])
@pytest.mark.parametrize(
    ("patches", "words"),
    [
        (make_patches(3) + make_patches(1, size=16), ["patch 3 of a-0", "16 x 16", "8 x 8", "one size"]),
        ([replace(make_patches(1)[0], image=np.zeros((8, 9, 3), np.uint8))], ["patch 0 of a-0", "(8, 9, 3)"]),
        ([], ["no patches", "s.h5", "check the data folder"]),
        (failing, None),
    ],
    ids=["unequal sizes", "mask of another size", "no patches", "failing generator"],
)
def test_a_failed_write_leaves_what_was_there_and_nothing_partial(tmp_path, patches, words, before):
    if before:
        make_store(tmp_path / "s.h5")
    old = contents(tmp_path)
    expected = assert_refused(*words) if words else pytest.raises(RuntimeError, match="caught fire")
    with expected:
        write(tmp_path / "s.h5", patches() if callable(patches) else patches)
    assert contents(tmp_path) == old


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's always full device")
@pytest.mark.parametrize("count", [1, 200])
def test_a_full_disk_is_named_and_leaves_the_old_store(path, monkeypatch, count):
    @contextmanager
    def on_a_full_disk(path):
        with replacing(path) as temporary:
            temporary.symlink_to("/dev/full")
            yield temporary

    old = contents(path.parent)
    monkeypatch.setattr("study.data.patches.store.replacing", on_a_full_disk)
    with assert_refused(path, "the disk is full", "free some space"):
        write(path, make_patches(count, size=32))
    assert contents(path.parent) == old


# --- what is not a store ---


def shorten(name):
    def damage(path):
        with h5py.File(path, "r+") as file:
            values = file[name][:-1]
            del file[name]
            file[name] = values

    return damage


def without(name):
    def damage(path):
        with h5py.File(path, "r+") as file:
            place = file if name in file else file.attrs
            del place[name]

    return damage


def truncate(share):
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def store_something_else(path):
    with h5py.File(path, "w") as file:
        file["weights/layer"] = np.zeros(3)


def store_labels_of_another_kind(path):
    with h5py.File(path, "r+") as file:
        del file["case"]
        file["case"] = np.arange(40)


def name_an_unknown_split(path):
    with h5py.File(path, "r+") as file:
        file["split"][3] = "training"


def break_the_recipe(path):
    with h5py.File(path, "r+") as file:
        file.attrs["recipe"] = "{"


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("x,mask\n1,2\n" * 100),
    "truncated early": truncate(0.1),
    "truncated late": truncate(0.99),
    "something else": store_something_else,
    "labels of another kind": store_labels_of_another_kind,
    "unknown split": name_an_unknown_split,
    "broken recipe": break_the_recipe,
    **{f"without {name}": without(name) for name in ("x", "mask", "case", "slide", "split")},
    **{f"without {name}": without(name) for name in ("source", "recipe", "fingerprint")},
    **{f"short {name}": shorten(name) for name in ("x", "mask", "split", "case", "slide")},
}


@pytest.mark.parametrize("older", [False, True], ids=["", "older"])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@OLDER
def test_a_damaged_store_is_refused_with_the_remedy(path, damage, older):
    damage(as_older(path) if older else path)
    with assert_refused(path, "damaged", "make it again"):
        PatchStore(path)


@pytest.mark.parametrize("place", ["missing.h5", "."], ids=["missing", "folder"])
def test_a_missing_store_is_refused_with_the_command_that_makes_one(tmp_path, place):
    with assert_refused(tmp_path / place, "python -m study data"):
        PatchStore(tmp_path / place)


@pytest.fixture(params=["x", "mask"])
def with_damaged_patch_7(path, request):
    with h5py.File(path) as file:
        position = file[request.param].id.get_chunk_info(7).byte_offset
    flip_byte(path, position + 30)
    return PatchStore(path)


def test_a_flipped_byte_in_a_patch_is_noticed_when_it_is_read(with_damaged_patch_7):
    store = with_damaged_patch_7
    dataset = PatchDataset(store, np.arange(5, 10))
    with assert_refused(store.path, "patch 7", "delete the file and make it again"):
        dataset[2]
    assert dataset[3][0].shape == (3, 8, 8)  # the others can still be read


def test_a_damaged_patch_is_the_last_line_of_an_error_from_a_worker(with_damaged_patch_7):
    store = with_damaged_patch_7
    batches = iter(DataLoader(PatchDataset(store, np.arange(10)), num_workers=1))
    with pytest.raises(StudyError) as caught:
        list(batches)
    batches._shutdown_workers()  # left to the garbage collector, it can wait 5 s for them
    last = (
        str(caught.value).strip().splitlines()[-1]
    )  # torch puts the traceback before it; the command line cuts it off
    with assert_refused(store.path, "patch 7", "make it again"):
        raise StudyError(last.removeprefix("study.errors.StudyError: "))


# --- damage that HDF5 does not notice ---


@pytest.mark.parametrize("array", ["x", "mask"])
def test_a_patch_that_was_zeroed_with_its_checksum_is_noticed_when_it_is_read(path, array):
    content = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        chunk = file[array].id.get_chunk_info(7)
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)
    with h5py.File(path) as file:
        assert not file[array][7].any()  # the checksum of zeros is zero
    dataset = PatchDataset(PatchStore(path), np.arange(40))
    with assert_refused(path, "patch 7", "make it again"):
        dataset[7]
    assert_reads([dataset[8]], make_patches(40)[8:9])


def test_patches_that_changed_places_are_noticed(path):
    with h5py.File(path, "r+") as file:
        file["mask"][3] = file["mask"][4]
    with assert_refused(path, "patch 3", "make it again"):
        PatchDataset(PatchStore(path), np.arange(40))[3]


def change(name, value):
    def damage(file):
        if name in file:
            file[name][3] = value
        else:
            file.attrs[name] = fixed_length(value)

    return damage


CHANGES = {
    "case": "b",
    "slide": "a-0",
    "split": "test",
    "hash": "0" * 16,
    "foreground": 3,
    "source": "else",
    "recipe": "{}",
    "fingerprint": "0" * 16,
    "classes": '["rest", "bright"]',
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_labels_or_attributes_is_noticed(path, name):
    with h5py.File(path, "r+") as file:
        change(name, CHANGES[name])(file)
    with assert_refused(path, "damaged", "checksum", "make it again"):
        PatchStore(path)


def test_every_block_of_the_structure_has_a_checksum_of_hdf5(good):
    content = good.read_bytes()
    assert content[8] == 3  # the version of the superblock
    assert not [kind for kind in (b"TREE", b"SNOD", b"HEAP", b"GCOL") if kind in content]  # blocks that have none


def test_any_byte_of_the_structure_may_be_damaged(good, tmp_path):
    content, places = good.read_bytes(), np.flatnonzero(outside_of_patches(good))
    refusals = []
    for place in places[:: len(places) // 60]:
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        (tmp_path / "s.h5").write_bytes(damaged)
        try:
            store = PatchStore(tmp_path / "s.h5")
            read = list(PatchDataset(store, np.arange(40)))
        except StudyError as error:
            refusals.append(str(error))
        else:  # a place that nothing is kept in
            assert store.fingerprint == PatchStore(good).fingerprint
            assert_reads(read, make_patches(40))
    assert len(refusals) > 10
    assert "\n" not in "".join(refusals)


def outside_of_patches(path):
    outside = np.ones(path.stat().st_size, bool)
    with h5py.File(path) as file:
        for name in ("x", "mask"):
            for n in range(len(file[name])):
                chunk = file[name].id.get_chunk_info(n)
                outside[chunk.byte_offset :][: chunk.size] = False
    return outside


def test_a_store_of_an_older_version_is_read_with_a_notice(good, path):
    before = PatchStore(good)
    with pytest.warns(UserWarning, match="store.h5 is of an older version and has no checksums.*make it again"):
        store = PatchStore(as_older(path))
    for name in ("fingerprint", "source", "recipe", "classes", "mpp", "size"):
        assert getattr(store, name) == getattr(before, name)
    for name in ("case", "slide", "split"):
        assert getattr(store, name).tolist() == getattr(before, name).tolist()
    np.testing.assert_array_equal(store.foreground(), before.foreground())
    assert_reads(PatchDataset(store, np.arange(40)), make_patches(40))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pickle.loads(pickle.dumps(store))  # as in another process: it was said once


# --- masks of 0 and 255 ---


def with_masks(*values):
    """Ten patches whose masks have these values, one after another."""
    patches = make_patches()
    return [replace(p, mask=np.full_like(p.mask, values[n % len(values)])) for n, p in enumerate(patches)]


def test_masks_of_0_and_255_are_refused_with_the_remedy_and_nothing_is_left(tmp_path):
    with assert_refused(tmp_path / "s.h5", "masks of 0 and 255", "give 0 and 1"):
        write(tmp_path / "s.h5", with_masks(0, 255))
    assert contents(tmp_path) == {}


def test_with_classes_too(tmp_path):
    options = {"source": "random", "recipe": {}, "classes": ("rest", "a", "b")}
    with assert_refused(tmp_path / "s.h5", "no foreground"):
        write_patches(tmp_path / "s.h5", with_masks(0, 255), SPLIT, **options)
    write_patches(tmp_path / "s.h5", with_masks(0, 255, 0, 2), SPLIT, **options)


@pytest.mark.parametrize("values", [(0, 255, 1), (0,), (1,), (1, 255)])
def test_the_rule_is_for_the_whole_store(tmp_path, values):
    write(tmp_path / "s.h5", with_masks(*values))
    assert PatchStore(tmp_path / "s.h5").has_foreground().any() == (1 in values)


@OLDER
def test_an_older_store_with_masks_of_0_and_255_is_refused_as_its_masks_are_read(path):
    with h5py.File(as_older(path), "r+") as file:
        file["mask"][:] *= 255
    store = PatchStore(path)
    with assert_refused(path, "masks of 0 and 255", "give 0 and 1"):
        store.has_foreground()


# --- indices ---


def test_indices_are_those_of_the_split_and_an_empty_split_is_refused(tmp_path):
    store = PatchStore(make_store(tmp_path / "s.h5", 9))  # none of the case "c"
    np.testing.assert_array_equal(store.indices("train"), range(8))
    np.testing.assert_array_equal(store.indices("validation"), [8])
    with assert_refused(store.path, "no test patches", "more cases"):
        store.indices("test")


# --- reading for training ---


def assert_reads(dataset, patches):
    for (image, mask), patch in zip(dataset, patches, strict=True):
        np.testing.assert_array_equal(image.permute(1, 2, 0), patch.image)
        np.testing.assert_array_equal(mask[0], patch.mask)


@pytest.fixture
def dataset(good):
    return PatchDataset(PatchStore(good), np.array([30, 2, 11, 5, 19]))


@pytest.fixture
def patches():
    made = make_patches(40)
    return [made[n] for n in (30, 2, 11, 5, 19)]


def test_items_are_the_chosen_patches_as_uint8_with_channels_first(dataset, patches):
    image, mask = dataset[0]
    assert (image.shape, mask.shape) == ((3, 8, 8), (1, 8, 8))
    assert image.dtype == mask.dtype == torch.uint8
    assert len(dataset) == 5
    assert_reads([dataset[n] for n in range(5)], patches)


def test_a_dataset_can_be_pickled_before_and_after_it_is_opened(dataset, patches):
    for _ in range(2):
        again = pickle.loads(pickle.dumps(dataset))
        assert_reads([again[n] for n in range(5)], patches)
        assert dataset[0][0].dtype == torch.uint8  # opens the file


FORK = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")


@pytest.mark.parametrize(
    "opened", [False, pytest.param(True, marks=FORK)], ids=["closed in the parent", "open in the parent"]
)
@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_give_the_same_patches_with_and_without_workers(dataset, patches, workers, opened):
    if opened:
        assert dataset[1][0].dtype == torch.uint8
    context = "fork" if opened and workers else None
    loader = DataLoader(dataset, batch_size=2, num_workers=workers, multiprocessing_context=context)
    images, masks = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert_reads(zip(images, masks, strict=True), patches)
    assert_reads([dataset[n] for n in range(5)], patches)  # and the parent can read on


def draw(count, batch_size, batches, epochs, **options):
    sampler = ShuffledBatches(count, batch_size, batches, **{"seed": 0, **options})
    drawn = []
    for sampler.epoch in epochs:
        epoch = list(sampler)
        assert len(epoch) == len(sampler) == batches
        drawn += epoch
    return drawn


@pytest.mark.parametrize(
    ("count", "batch_size", "batches"),
    [(20, 4, 5), (10, 4, 5), (7, 4, 5), (51, 4, 5), (3, 8, 2), (1, 4, 2)],
    ids=["one pass", "two passes", "not whole passes", "more than an epoch", "fewer than a batch", "a single patch"],
)
def test_epochs_continue_one_sequence_of_passes_over_every_patch(count, batch_size, batches):
    drawn = draw(count, batch_size, batches, epochs=range(8))
    assert {len(batch) for batch in drawn} == {batch_size}
    flat = np.concatenate(drawn)
    whole = flat[: len(flat) // count * count].reshape(-1, count)
    np.testing.assert_array_equal(np.sort(whole), np.broadcast_to(np.arange(count), whole.shape))
    assert len(set(flat[len(whole) * count :])) == len(flat) % count  # the last pass is begun without repeats
    if count > 2:
        assert len({tuple(one) for one in whole}) > 1  # and passes are shuffled anew


@pytest.mark.parametrize("count", [7, 51])
def test_batches_depend_on_seed_and_epoch_and_not_on_history(count):
    history = draw(count, 4, 5, epochs=[0, 1, 2, 3])
    assert draw(count, 4, 5, epochs=[3]) == history[15:]
    assert draw(count, 4, 5, epochs=[3, 1, 1])[5:] == 2 * history[5:10]
    assert draw(count, 4, 5, epochs=[3], seed=1) != history[15:]


@pytest.mark.parametrize("processes", [2, 4])
def test_shares_of_processes_are_equal_and_make_up_the_batch(processes):
    whole = draw(100, 8, 5, epochs=[0, 1])
    shares = [draw(100, 8, 5, epochs=[0, 1], rank=rank, processes=processes) for rank in range(processes)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert {len(part) for part in parts} == {8 // processes}
        assert sorted(chain(*parts)) == sorted(batch)  # disjoint, for a batch within a pass holds no patch twice


def test_a_batch_that_cannot_be_shared_is_refused():
    with assert_refused("9", "2 devices", "batch_size"):
        ShuffledBatches(100, 9, 5, seed=0, processes=2)


def test_a_loader_takes_its_batches_from_the_sampler(dataset):
    sampler = ShuffledBatches(len(dataset), 4, 3, seed=0)
    loaded = [images for images, _ in DataLoader(dataset, batch_sampler=sampler)]
    for images, batch in zip(loaded, sampler, strict=True):
        assert torch.equal(images, torch.stack([dataset[n][0] for n in batch]))


def test_input_is_float32_from_minus_one_to_one():
    values = to_input(torch.arange(256, dtype=torch.uint8))
    assert values.dtype == torch.float32
    assert (values[0], values[255]) == (-1, 1)
    assert (values.diff() > 0).all()
    assert torch.allclose(values, -values.flip(0), atol=1e-6)  # the middle of the range is 0


@pytest.mark.parametrize("g", range(8))
def test_input_commutes_with_roto_reflections(g):
    images = torch.from_numpy(np.stack([patch.image for patch in make_patches(2)])).permute(0, 3, 1, 2)
    assert torch.equal(to_input(P4M.transform_image(images, g)), P4M.transform_image(to_input(images), g))


def test_a_case_in_no_split_is_refused_and_nothing_is_written(tmp_path):
    with assert_refused("case c", "train, validation, test"):
        write_patches(tmp_path / "s.h5", make_patches(), {"a": "train", "b": "test"}, source="random", recipe={})
    assert contents(tmp_path) == {}


def test_a_full_disk_is_noticed_before_the_library_meets_it(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    with assert_refused("s.h5", "free some space"):
        make_store(tmp_path / "s.h5")
    assert contents(tmp_path) == {}


def test_masks_must_be_zero_one_or_unlabelled(tmp_path):
    (patch,) = make_patches(1)
    with assert_refused("patch 0 of a-0", "value 7", "give 0, 1, or 255"):
        write_patches(tmp_path / "s.h5", [replace(patch, mask=patch.mask * 7)], SPLIT, source="random", recipe={})


def test_a_store_of_floats_is_refused(path):
    with h5py.File(path, "r+") as file:
        images = file["x"][:] / 255
        del file["x"]
        file["x"] = images
    with assert_refused(path, "do not fit together"):
        PatchStore(path)


@OLDER
def test_a_case_in_two_splits_is_refused(path):
    with h5py.File(as_older(path), "r+") as file:  # as programs may write it that keep no checksums
        file["split"][0] = "test"
    with assert_refused(path, "case a is in more than one split"):
        PatchStore(path)


def test_a_store_that_is_replaced_while_in_use_is_noticed(path):
    dataset = PatchDataset(PatchStore(path), np.arange(3))
    make_store(path, seed=5)
    with assert_refused(path, "replaced by other data"):
        dataset[0]
