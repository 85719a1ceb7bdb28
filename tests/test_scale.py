"""A slide is read at the scale that the network was trained at, or it is said that nobody knows it."""

import pytest
from data_helpers import assert_refused, make_store
from slide_helpers import make_slide, make_slides

from study.cli.prediction import predict
from study.data.datasets.camelyon16_slides import find_slides
from study.data.extraction.one_slide import Scale
from study.data.extraction.plan import extract_store, plan
from study.data.patches.store import PatchStore
from study.data.slides.slide import Slide
from study.networks.checkpoint import save_checkpoint
from study.networks.unet import UNetArchitecture
from study.prediction.scale import choose_view


@pytest.fixture
def slide(tmp_path):
    """At 0.5 µm per pixel, which is 20x."""
    with Slide(make_slide(tmp_path / "s.tif")) as opened:
        yield opened


@pytest.mark.parametrize(("trained", "read"), [(1.0, 1.0), (0.5, 0.5), (2.0, 2.0), (0.7, 0.7), (0.45, 0.5)])
def test_it_is_read_at_the_scale_of_the_training(slide, trained, read):
    view, notice = choose_view(slide, trained)
    assert view.mpp == pytest.approx(read, rel=1e-3)
    assert f"trained at {trained:g}" in notice
    assert f"read at {read:g} µm" in notice


def test_a_slide_that_is_coarser_than_the_training_is_refused(slide):
    with assert_refused("s.tif", "0.5 µm per pixel, coarser than 0.25 µm"):
        choose_view(slide, 0.25)


@pytest.mark.parametrize("asked", [{"magnification": 10}, {"mpp": 1.0}])
def test_another_scale_than_that_of_the_training_is_refused(slide, asked):
    with assert_refused("s.tif would be read at 1 µm", "trained at 0.5", "--mpp 0.5"):
        choose_view(slide, 0.5, **asked)
    with assert_refused("trained at 2"):
        choose_view(slide, 2.0, **asked)
    for trained in (0.9, 1.0, 1.15, None):  # scanners differ by so much; nobody knows
        view, notice = choose_view(slide, trained, **asked)
        assert (view.mpp, notice) == (pytest.approx(1.0), "")


def test_where_the_scale_of_the_training_is_not_known_it_is_said_what_is_taken(slide):
    view, notice = choose_view(slide, None)
    assert view.mpp == pytest.approx(1.0)
    assert "does not say at which scale" in notice
    assert "10x" in notice


def test_a_network_of_another_scale_reads_no_slide_at_10x_without_a_word(tmp_path, capsys):
    architecture = UNetArchitecture("z2", 4, 1, "even")
    save_checkpoint(tmp_path / "n.pt", architecture, architecture.build().state_dict(), mpp=0.5)
    slide = make_slide(tmp_path / "s.tif")
    predict(slide, str(tmp_path / "n.pt"), tmp_path / "out")
    said = capsys.readouterr()
    assert "s at 0.5 µm per pixel, 768 x 768" in said.out
    assert "The slide is read at 0.5 µm per pixel; the network was trained at 0.5." in said.err
    with assert_refused("--mpp 0.5"):
        predict(slide, str(tmp_path / "n.pt"), tmp_path / "other", magnification=10)
    assert not (tmp_path / "other").exists()


def test_a_store_cut_from_slides_knows_its_scale(tmp_path):
    names = ["normal_001", "normal_002", "normal_003", "tumor_001", "tumor_002", "tumor_003"]
    slides, missing = find_slides(make_slides(tmp_path / "slides", names))
    wanted = plan(slides, scale=Scale(32, magnification=20), patches=12, seed=0, source="test", missing=missing)
    extract_store(tmp_path / "store", wanted, workers=0)
    assert PatchStore(tmp_path / "store").mpp == pytest.approx(0.5)
    assert PatchStore(make_store(tmp_path / "s.h5")).mpp is None
