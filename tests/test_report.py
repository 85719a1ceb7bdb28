import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from data_helpers import assert_refused
from lightning_fabric import Fabric
from matplotlib.figure import Figure
from record_helpers import CASES, WORSE, own_cases, record, scaled

from study import report
from study.data.datasets.miniature import SOURCE as MINIATURE
from study.errors import StudyError
from study.experiments.maps import save_stability_maps
from study.experiments.presets import Preset
from study.experiments.recipe import Recipe
from study.experiments.records import read_record, write_record
from study.experiments.saved_maps import load_stability_maps, maps_path
from study.experiments.trials import Study, run_trial
from study.report import results, writing
from study.report.figures import FIGURES
from study.report.results import StudyResults
from study.report.tables import TABLES
from study.report.writing import make_figures


@pytest.fixture
def records():
    return [
        record("unet-aug", 1.0, 0, WORSE),
        record("unet-aug", 1.0, 1, WORSE),
        record("p4m", 1.0, 0, CASES),
        record("p4m", 1.0, 1, CASES),
        record("p4m", 0.25, 0, WORSE),
    ]


def row_of(records, model, fraction):
    return report.summary_rows(records).set_index(["model", "fraction"]).loc[(model, fraction)]


def test_a_row_pools_the_pixels_of_all_seeds_and_has_their_deviation(records):
    records[3] = record("p4m", 1.0, 1, scaled(CASES, errors=20))
    row = row_of(records, "p4m", 1.0)
    tp, fp, fn = sum(np.array(list(r["cases"].values())).sum(axis=0) for r in records[2:4])
    assert row.dice == pytest.approx(200 * tp / (2 * tp + fp + fn))
    first, second = (100 * r["metrics"]["dice"] for r in records[2:4])
    assert row.dice_sd == pytest.approx(abs(first - second) / np.sqrt(2))
    assert row.seeds == 2


def test_the_gain_is_over_the_augmented_unet_and_paired(records):
    row = row_of(records, "p4m", 1.0)
    assert 0 < row.gain_low <= row.gain <= row.gain_high
    assert row.gain_high - row.gain_low < row.dice_high - row.dice_low
    baseline = row_of(records, "unet-aug", 1.0)
    assert baseline.gain == baseline.gain_low == baseline.gain_high == 0


def test_the_papers_numbers_stand_apart_from_ours(records):
    head, _, *rows = (line for line in report.dice_table(records).splitlines() if line.startswith("|"))
    assert head.split("|")[-2].strip() == "Paper, Camelyon16 (25 / 100 %)"
    cells = {row.split("|")[1].strip(): row.split("|")[-2].strip() for row in rows}
    assert cells == {"U-Net, augmented": "77.6 / 79.8", "P4M U-Net": "81.6 / 83.7"}


def test_the_papers_unet_was_augmented_so_that_ours_without_has_no_number_beside_it(records):
    plain = [record("unet", 1.0, 0, WORSE), *records]
    (row,) = (line for line in report.dice_table(plain).splitlines() if line.startswith("| U-Net |"))
    assert row.split("|")[-2].strip() == "–"


def test_a_missing_cell_is_a_dash_not_an_error(records):
    (unet,) = (line for line in report.dice_table(records).splitlines() if line.startswith("| U-Net, aug"))
    assert unet.split("|")[2].strip() == "–"


def test_one_seed_has_no_spread_over_seeds(records):
    (p4m,) = (line for line in report.dice_table(records).splitlines() if line.startswith("| P4M"))
    assert "±" not in p4m.split("|")[2]
    assert "±" in p4m.split("|")[3]


def test_synthetic_results_say_so(records):
    for one in records:
        one["data"]["source"] = MINIATURE
    assert report.caption(records).startswith("SYNTHETIC slides (miniature Camelyon), 80 x 80 px, width 8")
    assert report.caption(records) in report.dice_table(records)
    assert report.caption(records) in report.stability_table(records)


