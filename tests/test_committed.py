"""What is committed in results/ and figures/ belongs together, and to the presets of today."""

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from study import report
from study.experiments.presets import find_preset
from study.experiments.records import Trial, as_today
from study.experiments.saved_maps import load_stability_maps, maps_path
from study.experiments.trials import Study
from study.experiments.tuning import chosen_rates, tuning_rows
from study.networks.models import ESCNN_MODELS, MODELS
from study.report.benchmarks import read_benchmark
from study.report.costs import read_updates
from study.report.results import read_study
from study.report.tables import TABLES
from study.report.tables.costs import costs_table

ROOT = Path(__file__).parents[1]
STUDIES = sorted(folder.parent.name for folder in (ROOT / "results").glob("*/trials"))


@pytest.fixture(params=STUDIES)
def study(request) -> str:
    return request.param


@pytest.fixture
def records(study) -> list[dict]:
    return report.load_records(ROOT / "results" / study)


def test_drawn_slides_and_a_study_on_real_tissue_are_committed():
    assert {"miniature", "ebhi-cpu"} <= set(STUDIES)


def test_trials_are_of_the_preset_by_its_present_settings_and_complete_where_a_cpu_is_enough(study, records):
    preset = find_preset(study)
    grid = {
        Trial(m, f, s) for models, fractions, seeds in preset.grids for m in models for f in fractions for s in seeds
    }
    more = {Trial(m, f, s) for m in ESCNN_MODELS for f in preset.fractions for s in preset.seeds}
    done = {Trial(**record["trial"]) for record in records}
    assert done <= grid | more
    assert done >= grid or study not in ("quick", "miniature", "ebhi-cpu")
    for record in records:
        assert as_today(record, preset.task)["settings"] == preset.trial_settings(record["trial"]["model"])


def test_records_of_older_versions_are_of_todays_study():
    store = SimpleNamespace(source="EBHI-SEG, glands", fingerprint="83a354ecb54e281b")
    study = Study("ebhi-cpu", find_preset("ebhi-cpu"), store, ROOT)
    assert all(study.is_done(trial, trust_results=True) for trial in study.trials())
    study.check_company([])
    store.source = "EBHI-SEG, cancer"
    assert not any(study.is_done(trial, trust_results=True) for trial in study.trials())


def test_the_code_that_made_them_is_named_and_was_committed(records):
    for record in records:
        version = record["provenance"]["version"]
        assert "+" in version
        assert not version.endswith("-dirty")


def test_the_protocol_was_committed_before_the_code_that_made_them_ran(study, records):
    if not study.startswith(("ebhi-cancer", "ebhi-glands", "nuclei")):
        pytest.skip("this study is older than the protocol")
    for commit in {record["provenance"]["version"].partition("+")[2] for record in records}:
        shown = subprocess.run(["git", "show", f"{commit}:docs/protocol.md"], cwd=ROOT, capture_output=True, text=True)
        if "unknown revision" in shown.stderr or "invalid object" in shown.stderr or "not a git" in shown.stderr:
            pytest.skip("this checkout has no history")
        assert "Primary contrast" in shown.stdout, f"{commit} had no protocol: {shown.stderr}"


def test_tables_are_those_of_the_records(study, records):
    figures = ROOT / "figures" / study
    assert (figures / "dice_table.md").read_text() == report.dice_table(records)
    assert (figures / "stability_table.md").read_text() == report.stability_table(records)
    if report.has_escnn(records):
        assert (figures / "implementation_table.md").read_text() == report.implementation_table(records)
    assert len((ROOT / "results" / study / "trials.csv").read_text().splitlines()) == len(records) + 1


def test_contrasts_and_claims_are_those_of_the_records(study):
    figures, found = ROOT / "figures" / study, read_study(ROOT, study)
    if found.answered_elsewhere:
        assert not (figures / "claims.md").exists()  # they stand beside those of another study
        return
    assert (figures / "claims.md").read_text().startswith(report.claim_table(found))
    if len(found.contrasts):
        assert (figures / "contrasts.md").read_text().startswith(report.contrast_table(found))
        assert (figures / "contrasts.svg").is_file()


def test_every_table_and_figure_that_a_study_has_is_committed(study):
    figures, found = ROOT / "figures" / study, read_study(ROOT, study)
    for name, table in TABLES.items():
        text = table.text(found)
        assert (figures / f"{name}.md").is_file() == bool(text)
        if text:
            assert (figures / f"{name}.md").read_text().startswith(text)
    assert (figures / "learning_curves.svg").is_file()
    assert (figures / "is_it_worth_it.svg").is_file() == (len(found.worth) > 1)


