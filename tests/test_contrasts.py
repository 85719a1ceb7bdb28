"""Which contrasts a study has, which of them are tested, and which are adjusted together."""

import numpy as np
import pytest
from record_helpers import CASES, WORSE, own_cases, record, results_of, scaled

from study import report
from study.errors import StudyError
from study.networks.models import MODELS, NATIVE_MODELS
from study.report.contrasts import PRIMARY, QUARTER, Cell, Contrast, find
from study.report.statistics import holm


def trials(model: str, fraction: float, errors, seeds=range(6)) -> list[dict]:
    """Trials of a nested design: in every case of a seed as many errors."""
    return [
        record(model, fraction, seed, own_cases(seed, scaled(CASES, errors=error)))
        for seed, error in zip(seeds, errors, strict=True)
    ]


@pytest.fixture
def records():
    return [
        *trials("unet", 0.125, (9, 12, 9, 10, 8, 11)),
        *trials("unet-aug", 0.125, (5, 6, 4, 5, 7, 6)),
        *trials("unet-aug", 0.25, (5, 4, 4, 5, 5, 5)),
        *trials("unet-aug", 1.0, (2, 3, 2, 3, 2, 3)),
        *trials("p4", 0.125, (5, 3, 2, 6, 4, 3)),
        *trials("p4m", 0.125, (0, 2, 1, 1, 3, 2)),
        *trials("p4m", 0.25, (2, 3, 2, 3, 3, 2)),
        *trials("p4m", 1.0, (0, 1, 0, 1, 1, 0)),
    ]


def rows_of(*studies):
    names = ("cancer", "glands", "nuclei")
    return report.contrast_rows(dict(zip(names, studies, strict=False))).set_index(["task", "contrast"])


def test_the_primary_contrast_is_tested_alone_and_the_secondary_ones_together(records):
    rows = rows_of(records)
    primary = rows.loc[("cancer", "12.5 %: P4M U-Net − U-Net, augmented")]
    assert primary.role == "primary"
    assert primary.estimate == pytest.approx(4 * 100 * 24 / 3060, abs=0.01)  # four errors fewer in each of the cases
    assert 0 < primary.p < 0.01
    assert np.isnan(primary.p_holm)
    secondary = rows[rows.role == "secondary"]
    assert len(secondary) == 4  # at 100 %, over P4, P4 over augmented, augmented over plain
    assert secondary.p_holm.tolist() == pytest.approx(holm(secondary.p.to_numpy()))
    described = rows[rows.role == "described"]
    assert len(described)
    assert described[["p", "p_holm"]].isna().all(axis=None)


def test_all_contrasts_of_a_study_of_every_model():
    def with_tta(found: dict) -> dict:
        cases = {case: 2 * counts for case, counts in found["cases"].items()}
        return found | {"cases": cases, "case_columns": ["tp", "fp", "fn", "tta_tp", "tta_fp", "tta_fn"]}

    def named(fraction: str, ours: str, *theirs: str) -> set[str]:
        return {f"{fraction}: {MODELS[ours].label} − {MODELS[model].label}" for model in theirs}

    records = [r for m in NATIVE_MODELS for f in (0.125, 1.0) for r in trials(m, f, (3, 4), seeds=range(2))]
    rows = rows_of(list(map(with_tta, records))).loc["cancer"]
    few, all_data = "12.5 %", "100 %"
    tta = f"{MODELS['p4m'].label} − {MODELS['unet-aug'].label} with TTA"
    tested = {*named(few, "p4m", "p4", "unet-sym", "unet-time"), *named(few, "p4", "unet-aug"), f"{few}: {tta}"}
    tested |= {*named(few, "unet-aug", "unet"), *named(all_data, "p4m", "unet-aug")}
    assert set(rows.index[rows.role == "secondary"]) == tested
    others = [model for model in NATIVE_MODELS if model != "p4m"]
    described = {*named(few, "p4m", *others), *named(all_data, "p4m", *others), f"{all_data}: {tta}"}
    described |= {*named(few, "p4", "unet"), *named(all_data, "p4", "unet-aug", "unet")}
    described |= named(all_data, "unet-aug", "unet")
    assert set(rows.index[rows.role == "described"]) == described - tested - {str(PRIMARY)}


def test_no_contrast_is_there_twice(records):
    assert rows_of(records).index.is_unique


def test_on_further_tasks_the_primary_contrast_is_a_secondary_one(records):
    rows = rows_of(records, records, records)
    assert rows.loc["glands"].index.tolist() == [str(PRIMARY)]
    assert rows.loc[("nuclei", str(PRIMARY))].role == "secondary"
    tested = rows[rows.role == "secondary"]
    assert len(tested) == 6
    assert tested.p_holm.tolist() == pytest.approx(holm(tested.p.to_numpy()))


