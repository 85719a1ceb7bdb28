import pytest
import torch
from conftest import HAS_ESCNN

from study.errors import StudyError
from study.models import MODELS, NATIVE_MODELS, Architecture, load_model, native_counterpart, save_checkpoint


@pytest.mark.parametrize("name", MODELS if HAS_ESCNN else NATIVE_MODELS)
def test_a_saved_network_comes_back_with_the_same_output(name, tmp_path):
    architecture = MODELS[name].architecture(width=4, depth=1, grid="odd")
    network = architecture.build().eval()
    save_checkpoint(tmp_path / "best.pt", architecture, network.state_dict(), note="kept")
    images = torch.randn(1, 3, 9, 9)
    loaded = load_model(tmp_path / "best.pt")
    assert not loaded.training
    assert torch.equal(loaded(images), network(images))


def test_models_stand_in_the_order_of_their_symmetries():
    assert list(MODELS)[:7] == ["unet", "unet-aug", "p2", "pm", "pmm", "p4", "p4m"]
    assert list(NATIVE_MODELS) == list(MODELS)[:7]
    assert all("escnn" in name for name in list(MODELS)[7:])


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
    wide, narrow = (Architecture("p4", width, 1, "even") for width in (16, 4))
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