def test_few_seeds_are_said_to_leave_the_intervals_too_narrow(records):
    many = [record("p4m", 1.0, seed, CASES) for seed in range(6)]
    assert "Fewer than 5 seeds" in report.dice_table(records)
    assert "Fewer than 5 seeds" not in report.dice_table(many)


def test_seeds_are_counted_where_they_differ_between_cells():
    cells = {("p4m", 1.0): 6, ("p4", 1.0): 1}
    records = [record(model, f, seed, own_cases(seed, CASES)) for (model, f), n in cells.items() for seed in range(n)]
    table = report.dice_table(records)
    assert "(6 seeds)" in table
    assert "(1 seed)" in table
    assert "Fewer than 5 seeds" in table
    assert "seeds)" not in report.dice_table(records[:6])


def test_the_caption_counts_the_patches_and_cases_of_all_seeds(records):
    assert "4 test patches of 12 cases" in report.caption(records)
    nested = [record("p4m", 1.0, seed, own_cases(seed, CASES)) for seed in range(3)]
    assert "12 test patches of 36 cases" in report.caption(nested)


def test_every_trial_is_a_row_with_its_provenance(records):
    rows = report.trial_rows(records)
    assert len(rows) == 5
    assert {"model", "fraction", "seed", "dice", "fingerprint", "command", "size"} <= set(rows.columns)


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    recipe = Recipe.of(width=4, depth=1, grid="even", batch_size=4, epochs=2, batches_per_epoch=4, learning_rate=0.01)
    preset = Preset("tiny", source="store", size=16, recipe=recipe, models=("unet", "p4m"), fractions=(0.5, 1.0))
    study, fabric = Study("tiny", preset, store, tmp_path_factory.mktemp("study")), Fabric(accelerator="cpu", devices=1)
    for trial in study.trials():
        run_trial(study, trial, fabric)
    unet, p4m = (study.checkpoint_path(trial) for trial in study.trials()[2:])
    shown = store.indices("test")
    save_stability_maps(maps_path(study.root, study.name), store, shown, unet=unet, p4m=p4m, device=fabric.device)
    return study


@pytest.fixture
def finished(trained, tmp_path):
    """A copy that a test may damage."""
    shutil.copytree(trained.root, tmp_path, dirs_exist_ok=True)
    return replace(trained, root=tmp_path)


def test_a_study_gets_all_its_tables_and_figures(finished):
    written = {path.name for path in make_figures(finished.root, finished.name)}
    drawn = {"dice_against_data", "p4_against_p4m", "stability", "contrasts", "learning_curves", "flip_rate"}
    assert written == {f"{name}.{kind}" for name in drawn for kind in ("png", "svg")} | {
        "claims.csv",
        "claims.md",
        "contrasts.csv",
        "contrasts.md",
        "costs.csv",
        "costs.md",
        "dice_table.csv",
        "dice_table.md",
        "measures.csv",
        "measures.md",
        "stability_table.md",
    }
    trials = pd.read_csv(finished.root / "results" / "tiny" / "trials.csv")
    assert len(trials) == 4


def diverge(study, trial):
    record = read_record(study.record_path(trial))
    record["metrics"]["diverged"] = True
    write_record(study.record_path(trial), record)


def test_trials_that_diverged_are_named_and_in_no_table_or_figure(finished):
    whole = {path.name: path.read_bytes() for path in make_figures(finished.root, finished.name)}
    trial = finished.trials()[0]
    diverge(finished, trial)
    make_figures(finished.root, finished.name)
    figures = finished.root / "figures" / "tiny"
    table = (figures / "dice_table.md").read_text()
    (unet,) = (line for line in table.splitlines() if line.startswith("| U-Net "))
    assert unet.split("|")[2].strip() == "–"
    assert table.endswith(f"\n\nLeft out, as they ended worse than a constant prediction: {trial}.\n")
    assert (figures / "dice_against_data.svg").read_bytes() != whole["dice_against_data.svg"]
    for other in finished.trials()[1:]:
        diverge(finished, other)
    with pytest.raises(StudyError, match=r"all trials in .* diverged"):
        make_figures(finished.root, finished.name)


