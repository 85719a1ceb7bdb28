"""The commands that make stores of images, as a user meets them: what they say, and what they refuse."""

import numpy as np
import pytest
from PIL import Image

from study.data.patches.store import PatchStore

FOLDER = "data folder images masks own.h5 --size 16 --values 0/255"


@pytest.fixture
def run(tmp_path, monkeypatch, run_command):
    """Run a command in a folder with images and masks; returns the exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    rng = np.random.default_rng(0)
    for name, shape in [("images", (20, 30, 3)), ("masks", (20, 30))]:
        (tmp_path / name).mkdir()
        for n in range(6):
            pixels = rng.integers(0, 256, shape, np.uint8)
            Image.fromarray(pixels if len(shape) == 3 else np.where(pixels > 99, np.uint8(255), np.uint8(0))).save(
                f"{name}/{n // 2}-{n}.png"
            )

    return lambda text: run_command(*text.split())


@pytest.mark.parametrize("rule", ["--case ^\\d", "--cases cases.csv"])
def test_a_folder_becomes_a_store_and_the_next_command_is_named(run, tmp_path, rule):
    lines = [f"{n // 2}-{n}.png,{n // 2}" for n in range(6)]
    (tmp_path / "cases.csv").write_text("\n".join(["file,case", *lines]) + "\n")
    code, output, _ = run(f"{FOLDER} {rule} --classes background,gland --mpp 0.5")
    assert code == 0
    text = " ".join(output.split())
    assert "24 patches of 16 x 16 (own images" in text
    assert "classes: background, gland; 41 % of the pixels are padding" in text
    assert "reproduce --preset quick --data own.h5 --set size=16" in text
    store = PatchStore(tmp_path / "own.h5")
    assert (len(set(store.case)), store.classes, store.mpp) == (3, ("background", "gland"), 0.5)


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (FOLDER, "--case REGEX or --cases FILE"),
        (f"{FOLDER} --case . --cases cases.csv", "--case REGEX or --cases FILE"),
        (f"{FOLDER} --cases cases.csv", "cases.csv is no CSV file"),
        (f"{FOLDER} --case .+ --mpp 0", "--mpp is 0"),
        (f"{FOLDER} --case [", "no regular expression"),
        (f"{FOLDER} --case .+ --classes a,b,c", "2 classes, not 3"),
        (f"{FOLDER.replace('0/255', '0/1')} --case .+", "the value 255, but 0/1 was stated"),
        (f"{FOLDER.replace('0/255', 'labels')} --case .+", "give --classes"),
        (f"{FOLDER.replace('0/255', 'colours')} --case .+", "0/1, 0/255, palette, labels"),
        (f"{FOLDER.replace('masks', 'nowhere')} --case .+", "no folder at nowhere"),
        (f"{FOLDER.replace('own.h5', 'images')} --case .+", "images exists"),
        ("data nuinsseg nowhere own.h5", "no data folder at nowhere"),
        ("data nuinsseg nowhere", "give OUTPUT"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_left(run, tmp_path, command, named):
    code, _, error = run(command)
    assert code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert named in error
    assert not (tmp_path / "own.h5").exists()


def test_every_data_set_that_is_read_drawn_or_got_has_a_command_with_the_options_that_it_needs(run):
    listing = run("data --help")[1]
    for name in ("miniature", "ebhi", "nuinsseg", "camelyon16", "folder"):
        assert f" {name} " in listing
    ebhi, nuinsseg, slides = (run(f"{name} --help")[1] for name in ("data ebhi", "data nuinsseg", "slides extract"))
    for option in ("--download", "--task", "--pack"):
        assert option in ebhi
        assert option not in nuinsseg
    assert "cancer|glands" in ebhi
    assert "--group" in slides
    assert "--download" not in slides
