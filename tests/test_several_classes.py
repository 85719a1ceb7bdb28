"""Three classes all the way: store, training, evaluation, tables, checkpoint, slide, picture and contours."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from class_helpers import CLASSES, TISSUE, make_coloured, make_coloured_slide
from data_helpers import assert_refused, make_store
from matplotlib.figure import Figure
from PIL import Image
from shapely.geometry import shape
from torch.utils.data import DataLoader

from study import report
from study.cli.networks import evaluate as evaluate_command
from study.cli.prediction import predict
from study.cli.show import show_table
from study.data.patches.loading import PatchDataset, to_input
from study.experiments.evaluation import CASE_COLUMNS, case_columns, evaluate, summarise
from study.experiments.grid import save_maps
from study.experiments.packaging import package
from study.experiments.presets import override
from study.experiments.records import Trial, read_record
from study.experiments.saved_maps import load_stability_maps, maps_path
from study.experiments.trials import Study, run_trial
from study.networks.checkpoint import load_checkpoint, load_model, save_checkpoint
from study.networks.unet import UNetArchitecture
from study.prediction.colours import colour_of
from study.prediction.overlay import blend, blend_classes, draw_legend
from study.report import load_records, make_figures
from study.report.records import counts as counts_of
from study.report.results import StudyResults
from study.report.statistics import dice_draws, pooled_dice
from study.tasks.labels import IGNORE
from study.tasks.losses import LOSSES
from study.tasks.ratios import dice, iou, mean_dice
from study.tasks.registry import TASKS
from study.tasks.stability import stability
from study.tasks.task import Task

THREE = Task("own", CLASSES)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A study of three classes, trained until it tells them apart, with the records of its trials."""
    from lightning_fabric import Fabric

    from study.experiments.presets import Preset
    from study.experiments.recipe import Recipe

    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("classes")
    recipe = Recipe.of(width=8, depth=1, grid="even", batch_size=8, epochs=4, batches_per_epoch=20, learning_rate=1e-2)
    preset = Preset("three", "store", 16, recipe, models=("unet", "p4m"), fractions=(1.0,), seeds=(0,))
    study = Study("three", preset, make_coloured(root / "store.h5"), root)
    fabric = Fabric(accelerator="cpu", devices=1)
    return study, [run_trial(study, trial, fabric) for trial in study.trials()]


@pytest.fixture
def checkpoint(done):
    study, _ = done
    return study.checkpoint_path(Trial("p4m", 1.0, 0))


# training and evaluation


def test_it_learns_the_classes_that_the_store_names(done):
    study, records = done
    assert study.task == THREE
    for record in records:
        assert record["task"] == {"name": "own", "classes": list(CLASSES)}
        assert record["metrics"]["dice"] > 0.9
        assert not record["metrics"]["diverged"]
        assert record["history"][-1]["validation_dice"] > 0.9
        assert read_record(study.record_path(Trial(**record["trial"]))) == record


def test_the_dice_of_each_class_and_their_mean_are_those_of_counting_pixels(done):
    study, (record, _) = done
    network = load_model(study.checkpoint_path(Trial("unet", 1.0, 0)))
    test = study.store.indices("test")
    images, masks = (torch.stack(arrays) for arrays in zip(*PatchDataset(study.store, test), strict=True))
    with torch.no_grad():
        decision = network(to_input(images)).argmax(dim=1).numpy()
    truth, found = masks[:, 0].numpy(), {}
    for label in (1, 2):
        ours, theirs = decision == label, truth == label
        pixels = (ours & theirs).sum(), (ours & ~theirs & (truth != IGNORE)).sum(), (~ours & theirs).sum()
        assert pixels[0] > 0
        found[label] = dice(*pixels), iou(*pixels)
        assert record["metrics"][f"dice_{label}"] == pytest.approx(float(found[label][0]), rel=1e-12)
        assert record["metrics"][f"iou_{label}"] == pytest.approx(float(found[label][1]), rel=1e-12)
    assert record["metrics"]["dice"] == pytest.approx(np.mean([found[1][0], found[2][0]]), rel=1e-12)
    assert record["metrics"]["iou"] == pytest.approx(np.mean([found[1][1], found[2][1]]), rel=1e-12)


