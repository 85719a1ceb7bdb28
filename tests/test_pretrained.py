"""The networks that come with the package: nothing damaged is loaded, and each keeps what its card promises."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from data_helpers import add_pair, assert_refused, contents
from lightning_fabric import Fabric
from PIL import Image
from safetensors import safe_open
from scipy.ndimage import gaussian_filter
from slide_helpers import make_slide
from torch.utils.data import DataLoader

import study
from study import cli
from study.cli.networks import check, evaluate
from study.cli.packaging import package as package_command
from study.cli.prediction import predict
from study.data.datasets import ebhi_box
from study.data.datasets.ebhi_box import pack_box
from study.data.datasets.ebhi_images import CANCER, CLASSES
from study.data.datasets.registry import find_data_set, prepare
from study.data.patches.loading import PatchDataset, to_input
from study.equivariance import equivariance_errors
from study.errors import StudyError
from study.experiments.maps import pretrained_maps, save_pretrained_maps
from study.experiments.model_card import model_card
from study.experiments.packaging import TOLERANCE, package
from study.experiments.presets import find_preset
from study.experiments.records import Trial, read_record, write_record
from study.experiments.saved_maps import load_stability_maps, maps_path
from study.experiments.trials import Study, run_trial
from study.experiments.unseen import own_store, unseen_patches
from study.files import sha256_of
from study.networks import pretrained
from study.networks.checkpoint import load_checkpoint, load_model
from study.networks.pretrained import CHECKSUMS, WEIGHTS, available, load_pretrained, read_checksums, read_pretrained
from study.tasks.measures import counts
from study.tasks.ratios import dice

TINY = {"p4m": "p4m-tiny", "unet-aug": "unet-tiny"}
"""Models that are trained for some batches, and the names that they are packaged under."""

LIMIT = 15e6
"""Bytes that all weights and cards may have."""


def make_ebhi(folder: Path, cases: int = 24) -> Path:
    """An EBHI-SEG folder of smooth noise, whose bright parts are glands: a patch of each case, half of them cancer.

    Those are red, so that a short training finds them, and the rounding of its result changes next to nothing.
    """
    rng = np.random.default_rng(0)
    benign = [tissue for tissue in CLASSES if tissue not in CANCER]
    for n in range(cases):
        noise = gaussian_filter(rng.standard_normal((64, 64)), 4, mode="wrap")
        grey = np.clip(128 + 50 * noise / noise.std(), 0, 255)
        blue = 0.2 * grey if n % 2 else grey
        tissue = CANCER[n // 2 % 2] if n % 2 else benign[n // 2 % 4]
        image, _ = add_pair(folder, f"GT{100 + n}-1-400-001", tissue=tissue, image_size=64, label=255 * (noise > 0))
        Image.fromarray(np.stack([grey, blue, blue], axis=-1).astype(np.uint8)).save(image)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a box of few patches, tiny networks trained on it, and what was packaged of them."""
    root = tmp_path_factory.mktemp("made")
    pack_box(make_ebhi(root / "ebhi"), root / "box.zip")
    fabric = Fabric(accelerator="cpu", devices=1)
    with pytest.MonkeyPatch.context() as patch:
        use_box(patch, root)
        preset = find_preset("ebhi-cancer")
        short = {"epochs": 1, "batches_per_epoch": 40, "batch_size": 4, "learning_rate": 0.01}
        recipe = replace(preset.recipe, network=preset.recipe.network | {"width": 6, "depth": 2}, **short)
        store = prepare("ebhi", data=None, folder=root / "data", size=64, count=0, task="cancer")
        tiny = Study("tiny", replace(preset, recipe=recipe), store, root)
        for model, name in TINY.items():
            trial = Trial(model, 1.0, 3)
            run_trial(tiny, trial, fabric)
            package(tiny.checkpoint_path(trial), name, root / "weights", root=root, fabric=fabric)
    return root


def use_box(patch: pytest.MonkeyPatch, root: Path) -> None:
    patch.setattr(ebhi_box, "BOX", root / "box.zip")
    patch.setattr(ebhi_box, "SHA256", sha256_of(root / "box.zip"))


@pytest.fixture
def tiny(made, tmp_path, monkeypatch) -> Path:
    """A copy of that folder, whose networks are the pretrained ones; the working directory."""
    root = shutil.copytree(made, tmp_path / "tiny")
    use_box(monkeypatch, root)
    monkeypatch.setattr(pretrained, "WEIGHTS", root / "weights")
    monkeypatch.chdir(root)
    return root