def test_contrasts_and_claims_name_what_diverged(finished):
    trial = finished.trials()[0]
    diverge(finished, trial)
    make_figures(finished.root, finished.name)
    for table in ("claims.md", "contrasts.md"):
        assert f"{trial}.\n" in (finished.root / "figures" / "tiny" / table).read_text()


def test_a_study_of_one_model_has_claims_and_no_contrast_not_even_an_older_one(finished):
    figures = finished.root / "figures" / "tiny"
    figures.mkdir(parents=True)
    for suffix in ("md", "csv", "png", "svg"):
        (figures / f"contrasts.{suffix}").write_text("of when there were two models")
    for trial in finished.trials():
        if trial.model == "unet":
            finished.record_path(trial).unlink()
    written = {path.stem for path in make_figures(finished.root, finished.name)}
    assert "claims" in written
    assert "contrasts" not in written


def test_further_tasks_stand_beside_the_first_and_have_no_tests_of_their_own(finished, monkeypatch):
    monkeypatch.setattr(results, "FURTHER_TASKS", {"tiny": ("other", "absent")})
    folder = finished.root / "results"
    shutil.copytree(folder / "tiny" / "trials", folder / "other" / "trials")
    make_figures(finished.root, "tiny")
    head = (finished.root / "figures" / "tiny" / "claims.md").read_text()
    assert "| Claim of the paper | Paper | Ours: tiny | Ours: other |" in head
    assert not {"claims", "contrasts"} & {path.stem for path in make_figures(finished.root, "other")}


def test_the_forest_has_a_line_for_every_contrast(records):
    study = StudyResults("glands", records)
    rows = study.contrasts
    axes, beside = report.draw("contrasts", study).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == rows.contrast.tolist()
    assert len(beside.get_yticklabels()) == len(rows)


def test_the_same_results_give_the_same_files(finished):
    first = {path.name: path.read_bytes() for path in make_figures(finished.root, finished.name)}
    again = {path.name: path.read_bytes() for path in make_figures(finished.root, finished.name)}
    assert first == again


def test_the_stability_maps_are_of_test_patches_and_p4m_is_steady(finished):
    maps = load_stability_maps(maps_path(finished.root, finished.name))
    assert set(maps["patch"]) <= set(finished.store.indices("test"))
    assert maps["image"].shape == (3, 16, 16, 3)
    assert maps["p4m_deviation_max"].max() < 1e-6
    assert maps["unet_deviation"].max() > 1e-4


def test_figures_without_maps_lack_only_the_panel(finished):
    maps_path(finished.root, finished.name).unlink()
    written = {path.name for path in make_figures(finished.root, finished.name)}
    assert "dice_table.md" in written
    assert "stability.png" not in written


@pytest.mark.parametrize("content", [b"", b"no archive"])
def test_damaged_maps_are_named(finished, content):
    maps_path(finished.root, finished.name).write_bytes(content)
    with pytest.raises(StudyError, match=r"stability_maps\.npz is damaged"):
        make_figures(finished.root, finished.name)


def test_one_case_alone_gets_no_interval(records):
    alone = [record("unet-aug", 1.0, 0, {"only": [10, 2, 3]}), record("p4m", 1.0, 0, {"only": [11, 2, 2]})]
    assert "[" not in report.dice_table(alone)
    for name in FIGURES:
        report.draw(name, StudyResults("glands", alone))


def test_the_gain_is_over_the_seeds_that_both_models_have(records):
    better = [record("p4m", 1.0, 7, {case: [1000, 0, 0] for case in CASES})]
    rows = report.summary_rows([*records, *better]).set_index(["model", "fraction"])
    expected = report.summary_rows(records).set_index(["model", "fraction"])
    assert rows.loc[("p4m", 1.0), "gain"] == pytest.approx(expected.loc[("p4m", 1.0), "gain"])
    assert np.isnan(rows.loc[("p4m", 0.25), "gain"])