def test_the_sums_per_case_add_up_to_the_measures(done):
    _, (record, _) = done
    cases = pd.DataFrame.from_dict(record["cases"], orient="index", columns=record["case_columns"])
    assert record["case_columns"] == case_columns(THREE)
    sums, metrics = cases.sum(), record["metrics"]
    for reading in ("", "tta_"):
        pooled = [sums[f"{reading}{name}_{label}"] for label in (1, 2) for name in ("tp", "fp", "fn")]
        assert metrics[f"{reading}dice"] == pytest.approx(float(mean_dice(pooled)))
    pixels = sums.border_pixels + sums.interior_pixels
    assert metrics["changed"] == pytest.approx((sums.border_flips + sums.interior_flips) / pixels)
    for label in (1, 2):
        bins = {name: np.array(record["calibration"][f"{name}_{label}"]) for name in ("pixels", "foreground")}
        assert bins["pixels"].sum() == pixels
        assert bins["foreground"].sum() == sums[f"tp_{label}"] + sums[f"fn_{label}"]


def test_the_tables_tell_the_dice_of_each_class_and_that_others_are_means(done):
    _, records = done
    rows = report.class_rows(records).set_index(["model", "class"])
    for record in records:
        for label, name in enumerate(CLASSES[1:], start=1):
            of_record = 100 * record["metrics"][f"dice_{label}"]
            assert rows.dice[record["trial"]["model"], name] == pytest.approx(of_record)
    study = StudyResults("grades", records)
    assert f"| Model | Share of the data | {' | '.join(CLASSES[1:])} |" in report.table("class_table", study)
    for name in ("dice_table", "measures"):
        assert "mean over the classes" in report.table(name, study)


def test_an_equivariant_network_is_steady_in_several_classes_too(done):
    _, (unet, p4m) = done
    assert p4m["metrics"]["changed"] == 0
    assert p4m["metrics"]["deviation_max"] < 1e-5 < unet["metrics"]["deviation_max"]


class OneChannel(torch.nn.Module):
    """Answers a roto-reflected patch differently."""

    def forward(self, x):
        return 5 * (x[:, :1] - x[:, :1].roll((1, 2), (-2, -1)))


class ThreeChannels(OneChannel):
    """The same, with a third class that is never found."""

    def forward(self, x):
        z = super().forward(x)
        return torch.cat([torch.zeros_like(z), z, torch.full_like(z, -100)], dim=1)


def test_two_of_three_classes_are_measured_as_two_alone():
    """Except for what one class has and the other has not, every sum is the same."""
    images = torch.randint(0, 256, (4, 3, 12, 12), dtype=torch.uint8)
    mask = torch.randint(0, 2, (4, 1, 12, 12), dtype=torch.uint8)
    mask[torch.rand(mask.shape) < 0.1] = IGNORE
    batches = DataLoader(list(zip(images, mask, strict=True)), batch_size=3)
    binary = pd.concat(evaluate(OneChannel(), batches, CPU)).assign(case="a")
    several = pd.concat(evaluate(ThreeChannels(), batches, CPU, THREE)).assign(case="a")
    for column in CASE_COLUMNS:
        other = f"{column}_1" if f"{column}_1" in several else column
        np.testing.assert_allclose(several[other], binary[column], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(several.deviation_max, binary.deviation_max, rtol=1e-5)
    assert (several[["tp_2", "fp_2", "fn_2"]] == 0).all(axis=None)
    numbers, alone = summarise(several, THREE), summarise(binary)
    for key in ("dice", "dice_per_patch", "iou", "boundary_dice", "ece"):
        assert numbers[f"{key}_1"] == pytest.approx(alone[key], abs=1e-5)
    for key in ("deviation", "changed", "deviation_border", "changed_interior"):
        assert numbers[key] == pytest.approx(alone[key], abs=1e-5)
    assert numbers["dice_per_patch_2"] is None  # no patch has this class
    assert numbers["dice_per_patch"] == numbers["dice_per_patch_1"]
    assert numbers["dice"] == pytest.approx((numbers["dice_1"] + 1) / 2)  # neither there nor found


def test_a_class_that_has_no_pixel_in_a_case_or_a_patch_is_left_out_of_their_means():
    columns = [*case_columns(THREE), "deviation_max"]
    table = pd.concat(evaluate(ThreeChannels(), [(torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4))], CPU, THREE))
    table = pd.DataFrame(0.0, range(2), table.columns).assign(case=["a", "b"], tp_1=[3, 0], fn_1=[1, 0], tp_2=[0, 5])
    assert set(columns) <= set(table.columns)
    numbers = summarise(table, THREE)
    assert numbers["dice_per_case_1"] == pytest.approx(6 / 7)
    assert numbers["dice_per_case_2"] == 1
    assert numbers["dice_per_case"] == pytest.approx((6 / 7 + 1) / 2)


