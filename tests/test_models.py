import pytest
import torch
from conftest import HAS_ESCNN

from study.equivariance import equivariance_errors, train_briefly
from study.errors import StudyError
from study.networks.checkpoint import load_model, save_checkpoint
from study.networks.deploy import deploy
from study.networks.models import (
    BASELINE_MODELS,
    ESCNN_MODELS,
    MODELS,
    NATIVE_MODELS,
    PAPER_MODELS,
    SUBGROUP_MODELS,
    VARIANT_MODELS,
    native_counterpart,
)
from study.networks.unet import UNetArchitecture
from study.prediction.tiling import plan_tiles, run_tiles
from study.report import looks


@pytest.mark.parametrize("name", MODELS if HAS_ESCNN else NATIVE_MODELS)
def test_a_saved_network_comes_back_with_the_same_output(name, tmp_path):
    architecture = MODELS[name].architecture(width=4, depth=1, grid="odd")
    network = architecture.build().eval()
    save_checkpoint(tmp_path / "best.pt", architecture, network.state_dict(), note="kept")
    images = torch.randn(1, 3, *2 * [8 + network.sizes.remainder])
    loaded = load_model(tmp_path / "best.pt")
    assert not loaded.training
    assert torch.equal(loaded(images), network(images))


def test_a_checkpoint_of_before_there_were_variants_loads(tmp_path):
    network = UNetArchitecture("p4m", 4, 1, "even").build()
    old = {"group": "p4m", "width": 4, "depth": 1, "grid": "even", "implementation": "native", "basis": None}
    torch.save({"architecture": old, "weights": network.state_dict()}, tmp_path / "old.pt")
    images = torch.randn(1, 3, 8, 8)
    assert torch.equal(load_model(tmp_path / "old.pt")(images), network.eval()(images))


def test_models_stand_in_the_order_of_their_symmetries():
    plain = ["unet", "unet-aug", "unet-time", "unet-sym"]
    groups = ["p2", "pm", "pmm", "p4", "p4m"]
    variants = ["p4m-max", "p4m-mean", "p4m-equal-width", "p4m-literal"]
    assert list(NATIVE_MODELS) == plain + groups + variants
    assert list(MODELS) == [*NATIVE_MODELS, *ESCNN_MODELS]
    sets = [PAPER_MODELS, BASELINE_MODELS, SUBGROUP_MODELS, VARIANT_MODELS, ESCNN_MODELS]
    assert sorted(name for models in sets for name in models) == sorted(MODELS)
    assert all(("escnn" in name) == (model.implementation == "escnn") for name, model in MODELS.items())


def test_every_model_has_a_label_and_a_marker_of_its_own_and_those_from_scratch_a_colour():
    assert len({model.label for model in MODELS.values()}) == len(MODELS)
    assert looks._MODELS.keys() == MODELS.keys()
    assert len({looks.look(name).marker for name in MODELS}) == len(MODELS)
    assert len({looks.look(name).colour for name in NATIVE_MODELS}) == len(NATIVE_MODELS)


def test_a_model_of_ones_own_has_a_look_that_no_other_has(monkeypatch):
    shipped = {(look.colour, look.marker) for look in map(looks.look, MODELS)}
    monkeypatch.setitem(MODELS, "mine", MODELS["p4m"])
    monkeypatch.setitem(MODELS, "mine-too", MODELS["p4m"])
    own = {(looks.look(name).colour, looks.look(name).marker) for name in ("mine", "mine-too")}
    assert len(own) == 2
    assert not own & shipped


@pytest.mark.parametrize("name", NATIVE_MODELS)
def test_a_model_commutes_with_the_roto_reflections_that_it_names_and_deploys(name):
    architecture = MODELS[name].architecture(width=8, depth=2, grid="even")
    network, x = architecture.build().double(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    train_briefly(network, x)
    own = architecture.symmetries
    for mode in (True, False):
        errors = equivariance_errors(network.train(mode), x).numpy()
        assert errors[own].max() <= 1e-10
        assert errors[~own].max(initial=1) > 1e-2
    torch.testing.assert_close(deploy(network)(x), network(x), rtol=1e-10, atol=1e-10)


def test_all_of_the_group_p4m_are_steady_but_the_counter_example():
    steady = {
        name for name, model in MODELS.items() if model.architecture(width=8, depth=1, grid="even").symmetries.all()
    }
    assert steady == {name for name in MODELS if name.startswith(("p4m", "p8m"))} - {"p4m-literal"} | {"unet-sym"}


def test_the_counter_example_keeps_its_grid_and_the_baseline_of_equal_time_is_wider():
    built = {name: model.architecture(width=16, depth=4, grid="odd") for name, model in MODELS.items()}
    assert {name for name, architecture in built.items() if architecture.grid != "odd"} == {"p4m-literal"}
    assert {name for name, architecture in built.items() if architecture.width != 16} == {"unet-time"}
    assert built["unet-time"].width > 16


@pytest.mark.parametrize("name", ["unet-sym", "p4m-max", "p4m-equal-width", "p4m-literal"])
@pytest.mark.parametrize("grid", ["even", "odd"])
def test_variants_are_tiled_exactly(name, grid):
    network = MODELS[name].architecture(width=4, depth=1, grid=grid).build().double().eval()
    image = torch.randn(3, network.sizes.at_least(60), network.sizes.at_least(40), dtype=torch.float64)
    tiles = plan_tiles(network, *image.shape[1:], 32)
    assert len(tiles) > 1
    with torch.no_grad():
        whole = network(image[None])[0].numpy()
    for tile, values in run_tiles(network, lambda tile: cut(image, tile), tiles):
        kept = slice(tile.rows.kept_start, tile.rows.kept_stop), slice(tile.columns.kept_start, tile.columns.kept_stop)
        assert abs(values - whole[:, *kept]).max() <= 1e-12


def cut(image, tile):
    return image[:, tile.rows.start : tile.rows.stop, tile.columns.start : tile.columns.stop]


def test_the_twins_of_models_on_escnn():
    twins = {name: native_counterpart(name) for name in MODELS if "escnn" in name}
    assert twins == {
        **{"p4-escnn": "p4", "p4-escnn-full": "p4", "p4m-escnn": "p4m", "p4m-escnn-full": "p4m"},
        **{"p8-escnn": None, "p8m-escnn": None},
    }


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(StudyError, match=r"no checkpoint at .*absent\.pt"):
        load_model(tmp_path / "absent.pt")


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 half a zip"])
def test_a_damaged_checkpoint_is_named(content, tmp_path):
    (tmp_path / "bad.pt").write_bytes(content)
    with pytest.raises(StudyError, match=r"bad\.pt is damaged"):
        load_model(tmp_path / "bad.pt")


def test_weights_of_another_network_are_refused(tmp_path):
    wide, narrow = (UNetArchitecture("p4", width, 1, "even") for width in (16, 4))
    save_checkpoint(tmp_path / "mixed.pt", wide, narrow.build().state_dict())
    with pytest.raises(StudyError, match=r"mixed\.pt does not fit"):
        load_model(tmp_path / "mixed.pt")


def test_an_architecture_that_does_not_exist_is_refused(tmp_path):
    torch.save(
        {"architecture": {"group": "p6", "width": 4, "depth": 1, "grid": "even"}, "weights": {}}, tmp_path / "p6.pt"
    )
    with pytest.raises(StudyError, match=r"p6\.pt does not fit"):
        load_model(tmp_path / "p6.pt")


def test_a_checkpoint_never_runs_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"architecture": {}, "weights": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(StudyError, match="damaged or not a checkpoint"):
        load_model(tmp_path / "evil.pt")