def checkpoint_of(root: Path, model: str = "p4m") -> Path:
    return root / "runs" / "tiny" / f"{model}-100-3" / "best.pt"


def images(size: int = 32) -> torch.Tensor:
    return to_input(torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8))


# --- loading ---


def test_nothing_but_its_name_is_needed(tiny):
    network = study.load_pretrained("p4m-tiny")
    assert not network.training
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert {p.device.type for p in network.parameters()} == {"cpu"}
    assert network(images()).shape == (2, 1, 32, 32)


def test_importing_the_package_imports_no_torch():
    code = "import sys, study; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="load_pretrainde"):
        _ = study.load_pretrainde


@pytest.mark.parametrize(("model", "name"), TINY.items())
def test_a_packaged_network_is_the_trained_one_up_to_the_rounding_of_its_filters(tiny, model, name):
    trained, packaged = load_model(checkpoint_of(tiny, model)).state_dict(), load_pretrained(name).state_dict()
    assert trained.keys() == packaged.keys()
    for key, value in trained.items():
        expected = value.half().float() if value.ndim > 1 else value
        assert torch.equal(packaged[key], expected), key


def test_a_rounded_network_is_still_exactly_equivariant(tiny):
    network = load_pretrained("p4m-tiny").double()
    assert equivariance_errors(network, images().double()).max() < 1e-10


def test_available_networks_are_those_of_the_folder(tiny):
    assert available() == sorted(TINY.values())
    assert {file.name for file in (tiny / "weights").iterdir()} == {
        CHECKSUMS,
        *(f"{name}{ending}" for name in TINY.values() for ending in (".safetensors", ".md")),
    }


def test_an_unknown_name_is_answered_with_the_known_ones(tiny):
    with assert_refused("'p4m-tyni'", *TINY.values()):
        load_pretrained("p4m-tyni")
    with assert_refused("../weights/p4m-tiny"):
        load_pretrained("../weights/p4m-tiny")
    (tiny / "weights" / CHECKSUMS).write_text("")
    with assert_refused("'p4m-tiny'", "none in this package"):
        load_pretrained("p4m-tiny")


# --- damage ---


@pytest.mark.parametrize("part", ["length of the header", "header", "metadata", "filters", "last byte"])
def test_a_flipped_bit_is_noticed_wherever_it_is(tiny, part):
    path = tiny / "weights" / "p4m-tiny.safetensors"
    content = bytearray(path.read_bytes())
    place = {
        "length of the header": 0,
        "header": content.index(b"data_offsets"),
        "metadata": content.index(b"expected"),
        "filters": len(content) // 2,
        "last byte": len(content) - 1,
    }[part]
    content[place] ^= 1
    path.write_bytes(content)
    with assert_refused(path, "damaged", "install the package again"):
        load_pretrained("p4m-tiny")
    load_pretrained("unet-tiny")  # the others are as good as ever


def test_a_flipped_bit_in_the_list_of_checksums_is_noticed_too(tiny):
    path = tiny / "weights" / CHECKSUMS
    good = path.read_bytes()
    for place in range(len(good)):
        damaged = bytearray(good)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(StudyError):  # every bit is of the line of one of the two
            _ = [load_pretrained(name) for name in TINY.values()]


@pytest.mark.parametrize("kept", [0, 7, 1000, -1])
def test_a_truncated_file_is_named(tiny, kept):
    path = tiny / "weights" / "p4m-tiny.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with assert_refused(path, "damaged", "install the package again"):
        load_pretrained("p4m-tiny")


def test_missing_files_are_named(tiny):
    path = tiny / "weights" / "p4m-tiny.safetensors"
    path.unlink()
    with assert_refused(path, "install the package again"):
        load_pretrained("p4m-tiny")
    (tiny / "weights" / CHECKSUMS).unlink()
    with assert_refused(tiny / "weights" / CHECKSUMS, "install the package again"):
        load_pretrained("unet-tiny")


# --- what a file says of itself ---


