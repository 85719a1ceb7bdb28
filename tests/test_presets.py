import json
from dataclasses import replace
from pathlib import Path

import pytest
from data_helpers import assert_refused

from study.errors import StudyError
from study.experiments.presets import FOLDER, FRACTIONS, find_preset, override, preset_names, study_name
from study.experiments.trials import Study
from study.networks.unet import build_unet


def test_the_paper_preset_has_the_papers_numbers():
    paper = find_preset("paper")
    recipe = paper.recipe
    assert (paper.size, recipe.network["depth"], recipe.batch_size, recipe.batches_per_epoch) == (320, 4, 64, 468)
    assert recipe.learning_rate == 1e-3
    assert recipe.patience == 19  # are put up with; the 20th epoch without improvement halves the learning rate
    assert paper.fractions == FRACTIONS == (0.125, 0.25, 0.5, 1.0)


@pytest.mark.parametrize("name", ["paper", "miniature"])
def test_the_papers_comparison_has_all_its_models_on_all_regimes(name):
    preset = find_preset(name)
    assert preset.models == ("unet", "unet-aug", "p4", "p4m")
    assert preset.fractions == FRACTIONS


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_compares_p4m_with_the_augmented_unet_and_can_be_built(name):
    preset = find_preset(name)
    assert {"unet-aug", "p4m"} <= set(preset.models)
    assert preset.size % 2 == (preset.recipe.network["grid"] == "odd")
    build_unet("p4m", **preset.recipe.network)


def test_studies_on_real_patients_split_and_share_them_by_patient():
    for name in ("quick", "ebhi-cancer", "ebhi-cancer-odd", "ebhi-glands", "ebhi-grades", "nuclei", "ebhi-gpu"):
        assert (find_preset(name).design, find_preset(name).recipe.schedule) == ("folds", "cosine")


def test_grids_come_one_after_the_other_and_no_trial_comes_twice(preset, store, tmp_path):
    more = ((("p4m", "p4"), (0.5, 1.0), (0,)), (("p4",), (0.5,), (0, 7)))
    study = Study("tiny", replace(preset, models=("unet", "p4m"), fractions=(0.5,), more=more), store, tmp_path)
    names = ["unet-50-0", "p4m-50-0", "unet-50-1", "p4m-50-1", "p4-50-0", "p4m-100-0", "p4-100-0", "p4-50-7"]
    assert [trial.name for trial in study.trials()] == names


@pytest.mark.parametrize("rates", [{"p4n": 1e-3}, {"p4m": -1e-3}, {"p4m": float("nan")}])
def test_learning_rates_are_of_models_and_positive(preset, rates):
    with assert_refused("learning_rates has", *rates):
        replace(preset, learning_rates=rates)


@pytest.mark.parametrize("setting", ["models=p4", "fractions=1", "seeds=4"])
def test_whoever_says_which_trials_gets_these_alone(setting):
    assert override(find_preset("ebhi-cancer"), [setting]).more == ()


def test_a_model_has_the_learning_rate_that_was_tuned_for_it_unless_one_is_given(preset):
    tuned = replace(preset, learning_rates={"p4m": 3e-3})
    assert [tuned.recipe_of(model).learning_rate for model in ("unet", "p4m")] == [1e-3, 3e-3]
    assert tuned.trial_settings("p4m")["learning_rate"] == 3e-3
    assert override(tuned, ["learning_rate=2e-4"]).recipe_of("p4m").learning_rate == 2e-4


def test_settings_replace_values_of_the_preset_and_of_its_recipe():
    preset = override(
        find_preset("quick"), ["width=12", "seeds=0,1,2", "models=unet,p4m", "learning_rate=0.01", "size=32"]
    )
    assert preset.recipe.network["width"] == 12
    assert preset.recipe.learning_rate == 0.01
    assert preset.seeds == (0, 1, 2)
    assert preset.models == ("unet", "p4m")
    assert preset.size == 32
    assert find_preset("quick").recipe.network["width"] != 12