def test_no_card_is_made_for_several_classes(done, checkpoint, tmp_path, fabric):
    study, _ = done
    with assert_refused("tells 3 classes apart"):
        package(checkpoint, "three", tmp_path, root=study.root, fabric=fabric)


def test_names_of_classes_and_files_are_no_markup(capsys):
    show_table(["Class"], [["gland [benign]"], ["a[/b]"], [":smile:"]], "runs/[old]/x.h5")
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("gland [benign]", "a[/b]", ":smile:", "runs/[old]/x.h5"))


def test_tables_and_figures_are_of_the_mean_dice(done):
    study, records = done
    save_maps(study, CPU)
    written = make_figures(study.root, "three")
    assert {"dice_table.md", "stability.png"} <= {file.name for file in written}
    for record in load_records(study.root / "results" / "three"):
        units = counts_of([record])
        assert list(units.columns) == [f"{name}_{label}" for label in (1, 2) for name in ("tp", "fp", "fn")]
        assert pooled_dice(units) == pytest.approx(100 * record["metrics"]["dice"])
        draws = dice_draws(units)
        each = [units.xs(case, level="case") for case in units.index.unique("case")]
        assert draws.min() >= min(pooled_dice(one) for one in each) - 1e-9
        assert draws.max() <= max(pooled_dice(one) for one in each) + 1e-9
    maps = load_stability_maps(maps_path(study.root, "three"))
    assert maps["unet_mean"].min() >= 0
    assert maps["unet_mean"].max() <= 1 + 1e-6
    assert f"{100 * records[0]['metrics']['dice']:.1f}" in (study.root / "figures/three/dice_table.md").read_text()


def test_evaluate_names_the_classes_and_refuses_patches_of_others(done, checkpoint, tmp_path, capsys):
    study, (_, record) = done
    evaluate_command(str(checkpoint), study.store.path)
    output = capsys.readouterr().out
    for label in (1, 2):
        line = next(line for line in output.split("\n") if f"Dice of {CLASSES[label]}" in line)
        assert f"{100 * record['metrics'][f'dice_{label}']:.2f} %" in line
    with assert_refused("masks of 2 classes", "gland, immune cell"):
        evaluate_command(str(checkpoint), make_store(tmp_path / "two.h5", size=16))


# another loss


def test_a_study_is_trained_with_the_dice_and_says_so(done, fabric, tmp_path):
    study, records = done
    assert "loss" not in records[0]["settings"]  # as before there were two
    preset = override(study.preset, ["loss=soft-dice", "models=unet"])
    assert preset.trial_settings("unet")["loss"] == "soft-dice"
    other = Study("dice", preset, study.store, tmp_path)
    record = run_trial(other, other.trials()[0], fabric)
    assert record["settings"]["loss"] == "soft-dice"
    assert record["metrics"]["dice"] > 0.9
    assert record["metrics"]["train_loss"] < record["metrics"]["constant_loss"]
    assert other.is_done(other.trials()[0])
    with assert_refused("unknown loss 'hinge'", "soft-dice"):
        override(study.preset, ["loss=hinge"])