def test_the_metadata_say_what_the_network_is_and_where_it_comes_from(tiny):
    about, trained = read_pretrained("p4m-tiny"), load_checkpoint(checkpoint_of(tiny))
    for key in ("architecture", "trial", "settings", "data"):
        assert about[key] == trained[key]
    assert about["study"] == "tiny"
    assert about["classes"] == ["background", "glands of adenocarcinoma or high-grade intraepithelial neoplasia"]
    assert about["patches"] == {"patches": 24, "cases": 24, "size": 64, "original_size": 224, "magnification": 400}
    record = json.loads((tiny / "results" / "tiny" / "trials" / "p4m-100-3.json").read_text())
    assert about["training"].items() <= record["provenance"].items()
    assert about["dice_before_rounding"] == pytest.approx(record["metrics"]["dice"], abs=1e-3)
    parts = Study("tiny", find_preset("ebhi-cancer"), own_store(about, "", tiny / "data")).split(Trial("p4m", 1.0, 3))
    assert {part: number["patches"] for part, number in about["parts"].items()} == {
        part: len(places) for part, places in vars(parts).items()
    }


def test_any_reader_of_safetensors_reads_them(tiny):
    with safe_open(tiny / "weights" / "p4m-tiny.safetensors", framework="np") as file:
        assert json.loads(file.metadata()["study"])["architecture"]["group"] == "p4m"
        assert file.get_tensor("project.weight").dtype == np.float16


def test_the_checksums_are_those_that_sha256sum_checks(tiny):
    lines = (tiny / "weights" / CHECKSUMS).read_text().splitlines()
    files = {name: sha256((tiny / "weights" / name).read_bytes()).hexdigest() for _, name in map(str.split, lines)}
    assert lines == [f"{digest}  {name}" for name, digest in files.items()]


def test_the_card_tells_what_a_user_must_know(tiny):
    card, about = (tiny / "weights" / "p4m-tiny.md").read_text(), read_pretrained("p4m-tiny")
    assert card == model_card("p4m-tiny", about)
    for words in (
        'study.load_pretrained("p4m-tiny")',
        "python -m study evaluate p4m-tiny",
        f"| Dice, pooled over all pixels | {100 * about['expected']['dice']:.2f} % |",
        *("all eight roto-reflections", "multiples of 4;", "no augmentation", "seed 3", about["data"]["fingerprint"]),
        *("CC BY 4.0", "10.3389/fmed.2023.1114673", "figshare.21540159", "MIT"),
        *("Not for clinical use", "One hospital", "Reduced resolution", "high-grade", "64 x 64"),
    ):
        assert words in card
    other = (tiny / "weights" / "unet-tiny.md").read_text()
    assert "Its answer depends on how a patch is turned" in other
    assert "roto-reflected at random" in other


def test_the_lines_of_the_card_run(tiny):
    card = (tiny / "weights" / "p4m-tiny.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    assert len(code.splitlines()) == 6
    names = {"images": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)}
    exec(code, names)
    assert names["probability"].shape == (1, 1, 8, 8)


# --- testing them ---