def test_what_decides_a_trial_is_told_from_what_does_not():
    quick = find_preset("quick")
    settings = quick.trial_settings("p4m")
    assert override(quick, ["seeds=5", "models=p4", "fractions=1", "workers=2"]).trial_settings("p4m") == settings
    for change in ("width=12", "epochs=7", "size=32", "patches=80", "learning_rate=0.1", "patience=9"):
        assert override(quick, [change]).trial_settings("p4m") != settings


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("wdith=3", "width"),
        ("width", "width"),
        ("source=ebhi", "width"),
        ("width=wide", "wide"),
        ("seeds=0,x", "0,x"),
        ("models=resnet", "resnet"),
        ("fractions=1.5", "1.5"),
        ("fractions=0", "0"),
        ("width=0", "width is 0"),
        ("epochs=-1", "epochs is -1"),
        ("grid=hexagonal", "hexagonal"),
        ("depth=6", "depth is 6"),
        ("size=66", "64 or 68"),
        ("size=-16", "pad it symmetrically to 4"),
        ("size=0", "pad it symmetrically to 4"),
        ("seeds=-1", "seeds are -1"),
        ("seeds=1,1", "give each once"),
        ("models=p4,p4", "give each once"),
        ("fractions=0.33333331,0.33333332", "give each once"),
        ("fractions=nan", "nan"),
        ("learning_rate=nan", "learning_rate is nan"),
        ("learning_rate=inf", "learning_rate is inf"),
        ("patience=-1", "patience is -1"),
        ("workers=-1", "workers is -1"),
        ("precision=64-true", "32-true, bf16-mixed"),
        ("schedule=linear", "plateau, cosine"),
        ("design=halves", "stored, folds"),
    ],
)
def test_a_bad_setting_is_refused_by_name(setting, named):
    with pytest.raises(StudyError, match=named) as error:
        override(find_preset("miniature"), [setting])
    assert "\n" not in str(error.value)


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(StudyError, match=r"ebhi-cancer, .*quick, or give a TOML file"):
        find_preset("fast")


def test_an_unknown_preset_is_no_file_that_is_missing():
    with pytest.raises(StudyError, match=r"mine\.toml: cannot be read"):
        find_preset("mine.toml")


def test_every_preset_is_what_it_was_before_presets_were_files():
    """Trials, and the settings that their records have: records of a preset are read by these."""
    before = json.loads(Path(__file__).with_name("presets.json").read_text())
    assert set(preset_names()) == set(before)
    for name, wanted in before.items():
        preset = find_preset(name)
        trials = Study(name, preset, None).trials()
        assert " ".join(trial.name for trial in trials) == wanted["trials"]
        assert all(preset.trial_settings(trial.model) == wanted["settings"] for trial in trials)
        assert (preset.description, preset.workers) == (wanted["description"], wanted["workers"])


@pytest.fixture
def own(tmp_path) -> Path:
    """A preset file of the user's own."""
    text = (FOLDER / "miniature.toml").read_text()
    path = tmp_path / "mine.toml"
    path.write_text(text.replace("width = 8", "width = 4"))
    return path


def test_a_file_of_ones_own_is_a_preset(own):
    assert find_preset(str(own)) == override(find_preset("miniature"), ["width=4"])
    assert study_name(str(own)) == "mine"
    assert study_name("miniature") == "miniature"


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("size = 64", "sise = 64", "unknown key 'sise' of a preset; the keys are description, source, size"),
        (
            "width = 4",
            "wdith = 4",
            "unknown key 'wdith' of a recipe; the keys are network, width, ",
        ),
        ("size = 64", "", "a preset needs size"),
        ("width = 4", "", "a recipe needs width"),
        ("epochs = 20", "", "a recipe needs epochs"),
        ("size = 64", 'size = "64"', "size is '64'; give an integer"),
        ("size = 64", "size = 64.0", "size is 64.0; give an integer"),
        ("seeds = [0]", "seeds = 0", "seeds is 0; give an array"),
        ("seeds = [0]", "seeds = [0.5]", "seeds is 0.5; give an integer"),
        ("seeds = [0]", "seeds = [true]", "seeds is True; give an integer"),
        ("seeds = [0]", "seeds = [-1]", "seeds are -1"),
        ("[recipe]", "[[recipe]]", "recipe is .*; give an array or a table"),
        ('"p4m"]', '"p4m", "resnet"]', "unknown model 'resnet'"),
        ('source = "miniature"', 'source = "moon"', "unknown data set 'moon'; choose from miniature, ebhi"),
        ("width = 4", "width = four", r"not TOML \(Invalid value"),
        ("[recipe]", '[[more]]\nmodels = ["p4"]\nfractions = [1]\n\n[recipe]', "a grid needs seeds"),
        ("[recipe]", "learning_rates = 3\n\n[recipe]", "learning_rates is 3; give an array or a table"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_the_key(own, old, new, named):
    own.write_text(own.read_text().replace(old, new))
    with pytest.raises(StudyError, match=rf"mine\.toml: {named}") as error:
        find_preset(str(own))
    assert "\n" not in str(error.value)


def test_a_file_can_have_grids_and_learning_rates_too(own):
    more = '[[more]]\nmodels = ["p4"]\nfractions = [1]\nseeds = [4]\n\n[learning_rates]\np4 = 3e-3\n'
    own.write_text(own.read_text() + "\n" + more)
    preset = find_preset(str(own))
    assert preset.more == ((("p4",), (1.0,), (4,)),)
    assert preset.recipe_of("p4").learning_rate == 3e-3