@pytest.mark.parametrize("classes", [2, 3])
def test_a_new_loss_is_a_class_and_a_line_in_the_registry(done, fabric, tmp_path, monkeypatch, store, classes):
    @dataclass(frozen=True)
    class Brier:
        """The squared error of the probability."""

        def __call__(self, logits, mask):
            p, labelled = logits.softmax(1) if logits.shape[1] > 1 else logits.sigmoid(), mask != IGNORE
            truth = mask == (torch.arange(3).view(1, 3, 1, 1) if logits.shape[1] > 1 else 1)
            return ((p - truth.to(p.dtype)) ** 2 * labelled).sum(), labelled.sum()

        def of_best_constant(self, counts):
            shares = counts.sum(0) / counts.sum()
            return float((shares * (1 - shares)).sum())

    monkeypatch.setitem(LOSSES, "brier", Brier())
    preset = override(done[0].preset, ["loss=brier", "models=unet", "epochs=1", "batches_per_epoch=2"])
    study = Study("brier", preset, done[0].store if classes == 3 else store, tmp_path)
    record = run_trial(study, study.trials()[0], fabric)
    assert record["settings"]["loss"] == "brier"
    assert record["metrics"]["constant_loss"] < 1
    assert len(study.task.classes) == classes


def test_a_new_task_is_a_line_in_the_registry(done, fabric, tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "inflammation", Task("inflammation", CLASSES))
    small = override(done[0].preset, ["models=unet", "epochs=1", "batches_per_epoch=2"])
    study = Study("inflammation", replace(small, task="inflammation"), done[0].store, tmp_path)
    record = run_trial(study, study.trials()[0], fabric)
    assert record["task"]["name"] == load_checkpoint(study.checkpoint_path(study.trials()[0]))["task"]["name"]
    assert record["task"]["name"] == "inflammation"


# back to a slide


def test_a_checkpoint_knows_its_task_and_its_scale(checkpoint):
    content = load_checkpoint(checkpoint)
    assert content["task"] == {"name": "own", "classes": list(CLASSES)}
    assert content["mpp"] == 1.0
    assert content["architecture"]["num_classes"] == 3