def test_what_a_kill_left_half_written_is_removed(finished):
    left = finished.root / "figures" / finished.name / ".costs.md.0123456789ab.partial"
    left.parent.mkdir(parents=True, exist_ok=True)
    left.write_text("half")
    make_figures(finished.root, finished.name)
    assert not left.exists()


@pytest.mark.parametrize(("section", "key"), [("settings", "width"), ("data", "fingerprint")])
def test_trials_of_two_studies_are_not_put_in_one_table(finished, section, key):
    path = finished.record_path(finished.trials()[0])
    other = read_record(path)
    other[section][key] = "another"
    write_record(path, other)
    with pytest.raises(StudyError, match=r"unet-50-0.*differ in settings or data"):
        make_figures(finished.root, finished.name)


def test_records_from_before_a_setting_are_of_one_study_with_todays(tmp_path):
    committed = Path(__file__).parents[1] / "results/ebhi-cpu/trials"
    older, other = (read_record(committed / f"{name}-100-0.json") for name in ("unet", "p4m"))
    today = {"settings": other["settings"] | {"task": "glands", "design": "stored", "schedule": "plateau"}}
    today["data"] = other["data"] | {"source": "EBHI-SEG, glands"}
    for name, one in [("unet-100-0", older), ("p4m-100-0", other | today)]:
        write_record(tmp_path / "trials" / f"{name}.json", one)
    assert len(report.load_records(tmp_path)) == 2
    today["settings"]["design"] = "folds"
    write_record(tmp_path / "trials/p4m-100-0.json", other | today)
    with assert_refused("differ in settings or data"):
        report.load_records(tmp_path)


@pytest.mark.parametrize("content", ["{}", "[]", "null", "", '{"trial": {"model": "resnet"}}'])
def test_a_file_that_is_no_record_is_named(finished, content):
    path = finished.record_path(finished.trials()[0])
    path.write_text(content)
    with pytest.raises(StudyError, match=r"unet-50-0\.json is damaged or no record"):
        make_figures(finished.root, finished.name)


def test_maps_of_other_data_are_not_drawn(finished, tmp_path):
    maps = load_stability_maps(maps_path(finished.root, finished.name))
    np.savez(maps_path(finished.root, finished.name), **(maps | {"fingerprint": np.array("another")}))
    assert "stability.png" not in {path.name for path in make_figures(finished.root, finished.name)}


def test_maps_without_an_array_are_named(finished):
    np.savez(maps_path(finished.root, finished.name), image=np.zeros(3))
    with pytest.raises(StudyError, match=r"stability_maps\.npz is damaged"):
        make_figures(finished.root, finished.name)


@pytest.fixture
def with_escnn(records):
    more = [record("p4m-escnn", f, 0, cases) for f, cases in [(0.25, CASES), (1.0, WORSE)]]
    more += [record("p4m-escnn-full", 1.0, s, CASES) for s in (0, 1)]
    more += [record("p8-escnn", 1.0, 0, CASES)]
    return records + more


def test_implementations_are_compared_with_the_layers_from_scratch(with_escnn):
    rows = report.implementation_rows(with_escnn).set_index(["layers", "fraction"])
    assert set(rows.native) == {"p4m"}  # P8 has no twin, and the U-Net none on escnn
    assert set(rows.index) == {
        *(("native", f) for f in (0.25, 1.0)),
        *(("escnn", f) for f in (0.25, 1.0)),
        ("escnn, full basis", 1.0),
    }
    assert rows.loc[("native", 1.0), ["difference", "difference_low"]].isna().all()
    assert rows.loc[("escnn, full basis", 1.0), ["difference", "difference_low", "difference_high"]].tolist() == [
        0,
        0,
        0,
    ]
    lower = rows.loc[("escnn", 1.0)]  # one seed against the native layers' same seed
    assert lower.difference_low <= lower.difference <= lower.difference_high < 0
    table = report.implementation_table(with_escnn)
    assert "| P4M U-Net | escnn, full basis | – | +0.0 [+0.0, +0.0] |" in table
    assert "P8" not in table