def test_a_quarter_of_the_data_is_tested_for_equivalence(records):
    row = rows_of(records).loc[("cancer", "P4M U-Net (25 %) − U-Net, augmented (100 %)")]
    assert abs(row.estimate) < 0.2
    assert row.equivalent
    far = [r for r in records if r["trial"]["fraction"] != 0.25] + trials("p4m", 0.25, (9, 9, 8, 9, 9, 9))
    assert not rows_of(far).loc[("cancer", str(QUARTER))].equivalent


def test_what_was_not_run_is_no_row(records):
    rows = rows_of([r for r in records if r["trial"]["model"] != "p4"])
    assert not any("P4 U-Net" in contrast for _, contrast in rows.index)


def test_a_study_of_one_model_has_no_contrast(records):
    assert len(report.contrast_rows({"cancer": [r for r in records if r["trial"]["model"] == "p4"]})) == 0


def test_a_seed_that_one_network_lacks_is_left_out(records):
    fewer = [r for r in records if r["trial"] != {"model": "unet-aug", "fraction": 0.125, "seed": 3}]
    row = rows_of(fewer).loc[("cancer", str(PRIMARY))]
    assert row.seeds == 5
    lonely = trials("p4m", 0.125, (1,), seeds=[7]) + trials("unet-aug", 0.125, (1,), seeds=[8])
    assert len(report.contrast_rows({"cancer": lonely})) == 0


def test_one_seed_is_described_without_a_p_value():
    one = [record("p4m", 0.125, 0, CASES), record("unet-aug", 0.125, 0, WORSE), record("unet", 0.125, 0, WORSE)]
    rows = rows_of(one)
    assert rows[["p", "p_holm", "sd"]].isna().all(axis=None)
    assert (rows.low <= rows.estimate).all()
    assert "| – | – | – |" in report.contrast_table(results_of(cancer=one))


def test_one_case_alone_has_no_interval():
    alone = [record(m, 0.125, s, {"only": [10 - s, 2, 3]}) for m in ("p4m", "unet-aug") for s in (0, 1)]
    row = rows_of(alone).loc[("cancer", str(PRIMARY))]
    assert np.isnan([row.low, row.high, row.p]).all()
    assert "nan" not in report.contrast_table(results_of(cancer=alone)) + report.claim_table(results_of(cancer=alone))


def test_few_seeds_show_no_equivalence():
    def row(seeds: int):
        alike = trials("p4m", 0.125, [3] * seeds, range(seeds)) + trials("unet-aug", 0.125, [3] * seeds, range(seeds))
        return rows_of(alike).loc[("cancer", str(PRIMARY))]

    assert (row(4).low, row(4).high) == (0, 0)
    assert not row(4).equivalent
    assert row(5).equivalent


def test_networks_that_count_alike_are_equivalent():
    alike = trials("p4m", 0.125, [3] * 6) + trials("unet-aug", 0.125, [3] * 6)
    row = rows_of(alike).loc[("cancer", str(PRIMARY))]
    assert (row.estimate, row.low, row.high, row.p) == (0, 0, 0, 1)
    assert row.equivalent


def with_tta(one: dict, errors: int) -> dict:
    cases = {case: [*row, *scaled({case: row}, errors=errors)[case]] for case, row in one["cases"].items()}
    return one | {"cases": cases, "case_columns": ["tp", "fp", "fn", "tta_tp", "tta_fp", "tta_fn"]}


def test_the_augmented_unet_is_read_with_and_without_augmentation_of_the_test(records):
    both = [with_tta(r, errors=-1) for r in records]
    rows = rows_of(both)
    row = rows.loc[("cancer", "12.5 %: P4M U-Net − U-Net, augmented with TTA")]
    assert row.role == "secondary"
    assert row.estimate == pytest.approx(3 * 100 * 24 / 3060, abs=0.01)  # four errors fewer, and one more
    assert not any("TTA" in contrast for _, contrast in rows_of(records).index)


def test_a_difference_of_differences_is_over_the_cells_of_both_sides(records):
    small = find(records, [Cell("p4m", 0.125)], [Cell("unet-aug", 0.125)])
    large = find(records, [Cell("p4m", 1.0)], [Cell("unet-aug", 1.0)])
    growth = find(records, [Cell("p4m", 0.125), Cell("unet-aug", 1.0)], [Cell("unet-aug", 0.125), Cell("p4m", 1.0)])
    assert growth.estimate == pytest.approx(small.estimate - large.estimate)


def test_networks_of_different_data_are_refused(records):
    records[0]["cases"] = CASES
    with pytest.raises(StudyError, match="seed 0: not every network was tested on case"):
        report.contrast_rows({"cancer": records})


def test_the_names_say_who_and_where():
    assert str(Contrast(Cell("p4", 0.5), Cell("unet-aug", 0.5, "tta_"))) == "50 %: P4 U-Net − U-Net, augmented with TTA"


def test_the_table_names_tasks_only_if_there_are_several(records):
    assert "| 12.5 %: P4M U-Net" in report.contrast_table(results_of(cancer=records))
    table = report.contrast_table(results_of(cancer=records, glands=records))
    assert "| glands, 12.5 %: P4M U-Net" in table
    assert table.startswith("cancer: EBHI-SEG")