def test_a_slide_has_a_map_of_each_class_a_decision_a_picture_and_contours(checkpoint, tmp_path, capsys):
    labels = make_coloured_slide(tmp_path / "s.tif")
    predict(tmp_path / "s.tif", str(checkpoint), tmp_path / "out", tile=128, stability=True)
    said = capsys.readouterr()
    names = ("background", "gland", "immune-cell")
    maps = [f"s-{kind}-{name}.tif" for kind in ("probability", "mean", "deviation") for name in names]
    files = {*maps, "s-decision.tif", "s-overlay.png", "s-contours.geojson"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == files
    read = {name: tifffile.imread(tmp_path / "out" / name, key=0) for name in files if name.endswith("tif")}
    probabilities = np.stack([read[f"s-probability-{name}.tif"] for name in names])
    decision, tissue = read["s-decision.tif"], slice(*TISSUE)
    np.testing.assert_allclose(probabilities[:, tissue, tissue].sum(axis=0), 1, rtol=1e-5)
    assert decision.dtype == np.uint8
    np.testing.assert_array_equal(decision, probabilities.argmax(axis=0))
    assert (decision == labels)[tissue, tissue].mean() > 0.95
    assert max(read[f"s-deviation-{name}.tif"].max() for name in names) < 1e-5

    collection = json.loads((tmp_path / "out/s-contours.geojson").read_text())
    assert collection["prediction"]["task"]["classes"] == list(CLASSES)
    assert "threshold" not in collection["prediction"]
    for label, name in {1: "Gland", 2: "Immune cells"}.items():  # the second is QuPath's own name
        own = [f for f in collection["features"] if f["properties"]["classification"]["name"] == name]
        assert own[0]["properties"]["classification"]["color"] == list(colour_of(label))
        area = sum(f["properties"]["measurements"][f"{name} area mm^2"] for f in own)
        pixels = (decision == label).sum()
        assert area == pytest.approx(pixels / 1e6, rel=0.05)
        assert sum(shape(f["geometry"]).area for f in own) == pytest.approx(pixels, rel=0.1)
        found = f"{pixels / 1e6:.2f} mm² of the largest probability in {len(own)} regions of {CLASSES[label]}"
        assert found in said.out
    assert "read at 1 µm per pixel; the network was trained at 1." in said.err

    picture = np.asarray(Image.open(tmp_path / "out/s-overlay.png")).astype(int)
    left = (picture.shape[1] - 256) // 2
    gland, cell = picture[85, left + 95], picture[160, left + 145]
    assert gland[0] - gland[2] > 60 < cell[2] - cell[0]


def test_the_map_is_what_the_network_gives_on_the_whole_view(checkpoint, tmp_path, monkeypatch):
    from study.data.slides.slide import Slide
    from study.prediction import slide as prediction

    monkeypatch.setattr(prediction, "tissue_map", lambda view, cell: np.ones((32, 32), bool))  # everywhere
    make_coloured_slide(tmp_path / "s.tif")
    predict(tmp_path / "s.tif", str(checkpoint), tmp_path, tile=128, batch_size=3)
    with Slide(tmp_path / "s.tif") as opened:
        image = torch.from_numpy(opened.at(mpp=1).read(0, 0, 256, 256).copy()).permute(2, 0, 1)
    whole = stability(load_model(checkpoint), to_input(image[None]), THREE).probability[0].numpy()
    for channel, name in enumerate(("background", "gland", "immune-cell")):
        found = tifffile.imread(tmp_path / f"s-probability-{name}.tif", key=0)
        assert np.abs(found - whole[channel]).max() <= 1e-5


def test_a_threshold_for_several_classes_is_refused(checkpoint, tmp_path):
    make_coloured_slide(tmp_path / "s.tif")
    with assert_refused("threshold of 0.3", "leave it out"):
        predict(tmp_path / "s.tif", str(checkpoint), tmp_path / "out", threshold=0.3)
    assert not (tmp_path / "out").exists()


def test_the_legend_names_every_class_but_the_background_in_its_colour():
    axes = Figure().add_axes((0, 0, 1, 1))
    draw_legend(axes, THREE)
    legend = axes.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == list(CLASSES[1:])
    for label, swatch in enumerate(legend.get_patches(), start=1):
        white = np.full((1, 1, 3), 255, np.uint8)
        certain = np.eye(2)[label - 1][:, None, None]
        np.testing.assert_allclose(np.array(swatch.get_facecolor()[:3]), blend_classes(white, certain)[0, 0] / 255)


def test_a_pixel_has_the_colour_of_its_most_probable_class_as_far_as_it_is_probable():
    image = np.full((1, 4, 3), 200, np.uint8)
    p = np.array([[[0.0, 1.0, 0.3, 0.5]], [[0.0, 0.0, 0.6, 0.05]]])
    found = blend_classes(image, p)[0].astype(int)
    assert (found[0] == 200).all()
    assert found[1, 0] > found[1, 2]  # reddish
    assert found[2, 2] > found[2, 0]  # bluish
    assert (abs(found[3] - 200) < abs(found[1] - 200))[1:].all()  # fainter
    assert (blend(image, np.zeros((1, 4))) == image).all()


# what the network was trained for, and at which scale


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        ({"task": TASKS["glands"].about(), "settings": {"task": "glands"}}, "Gland", None),
        ({"settings": {"task": "nuclei"}}, "Nucleus", None),  # an older one
        ({}, "Tumor", "does not state its task; its foreground is called tumour"),
    ],
)
def test_what_is_found_is_called_what_the_network_was_trained_for(tmp_path, capsys, content, name, said):
    architecture = UNetArchitecture("z2", 4, 1, "even")
    network = architecture.build()
    torch.nn.init.constant_(network.project.bias, 50)  # it finds something everywhere
    save_checkpoint(tmp_path / "n.pt", architecture, network.state_dict(), mpp=1.0, **content)
    make_coloured_slide(tmp_path / "s.tif")
    predict(tmp_path / "s.tif", str(tmp_path / "n.pt"), tmp_path / "out")
    features = json.loads((tmp_path / "out/s-contours.geojson").read_text())["features"]
    assert {feature["properties"]["classification"]["name"] for feature in features} == {name}
    assert (said in capsys.readouterr().err) if said else ("trained for" not in capsys.readouterr().err)