def test_evaluate_needs_only_the_name_to_measure_what_the_card_promises(tiny, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    evaluate("p4m-tiny")
    output = capsys.readouterr().out
    promised = f"{100 * read_pretrained('p4m-tiny')['expected']['dice']:.2f} %"
    assert output.split("pooled over pixels")[1].split("│")[1].strip() == promised
    assert f"Its model card states a Dice of {promised} in one view" in output


def test_a_checkpoint_needs_no_data_either_if_they_come_with_the_package(tiny, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    evaluate(str(checkpoint_of(tiny)))
    output = capsys.readouterr().out
    assert f"{100 * read_pretrained('p4m-tiny')['dice_before_rounding']:.2f} %" in output
    assert "card" not in output


def test_check_takes_a_pretrained_network(tiny, capsys):
    check("p4m-tiny", size=16)
    assert capsys.readouterr().out.count("│ yes ") == 8
    with assert_refused("unknown model 'p4m-tyni'", "unet-aug", *TINY.values(), ".pt"):
        check("p4m-tyni")


def test_predict_takes_a_pretrained_network(tiny, capsys):
    predict(make_slide(tiny / "s.tif"), "p4m-tiny", tiny / "by-name")
    predict(tiny / "s.tif", str(checkpoint_of(tiny)), tiny / "by-path")
    by_name, by_path = (tifffile.imread(tiny / folder / "s-probability.tif") for folder in ("by-name", "by-path"))
    np.testing.assert_allclose(by_name, by_path, atol=2)  # of 255
    with assert_refused("'p4m-tyni'", *TINY.values()):
        predict(tiny / "s.tif", "p4m-tyni", tiny / "by-typo")


@pytest.mark.parametrize("data", ["ebhi", "mine.h5", "small.h5"])
def test_evaluate_takes_what_reproduce_takes_for_data(tiny, run_command, data):
    """The folder of the data set, or a patch store; the store may be of another size, as the network runs on it."""
    if data != "ebhi":
        find_data_set("ebhi").store(
            tiny / data, tiny / "ebhi", size={"mine.h5": 64, "small.h5": 32}[data], task="cancer"
        )
    code, output, error = run_command("evaluate", "p4m-tiny", "--data", data)
    assert (code, error) == (0, "")
    assert "test patches" in output
    if data != "small.h5":
        code, _, error = run_command(
            "reproduce", "--preset", "ebhi-cancer", "--data", data, "--set", "models=p4m", "--dry-run"
        )
        assert (code, error) == (0, "")


def test_evaluate_says_what_is_wrong_with_the_folder(tiny, run_command):
    (tiny / "empty").mkdir()
    code, _, error = run_command("evaluate", "p4m-tiny", "--data", "empty")
    assert code == 2
    assert "empty" in error


def test_tested_patients_are_known_at_every_size_and_for_every_task_of_the_data_set(tiny):
    about = read_pretrained("p4m-tiny")
    for size, task in [(64, "cancer"), (96, "cancer"), (64, "glands")]:
        store = prepare("ebhi", data=None, folder=tiny / "data", size=size, count=0, task=task)
        assert set(store.case[unseen_patches(about, store)]) == set(about["test_cases"])


def test_a_trial_of_folds_is_not_tested_on_other_patches_of_its_patients(tiny):
    trained = load_checkpoint(checkpoint_of(tiny))
    assert "test_cases" not in trained
    store = prepare("ebhi", data=None, folder=tiny / "data", size=64, count=0, task="cancer")
    assert len(unseen_patches(trained, store)) < len(store) / 5
    larger = prepare("ebhi", data=None, folder=tiny / "data", size=96, count=0, task="cancer")
    with assert_refused("may have been trained on", trained["data"]["fingerprint"]):
        unseen_patches(trained, larger)


def test_a_store_without_tested_patients_is_refused(tiny):
    about = read_pretrained("p4m-tiny")
    for case in about["test_cases"]:
        for file in (tiny / "ebhi").glob(f"*/*/GT{case}-*"):
            file.unlink()
    rest = find_data_set("ebhi").store(tiny / "rest.h5", tiny / "ebhi", size=64, task="cancer")
    with assert_refused("rest.h5", "none of the patients"):
        unseen_patches(about, rest)


def test_patches_that_are_not_the_package_s_have_to_be_given(tiny):
    trained = load_checkpoint(checkpoint_of(tiny))
    with assert_refused("x.pt", "--data PATH"):
        own_store(trained | {"settings": trained["settings"] | {"source": "store"}}, "x.pt", tiny / "data")
    with assert_refused("x.pt", "0123", "--data PATH"):
        own_store(trained | {"data": trained["data"] | {"fingerprint": "0123"}}, "x.pt", tiny / "data")


# --- packaging ---


def test_the_command_says_how_large_it_is_and_what_the_rounding_cost(tiny, capsys):
    package_command(Path("runs/tiny/p4m-100-3/best.pt"), "again", tiny / "again")
    line = capsys.readouterr().out
    about = read_pretrained("p4m-tiny")
    assert f"{100 * about['dice_before_rounding']:.3f} % before" in line
    assert f"{100 * about['expected']['dice']:.3f} % after" in line


def test_the_same_trial_is_packaged_to_the_same_bytes(tiny, fabric):
    before = contents(tiny / "weights")
    for file in (tiny / "weights").glob("p4m-tiny.*"):
        file.unlink()
    package(checkpoint_of(tiny), "p4m-tiny", tiny / "weights", root=tiny, fabric=fabric)
    assert contents(tiny / "weights") == before


def refuse(root: Path, *words: object, name: str = "new") -> None:
    """Packaging must refuse with these words and leave the folder as it was."""
    before = contents(root / "weights")
    with assert_refused(*words):
        package(checkpoint_of(root), name, root / "weights", root=root, fabric=Fabric(accelerator="cpu", devices=1))
    assert contents(root / "weights") == before


def test_a_network_that_half_precision_changes_is_refused(tiny):
    path = checkpoint_of(tiny)
    content = load_checkpoint(path)
    content["weights"]["project.weight"] *= 1e6  # the same decisions, beyond the range of half precision
    torch.save(content, path)
    refuse(tiny, path, "half precision", f"{TOLERANCE} points")


def test_a_checkpoint_without_its_record_is_refused(tiny):
    record = tiny / "results" / "tiny" / "trials" / "p4m-100-3.json"
    content = read_record(record)
    content["settings"]["width"] = 7
    write_record(record, content)
    refuse(tiny, record, "is not the record of")
    record.unlink()
    refuse(tiny, record, "--root")


def test_names_that_cannot_be_are_refused(tiny):
    for name in ("p4m", "P4M", "p4m tiny", "../p4m", "a.pt", ""):
        refuse(tiny, repr(name), "letters", name=name)
    refuse(tiny, tiny / "weights" / "unet-tiny.safetensors", "exists", name="unet-tiny")


def test_a_packaging_that_was_cut_is_noticed_and_can_be_repeated(tiny, fabric, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("study.experiments.packaging.model_card", full)
        with assert_refused("new.md", "disk is full"):
            package(checkpoint_of(tiny), "new", tiny / "weights", root=tiny, fabric=fabric)
    with assert_refused("new.safetensors", "install the package again"):
        load_pretrained("new")
    package(checkpoint_of(tiny), "new", tiny / "weights", root=tiny, fabric=fabric)
    load_pretrained("new")
    load_pretrained("p4m-tiny")


def test_it_is_a_command(tiny, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["study", "package", str(checkpoint_of(tiny)), "p4m"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert "'p4m' cannot name" in capsys.readouterr().err


# --- what comes with this package ---

SHIPPED = available()


def test_the_list_the_weights_and_the_cards_belong_together():
    assert [f"{name}.safetensors" for name in SHIPPED] == list(read_checksums(WEIGHTS))
    files = {f"{name}{ending}" for name in SHIPPED for ending in (".safetensors", ".md")}
    assert {file.name for file in WEIGHTS.iterdir()} == {CHECKSUMS} | files


@pytest.mark.skipif(not SHIPPED, reason="no network is shipped yet")
def test_all_of_it_is_small():
    assert sum(file.stat().st_size for file in WEIGHTS.iterdir()) <= LIMIT


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_network_has_its_own_card_and_was_trained_by_committed_code(name):
    about = read_pretrained(name)
    card = WEIGHTS / f"{name}.md"
    assert card.read_text(encoding="utf-8") == model_card(name, about), f"write model_card's text to {card} again"
    assert "+" in about["training"]["version"]
    assert not about["training"]["version"].endswith("-dirty")
    assert abs(about["expected"]["dice"] - about["dice_before_rounding"]) <= TOLERANCE / 100


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    return tmp_path_factory.mktemp("patches")


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_network_keeps_the_promise_of_its_card(name, patches):
    about = read_pretrained(name)
    store = own_store(about, name, patches)
    test = unseen_patches(about, store)
    assert len(test) == about["parts"]["test"]["patches"]
    network, sums = load_pretrained(name), torch.zeros(3)
    with torch.inference_mode():
        for batch, masks in DataLoader(PatchDataset(store, test), batch_size=16):
            sums += counts(network(to_input(batch)).sigmoid() > 0.5, masks).sum(dim=0)
    assert abs(dice(*sums.tolist()) - about["expected"]["dice"]) <= 0.001


def test_the_maps_of_pretrained_networks_are_of_patients_that_neither_has_seen(tiny):
    maps = pretrained_maps("tiny", tiny / "data", candidates=2)
    store = own_store(read_pretrained("p4m-tiny"), "p4m-tiny", tiny / "data")
    for name in TINY.values():
        assert set(store.case[maps["patch"]]) <= set(read_pretrained(name)["test_cases"])
    assert maps["p4m_deviation_max"].max() < 1e-5 < maps["unet_deviation"].max()
    assert str(maps["networks"]) == "unet-tiny and p4m-tiny"
    assert pretrained_maps("another", tiny / "data") is None


def test_a_study_under_way_gets_the_maps_of_its_pretrained_networks_and_keeps_its_own(tiny, tmp_path):
    path = maps_path(tmp_path, "tiny")
    save_pretrained_maps(tmp_path, "tiny")
    assert not path.parent.exists()  # nothing has run
    path.parent.mkdir(parents=True)
    save_pretrained_maps(tmp_path, "tiny")
    saved = load_stability_maps(path)
    assert str(saved["networks"]) == "unet-tiny and p4m-tiny"
    assert str(saved["fingerprint"]) == read_pretrained("p4m-tiny")["data"]["fingerprint"]
    path.write_bytes(b"its own")
    save_pretrained_maps(tmp_path, "tiny")
    assert path.read_bytes() == b"its own"
    save_pretrained_maps(tmp_path, "another")
    assert not maps_path(tmp_path, "another").exists()
