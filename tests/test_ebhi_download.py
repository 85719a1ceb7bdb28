"""Getting EBHI-SEG: from a server that describes and sends its archives as figshare does."""

import hashlib
import io
import json
import shutil
import sys
import threading
import zipfile
from collections import namedtuple
from collections.abc import Iterator

import flask
import numpy as np
import pytest
from data_helpers import add_pair, assert_refused, contents
from urllib3.util import Retry
from werkzeug.serving import make_server

from study import cli
from study.data import transfer
from study.data.datasets.ebhi_download import download_ebhi
from study.data.datasets.ebhi_images import find_pairs
from study.data.patches.store import PatchStore
from study.data.transfer import VERIFIED
from study.locks import LOCK

NAMES = ("GT1-1-400-001", "GT2-1-400-001", "GT3-1-400-001")


class Figshare:
    """Serves an article's description and its files, and fails as it is told.

    Attributes:
        files: the content of each file.
        breaks: bytes after which the next answer breaks off.
        status: of the answers to requests for files.
        ranges: of these requests, in order.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.breaks: int | None = None
        self.status = 200
        self.ranges: list[str | None] = []
        self.described: bytes | None = None
        app = flask.Flask(__name__)
        app.add_url_rule("/articles/1", view_func=self.describe)
        app.add_url_rule("/files/<name>", view_func=self.send)
        self.server = make_server("127.0.0.1", 0, app)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        self.source = f"{self.address}/articles/1"

    def description(self) -> dict:
        files = [
            {
                "name": name,
                "size": len(body),
                "computed_md5": hashlib.md5(body).hexdigest(),
                "download_url": f"{self.address}/files/{n}",
            }
            for n, (name, body) in enumerate(self.files.items())
        ]
        return {"id": 1, "title": "EBHI-SEG", "files": files}

    def describe(self) -> bytes:
        return json.dumps(self.description()).encode() if self.described is None else self.described

    def send(self, name: str) -> flask.Response:
        self.ranges.append(flask.request.headers.get("Range"))
        if self.status != 200:
            return flask.Response(status=self.status)
        body = list(self.files.values())[int(name)]
        if self.breaks is not None:
            part, self.breaks = body[: self.breaks], None
            return flask.Response(iter([part]), headers={"Content-Length": str(len(body))})
        return flask.send_file(io.BytesIO(body), "application/zip", conditional=True)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch) -> None:
    monkeypatch.setattr(transfer, "RETRY", Retry(total=0, raise_on_status=False))
    monkeypatch.setattr(transfer, "PAUSE", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def figshare(ebhi) -> Iterator[Figshare]:
    figshare = Figshare()
    figshare.files = {"EBHI-SEG.zip": zipped({f"EBHI-SEG/{name}": body for name, body in ebhi.items()})}
    threading.Thread(target=figshare.server.serve_forever, args=(0.01,), daemon=True).start()
    yield figshare
    figshare.server.shutdown()
    figshare.server.server_close()


@pytest.fixture
def ebhi(tmp_path_factory) -> dict[str, bytes]:
    """The files of a data set of three pairs, by their paths."""
    folder = tmp_path_factory.mktemp("ebhi")
    for name, tissue in zip(NAMES, ("Normal", "High-grade IN", "Polyp"), strict=True):
        add_pair(folder, name, tissue=tissue, image_size=160, label=np.eye(160) * 255)
    return contents(folder)


def zipped(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    return packed.getvalue()


def unpacked(folder) -> dict[str, bytes]:
    return {name: body for name, body in contents(folder).items() if "/" in name}


def test_what_comes_is_a_folder_that_is_read_as_ebhi_seg(figshare, ebhi, tmp_path):
    files = download_ebhi(tmp_path / "new", source=figshare.source)
    assert unpacked(tmp_path / "new") == ebhi
    pairs = find_pairs(tmp_path / "new")
    assert len(pairs) == 3
    assert sorted(files) == sorted(file for pair in pairs for file in pair)


def test_only_images_and_labels_are_unpacked_whatever_stands_before_them(figshare, ebhi, tmp_path):
    more = {
        "EBHI-SEG/readme.md": b"",
        "__MACOSX/EBHI-SEG/Normal/image/._GT1-1-400-001.png": b"",
        "a/b/Normal/image/.DS_Store": b"",
        "a/b/Normal/other/x.png": b"",
    }
    figshare.files = {
        "one.zip": zipped({f"a/b/{name}": body for name, body in ebhi.items() if "Polyp" in name} | more),
        "two.zip": zipped({name: body for name, body in ebhi.items() if "Polyp" not in name}),
    }
    download_ebhi(tmp_path, source=figshare.source)
    assert unpacked(tmp_path) == ebhi


def test_what_is_complete_is_neither_transferred_nor_written_again(figshare, ebhi, tmp_path):
    files = download_ebhi(tmp_path, source=figshare.source)
    times = {file: file.stat().st_mtime_ns for file in files}
    assert download_ebhi(tmp_path, source=figshare.source) == files
    assert figshare.ranges == [None]
    assert {file: file.stat().st_mtime_ns for file in files} == times


def test_files_that_were_removed_or_damaged_are_unpacked_again(figshare, ebhi, tmp_path):
    first, second, third, *_ = download_ebhi(tmp_path, source=figshare.source)
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1])
    third.write_bytes(bytes(third.stat().st_size))
    download_ebhi(tmp_path, source=figshare.source)
    assert unpacked(tmp_path) == ebhi
    assert figshare.ranges == [None]


def test_a_transfer_that_broke_goes_on_where_it_was(figshare, ebhi, tmp_path):
    figshare.breaks = transfer._CHUNK + 100
    download_ebhi(tmp_path, source=figshare.source)
    assert figshare.ranges == [None, f"bytes={transfer._CHUNK}-"]
    assert unpacked(tmp_path) == ebhi


def test_a_partial_file_of_an_earlier_run_is_continued(figshare, ebhi, tmp_path):
    (tmp_path / "EBHI-SEG.zip.partial").write_bytes(figshare.files["EBHI-SEG.zip"][:1000])
    download_ebhi(tmp_path, source=figshare.source)
    assert figshare.ranges == ["bytes=1000-"]
    assert unpacked(tmp_path) == ebhi


def test_an_archive_that_was_put_there_by_hand_is_checked_and_unpacked(figshare, ebhi, tmp_path):
    (tmp_path / "EBHI-SEG.zip").write_bytes(figshare.files["EBHI-SEG.zip"])
    download_ebhi(tmp_path, source=figshare.source)
    assert figshare.ranges == []
    assert unpacked(tmp_path) == ebhi


def test_an_archive_of_another_sum_is_named_and_not_unpacked(figshare, tmp_path):
    description = figshare.description()
    description["files"][0]["computed_md5"] = "0" * 32
    figshare.described = json.dumps(description).encode()
    with assert_refused("EBHI-SEG.zip", "0" * 32, "run it again"):
        download_ebhi(tmp_path, source=figshare.source)
    assert contents(tmp_path).keys() == {VERIFIED, LOCK}


@pytest.mark.parametrize("status", [202, 403, 404])
def test_an_answer_without_the_file_is_reported(figshare, tmp_path, status):
    figshare.status = status
    with assert_refused(f"EBHI-SEG.zip (HTTP {status}"):
        download_ebhi(tmp_path, source=figshare.source)


@pytest.mark.parametrize(
    "body", [b"Rar!\x1a\x07\x01\x00 packed", b"", zipped({"Normal/image/x.png": bytes(999)})[:-30]], ids=len
)
def test_what_is_no_zip_archive_is_kept_and_refused_with_the_remedy(figshare, tmp_path, body):
    figshare.files = {"EBHI-SEG.rar": body}
    with assert_refused(tmp_path / "EBHI-SEG.rar", "no zip archive", "unpack it by hand", "without --download"):
        download_ebhi(tmp_path, source=figshare.source)
    assert {name: file for name, file in contents(tmp_path).items() if name not in (VERIFIED, LOCK)} == figshare.files


def test_a_member_that_is_damaged_leaves_no_file(figshare, tmp_path):
    body = bytearray(zipped({"Normal/image/x.png": np.random.default_rng(0).bytes(999)}))
    body[500] ^= 0xFF
    figshare.files = {"EBHI-SEG.zip": bytes(body)}
    with assert_refused(tmp_path / "EBHI-SEG.zip"):
        download_ebhi(tmp_path, source=figshare.source)
    assert unpacked(tmp_path) == {}


@pytest.mark.parametrize(
    "path",
    [
        *("../../image/x.png", "a/../image/x.png", "../a/image/x.png", "a/image/..", "/a/image/x.png"),
        *("a\\..\\..\\b/image/x.png", "C:/image/x.png", "./image/x.png"),
    ],
)
def test_paths_that_lead_out_of_the_folder_are_refused_and_nothing_is_written(figshare, tmp_path, path):
    figshare.files = {"EBHI-SEG.zip": zipped({"Normal/image/x.png": b"1", path: b"2"})}
    with assert_refused("EBHI-SEG.zip", path, "leads out of its folder"):
        download_ebhi(tmp_path / "a" / "b", source=figshare.source)
    assert contents(tmp_path).keys() == {"a/b/EBHI-SEG.zip", f"a/b/{VERIFIED}", f"a/b/{LOCK}"}


def test_a_file_that_is_twice_in_the_archive_is_refused(figshare, tmp_path):
    figshare.files = {"EBHI-SEG.zip": zipped({"a/Polyp/label/x.png": b"1", "b/Polyp/label/x.png": b"2"})}
    with assert_refused("EBHI-SEG.zip", "Polyp/label/x.png twice"):
        download_ebhi(tmp_path, source=figshare.source)


def test_an_archive_of_something_else_is_refused(figshare, tmp_path):
    figshare.files = {"other.zip": zipped({"readme.md": b"1"})}
    with assert_refused(figshare.source, "<class>/image/*"):
        download_ebhi(tmp_path, source=figshare.source)


def test_a_disk_too_small_for_what_is_in_the_archive_is_refused(figshare, tmp_path, monkeypatch):
    figshare.files = {"EBHI-SEG.zip": zipped({"Polyp/image/x.png": bytes(10**6)})}
    usage = namedtuple("usage", "total used free")
    needed = len(figshare.files["EBHI-SEG.zip"]) + transfer.RESERVE
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 0, needed))
    with assert_refused(tmp_path, "disk is full"):
        download_ebhi(tmp_path, source=figshare.source)
    assert unpacked(tmp_path) == {}


@pytest.mark.parametrize(
    "described",
    [
        *(b"", b"<html>", b"\xff", b"[]", b"{}", b'{"files": []}', b'{"files": 3}', b'{"files": [{"name": "x"}]}'),
        b'{"files": [{"name": "x.zip", "size": 1, "computed_md5": null, "download_url": "http://x"}]}',
        b'{"files": [{"name": "x.zip", "size": "1", "computed_md5": "%s", "download_url": "http://x"}]}' % (b"0" * 32),
        b'{"files": [{"name": "../x.zip", "size": 1, "computed_md5": "%s", "download_url": "http://x"}]}' % (b"0" * 32),
    ],
)
def test_a_description_that_is_none_is_refused(figshare, tmp_path, described):
    figshare.described = described
    with assert_refused(figshare.source, "check the source"):
        download_ebhi(tmp_path / "new", source=figshare.source)
    assert contents(tmp_path) == {}


def test_a_source_that_does_not_answer_is_named(tmp_path):
    with assert_refused("http://127.0.0.1:9/x", "check the connection"):
        download_ebhi(tmp_path, source="http://127.0.0.1:9/x")


def test_the_command_downloads_and_makes_the_store(figshare, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["data", "ebhi", "EBHI-SEG", "cancer.h5", "--download", "--from", figshare.source, "--size", "16"]
    monkeypatch.setattr(sys, "argv", ["study", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    output = capsys.readouterr().out
    assert stopped.value.code == 0, output
    assert "6 images and labels are complete in EBHI-SEG" in output
    store = PatchStore("cancer.h5")
    assert (len(store), store.size, store.source) == (3, (16, 16), "EBHI-SEG, cancer")