def test_the_dice_table_has_every_model_and_the_figures_of_the_paper_only_its_own(with_escnn):
    assert "P8 U-Net, escnn" in report.dice_table(with_escnn)
    study = StudyResults("glands", with_escnn)
    figure = report.draw("dice_against_data", study)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["U-Net, augmented", "P4M U-Net"]
    figure = report.draw("implementations", study)
    assert [axes.get_title() for axes in figure.axes] == ["P4M U-Net"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["escnn", "escnn, full basis"]


def test_studies_without_escnn_have_no_table_of_it(records):
    assert not report.has_escnn(records)
    assert not report.has_escnn([record("p8-escnn", 1.0, 0, CASES)])
    assert not report.has_escnn([record("p4m-escnn", 1.0, 0, CASES)])  # alone, it has nothing to be compared with


def test_regimes_without_a_twin_are_left_open(with_escnn):
    lonely = [*with_escnn, record("p4m-escnn", 0.5, 0, CASES)]
    table = report.implementation_table(lonely)
    assert "nan" not in table
    assert report.draw("implementations", StudyResults("glands", lonely))


def test_a_figure_is_drawn_and_listed_once_it_is_registered(finished, monkeypatch):
    def mine(study):
        """Nothing but a frame."""
        figure = Figure()
        figure.subplots().set_title(study.name)
        return figure

    monkeypatch.setattr(writing, "FIGURES", {"mine": mine})
    assert "mine.png" in {path.name for path in make_figures(finished.root, finished.name)}
    assert report.contents()["mine.png"] == "Nothing but a frame."
    assert report.draw("mine", report.read_study(finished.root, finished.name)).axes[0].get_title() == "tiny"


def test_what_there_is_not_is_named_with_what_there_is(records):
    study = StudyResults("glands", records)
    with pytest.raises(StudyError, match=r"no figure 'forest'; there are dice_against_data, contrasts"):
        report.draw("forest", study)
    with pytest.raises(StudyError, match=r"no table 'dice'; there are dice_table"):
        report.table("dice", study)
    assert report.table("implementation_table", study) == "glands has no implementation table yet."


PARTIAL = {
    "one trial of P4M": [("p4m", 0.125, 0)],
    "one trial of the baseline": [("unet-aug", 0.125, 0)],
    "one seed": [("unet-aug", 0.125, 0), ("p4m", 0.125, 0), ("p4m", 1.0, 0)],
    "no common seed": [("unet-aug", 0.125, 0), ("p4m", 0.125, 1)],
    "another number of seeds in every cell": [
        *(("unet-aug", 0.125, seed) for seed in range(3)),
        *(("p4m", 0.125, seed) for seed in range(2)),
        *(("unet-sym", 0.125, 0), ("unet-aug", 0.5, 1), ("p4m", 1.0, 1), ("p4m-escnn", 0.125, 1)),
    ],
    "only escnn": [("p4m-escnn", 0.125, 0)],
}


@pytest.mark.parametrize("trials", PARTIAL.values(), ids=PARTIAL)
def test_a_study_that_has_only_begun_has_the_tables_and_figures_that_it_can_have(trials):
    history = [{"epoch": n, "train_loss": 0.5 - 0.1 * n, "validation_dice": 0.5, "seconds": 2.0} for n in range(2)]
    records = []
    for model, fraction, seed in trials:
        cases = own_cases(seed, scaled(CASES, errors=seed + 5 * (model == "unet-aug")))
        records.append(record(model, fraction, seed, cases, training_seconds=4.0) | {"history": history})
    study = StudyResults("cancer", records)
    for name in TABLES:
        assert "nan" not in report.table(name, study)
    for name in FIGURES:
        figure = report.draw(name, study)
        if figure:
            figure.canvas.draw()
    assert report.draw("learning_curves", study)
    assert "nan" not in report.verdict(study)