def test_both_bases_of_escnn_were_trained_on_all_regimes_of_the_real_tissue():
    rows = report.implementation_rows(report.load_records(ROOT / "results" / "ebhi-cpu"))
    cells = rows.groupby(["native", "layers"]).fraction.agg(set)
    assert set(cells.index) == {(n, k) for n in ("p4", "p4m") for k in ("native", "escnn", "escnn, full basis")}
    assert all(fractions == {0.125, 0.25, 0.5, 1.0} for fractions in cells)
    assert (rows[rows.layers == "escnn, full basis"].parameters > rows[rows.layers == "escnn"].parameters.max()).all()


@pytest.mark.parametrize("study", sorted(folder.parent.name for folder in (ROOT / "results").glob("*/tuning")))
def test_learning_rates_are_those_that_tuning_chose(study):
    preset, rows = find_preset(study), tuning_rows(ROOT / "results" / study)
    assert {model: preset.recipe_of(model).learning_rate for model in rows.model} == chosen_rates(rows)


def test_costs_are_of_all_networks_and_of_committed_code():
    tables = read_benchmark(ROOT, "models")
    for name, rows in tables.items():
        assert len(rows) == 16
        assert not rows.version.str.endswith("-dirty").any()
        assert (ROOT / "figures" / "costs" / f"{name}.md").read_text() == costs_table(rows)
        assert (ROOT / "figures" / "costs" / f"{name}.svg").is_file()


@pytest.mark.parametrize("study", sorted(file.parent.name for file in (ROOT / "results").glob("*/updates.csv")))
def test_times_in_turn_are_of_every_network_on_record_and_of_committed_code(study):
    rows, records = pd.read_csv(ROOT / "results" / study / "updates.csv"), report.load_records(ROOT / "results" / study)
    assert {record["trial"]["model"] for record in records} <= set(rows.model)
    assert read_updates(ROOT / "results" / study, records) is not None
    assert set(rows.study) == {study}
    assert not rows.version.str.endswith("-dirty").any()


def test_the_angles_are_of_all_groups_and_of_committed_code():
    (rows,) = read_benchmark(ROOT, "angles").values()
    rows = rows.set_index(["model", "degrees"])
    assert not rows.version.str.endswith("-dirty").any()
    assert {"unet", "p4", "p4m", "p8-escnn", "p8m-escnn"} <= set(rows.index.get_level_values("model"))
    for model in ("p4", "p4m", "p8-escnn", "p8m-escnn"):
        assert rows.difference[model, 90.0] < 1e-4 < rows.difference[model, 45.0]


def test_the_documents_show_the_rates_that_were_measured():
    text = " ".join((ROOT / "docs/performance.md").read_text().split())
    extraction, memory, loading = (
        pd.read_csv(ROOT / f"results/pipeline/amd-epyc-2-cores-{name}.csv")
        for name in ("extraction", "memory", "loading")
    )
    assert not pd.concat([extraction, memory, loading]).version.str.endswith("-dirty").any()
    low, middle, high = (100 * extraction.share).quantile([0, 0.5, 1])
    assert f"at {middle:.0f} % of the rate" in text
    assert f"| {extraction.extraction.median():.0f} " in text
    assert f"| {middle:.0f} % [{low:.0f} %, {high:.0f} %] |" in text
    assert len(extraction) == 7
    assert all(f"| {row.patches:,} | {row.peak_mb:.0f} MB |" in text for row in memory.itertuples())
    rates = loading.groupby("format").rate.median()
    assert all(f"| {name} | {rate:,.0f} |" in text for name, rate in rates.items())


def test_p4m_is_steady_wherever_it_was_trained_and_the_unet_is_not(study, records):
    for record in records:
        model = MODELS[record["trial"]["model"]]
        if model.architecture(width=8, depth=1, grid="even").symmetries.all():
            assert record["metrics"]["deviation_max"] < 1e-5
            assert record["metrics"]["changed"] < 1e-4
        if record["trial"]["model"] == "unet":
            assert record["metrics"]["deviation"] > 1e-3


def test_the_maps_are_of_the_same_data(study, records):
    path = maps_path(ROOT, study)
    if not path.is_file():  # the two networks that they are of may not be trained yet
        assert study not in ("quick", "miniature", "ebhi-cpu")
        return
    assert load_stability_maps(path)["fingerprint"] == records[0]["data"]["fingerprint"]
    assert (ROOT / "figures" / study / "stability.svg").is_file()
