"""Getting Camelyon16: from moto's S3 server, and from one that breaks off, refuses ranges or fails on request."""

import errno
import hashlib
import io
import json
import os
import shutil
import signal
import threading
from collections import namedtuple
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import numpy as np
import pytest
import requests
from data_helpers import assert_refused, contents, flip_byte
from moto.server import ThreadedMotoServer
from urllib3.util import Retry

from study.data import transfer as module
from study.data.datasets.camelyon16_download import download
from study.data.datasets.camelyon16_slides import INDEX, find_slides
from study.data.transfer import VERIFIED
from study.errors import StudyError
from study.locks import LOCK, only_one

BUCKET = "camelyon-dataset"

CHUNK = module._CHUNK

SIZE = 12 * CHUNK + 17  # bytes of a slide: not a multiple of what is read at once


def published(*slides: str, seed: int = 0) -> dict[str, bytes]:
    """The tree of the bucket, with random bytes for the slides' images, annotations and masks."""
    rng = np.random.default_rng(seed)
    files = {"README.md": b"about", "license.txt": b"CC0"}
    for slide in slides:
        files[f"images/{slide}.tif"] = rng.bytes(SIZE)
        files[f"masks/{slide}_mask.tif"] = rng.bytes(1000)
        files[f"background_tissue/{slide}_tissue.tif"] = rng.bytes(100)
        if slide.startswith("tumor_"):
            files[f"annotations/{slide}.xml"] = rng.bytes(500)
    return files


def index_of(files: dict[str, bytes]) -> bytes:
    return "".join(f"{hashlib.md5(body).hexdigest()} *{name}\n" for name, body in files.items()).encode()


def of_slides(files: dict[str, bytes], *slides: str) -> dict[str, bytes]:
    """What a download of the slides leaves in its folder, but for the record of what was verified."""
    wanted = ("images", "masks", "annotations")
    chosen = {n: b for n, b in files.items() if n.split("/")[0] in wanted and any(slide in n for slide in slides)}
    return chosen | {INDEX: files[INDEX]}


def downloaded(folder: Path) -> dict[str, bytes]:
    files = contents(folder)
    for name in (VERIFIED, LOCK):
        files.pop(name, None)
    return files


@pytest.fixture(autouse=True)
def _impatient(monkeypatch) -> None:
    monkeypatch.setattr(module, "RETRY", Retry(total=2, status_forcelist=[503], raise_on_status=False))
    monkeypatch.setattr(module, "PAUSE", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def traffic(monkeypatch) -> list[tuple[str, str, str | None, int]]:
    """Every request in order: its method, the path below the source, its range, and the bytes of the answer."""
    requests_made = []
    send = requests.Session.send

    def send_and_note(self, request, **options):
        response = send(self, request, **options)
        name = request.url.split("/CAMELYON16/")[-1]
        length = int(response.headers.get("Content-Length", 0)) if request.method == "GET" else 0
        requests_made.append((request.method, name, request.headers.get("Range"), length))
        return response

    monkeypatch.setattr(requests.Session, "send", send_and_note)
    return requests_made


# --- from a bucket ---


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


class Bucket:
    def __init__(self, address: str) -> None:
        self.source = f"{address}/{BUCKET}/CAMELYON16"
        self.client = boto3.client(
            "s3", endpoint_url=address, region_name="us-west-2", aws_access_key_id="x", aws_secret_access_key="x"
        )
        place = {"LocationConstraint": "us-west-2"}
        self.client.create_bucket(Bucket=BUCKET, ACL="public-read", CreateBucketConfiguration=place)

    def put(self, files: dict[str, bytes]) -> dict[str, bytes]:
        """Publish the files with their list, unless they hold one; returns all."""
        files = {INDEX: index_of(files)} | files
        for name, body in files.items():
            self.client.put_object(Bucket=BUCKET, Key=f"CAMELYON16/{name}", Body=body, ACL="public-read")
        return files

    def delete(self, name: str) -> None:
        self.client.delete_object(Bucket=BUCKET, Key=f"CAMELYON16/{name}")


@pytest.fixture
def bucket(s3) -> Bucket:
    requests.post(f"{s3}/moto-api/reset", timeout=10)
    return Bucket(s3)


def test_all_slides_come_with_annotations_and_masks_in_the_tree_of_the_bucket(bucket, tmp_path):
    files = bucket.put(published("tumor_001", "normal_002", "test_003"))
    paths = download(tmp_path / "new" / "folder", source=bucket.source)
    assert downloaded(tmp_path / "new" / "folder") == of_slides(files, "tumor_001", "normal_002", "test_003")
    assert sorted(paths) == sorted(file for file in (tmp_path / "new" / "folder").glob("*/*"))
    slides, problems = find_slides(tmp_path / "new" / "folder")
    assert problems == {}
    assert [(slide.name, slide.tumour) for slide in slides] == [
        ("normal_002", False),
        ("test_003", False),
        ("tumor_001", True),
    ]


def test_what_is_left_out_is_not_downloaded(bucket, tmp_path):
    files = bucket.put(published("tumor_001", "tumor_010", "normal_086", "test_049", "normal_144"))
    download(tmp_path / "all", source=bucket.source)
    assert downloaded(tmp_path / "all") == of_slides(files, "tumor_001", "tumor_010", "normal_144")
    download(tmp_path / "clean", selection="clean", source=bucket.source + "/")
    assert downloaded(tmp_path / "clean") == of_slides(files, "tumor_001")


def test_a_few_slides_by_name_and_more_later(bucket, tmp_path, traffic):
    files = bucket.put(published("tumor_001", "tumor_002", "normal_001"))
    download(tmp_path, selection="*_001", source=bucket.source)
    assert downloaded(tmp_path) == of_slides(files, "tumor_001", "normal_001")
    traffic.clear()
    download(tmp_path, selection="all", source=bucket.source)
    assert downloaded(tmp_path) == of_slides(files, "tumor_001", "tumor_002", "normal_001")
    assert {name for _, name, _, _ in traffic} == {
        INDEX,
        "images/tumor_002.tif",
        "masks/tumor_002_mask.tif",
        "annotations/tumor_002.xml",
    }


def test_a_slide_that_is_not_published_is_named(bucket, tmp_path):
    bucket.put(published("tumor_001"))
    with assert_refused("tumor_002, x*", bucket.source, "check the names"):
        download(tmp_path, selection="tumor_001,tumor_002,x*", source=bucket.source)


def test_complete_files_are_read_once_and_never_transferred_again(bucket, tmp_path, traffic, monkeypatch):
    bucket.put(published("tumor_001"))
    download(tmp_path, source=bucket.source)
    traffic.clear()
    (tmp_path / VERIFIED).unlink()
    download(tmp_path, source=bucket.source)  # as after copying the folder: reads the files
    monkeypatch.setattr(module, "_md5", None)  # now nothing may be read
    download(tmp_path, source=bucket.source)
    assert [(method, name) for method, name, _, _ in traffic] == [("GET", INDEX)] * 2


@pytest.mark.parametrize("record", [b"", b"{", b"[]", b"\xff", b'{"images/tumor_001.tif": 3}'])
def test_a_damaged_record_of_what_was_verified_is_made_again(bucket, tmp_path, record):
    files = bucket.put(published("tumor_001"))
    download(tmp_path, source=bucket.source)
    whole = json.loads((tmp_path / VERIFIED).read_bytes())
    (tmp_path / VERIFIED).write_bytes(record)
    download(tmp_path, source=bucket.source)
    assert downloaded(tmp_path) == of_slides(files, "tumor_001")
    assert json.loads((tmp_path / VERIFIED).read_bytes()) == whole


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_a_file_that_was_damaged_later_is_replaced(bucket, tmp_path, damage):
    files = bucket.put(published("tumor_001"))
    image = download(tmp_path, source=bucket.source)[1]
    assert image.name == "tumor_001.tif"
    if damage == "flipped":
        flip_byte(image, 1000)
        os.utime(image, ns=(0, 0))
    else:
        os.truncate(image, {"cut": 1000, "empty": 0}[damage])
    download(tmp_path, source=bucket.source)
    assert downloaded(tmp_path) == of_slides(files, "tumor_001")


@pytest.mark.parametrize("there", [1, 1000, CHUNK, SIZE - 1, SIZE])
def test_only_the_rest_of_a_partial_file_is_transferred(bucket, tmp_path, traffic, there):
    files = bucket.put(published("tumor_001"))
    partial = tmp_path / "images" / "tumor_001.tif.partial"
    partial.parent.mkdir()
    partial.write_bytes(files["images/tumor_001.tif"][:there])
    download(tmp_path, source=bucket.source)
    assert downloaded(tmp_path) == of_slides(files, "tumor_001")
    requested = [(range, size) for method, name, range, size in traffic if method == "GET" and name.endswith("001.tif")]
    assert [range for range, _ in requested] == [f"bytes={there}-"]
    assert there == SIZE or requested[0][1] == SIZE - there


@pytest.mark.parametrize("content", [b"wrong", bytes(SIZE), bytes(SIZE + 1)], ids=["wrong", "as long", "longer"])
def test_a_partial_file_of_something_else_is_got_again(bucket, tmp_path, content):
    files = bucket.put(published("tumor_001"))
    partial = tmp_path / "images" / "tumor_001.tif.partial"
    partial.parent.mkdir()
    partial.write_bytes(content)
    download(tmp_path, source=bucket.source)
    assert downloaded(tmp_path) == of_slides(files, "tumor_001")


def test_a_wrong_sum_is_tried_twice_and_reported_with_both_sums_and_the_others_come(bucket, tmp_path, traffic, capsys):
    files = bucket.put(published("tumor_001", "tumor_002"))
    bucket.put({INDEX: files[INDEX], "images/tumor_001.tif": b"something else"})
    sums = [hashlib.md5(body).hexdigest() for body in (b"something else", files["images/tumor_001.tif"])]
    with assert_refused("1 of 6 files", "images/tumor_001.tif", *sums, "run it again"):
        download(tmp_path, source=bucket.source)
    assert "images/tumor_001.tif" in capsys.readouterr().err
    del files["images/tumor_001.tif"]
    assert downloaded(tmp_path) == of_slides(files, "tumor_001", "tumor_002")
    assert [(method, name) for method, name, _, _ in traffic].count(("GET", "images/tumor_001.tif")) == 2


def test_a_wrong_sum_in_the_list_does_not_cost_the_file_that_is_there(bucket, tmp_path):
    files = bucket.put(published("normal_001"))
    download(tmp_path, source=bucket.source)
    sums = index_of(files | {"images/normal_001.tif": b"another"})
    bucket.put({INDEX: sums})
    with assert_refused("images/normal_001.tif"):
        download(tmp_path, source=bucket.source)
    assert downloaded(tmp_path) == of_slides(files | {INDEX: sums}, "normal_001")


def test_a_missing_object_is_reported_and_the_others_come(bucket, tmp_path):
    files = bucket.put(published("tumor_001", "tumor_002"))
    bucket.delete("annotations/tumor_001.xml")
    with assert_refused("1 of 6 files", "annotations/tumor_001.xml (HTTP 404"):
        download(tmp_path, source=bucket.source)
    del files["annotations/tumor_001.xml"]
    assert downloaded(tmp_path) == of_slides(files, "tumor_001", "tumor_002")
    assert find_slides(tmp_path)[1].keys() == {"tumor_001"}


def test_of_many_missing_files_the_last_message_names_ten(bucket, tmp_path, capsys):
    files = bucket.put(published(*(f"normal_{n:03}" for n in range(1, 8))))
    for name in files.keys() - {INDEX}:
        bucket.delete(name)
    with assert_refused("14 of 14 files", "images/normal_007.tif", "masks/normal_003_mask.tif (HTTP 404", ", 4 more;"):
        download(tmp_path, source=bucket.source)
    assert capsys.readouterr().err.count("HTTP 404") == 14


@pytest.mark.parametrize("there", [0, CHUNK])
def test_disk_space_is_checked_before_anything_is_transferred(bucket, tmp_path, traffic, monkeypatch, there):
    files = bucket.put({"images/normal_001.tif": bytes(SIZE)})
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "normal_001.tif.partial").write_bytes(files["images/normal_001.tif"][:there])
    usage = namedtuple("usage", "total used free")
    needed = SIZE - there + module.RESERVE
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 0, needed - 1))
    with assert_refused(tmp_path, "0.0 GB more for 1 files", "0.0 GB free", "fewer files"):
        download(tmp_path, source=bucket.source)
    assert [name for method, name, _, _ in traffic if method == "GET"] == [INDEX]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 0, needed))
    download(tmp_path, source=bucket.source)
    assert downloaded(tmp_path) == files


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_ends_it_and_what_came_is_kept(bucket, tmp_path, monkeypatch, number):
    files = bucket.put(published(*(f"normal_{n:03}" for n in range(1, 9))))

    class Full(io.FileIO):
        def write(self, data: bytes) -> int:
            if self.tell() + len(data) > 8 * CHUNK:
                raise OSError(number, os.strerror(number))
            return super().write(data)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_open_partial", lambda path: Full(path, "a+"))
        with assert_refused(tmp_path / "images" / "normal_00", "disk", "free some space"):
            download(tmp_path, source=bucket.source)
    assert 8 * CHUNK in [file.stat().st_size for file in tmp_path.glob("images/*.partial")]
    assert not list(tmp_path.glob("images/*.tif"))
    download(tmp_path, source=bucket.source)
    assert downloaded(tmp_path) == of_slides(files, "normal_")


@pytest.mark.parametrize(
    ("url", "target", "refused"),
    [
        ("https://here.org/a", "http://there.org/a", True),
        ("https://here.org/a", "HTTP://there.org/a", True),
        ("https://here.org/a", "https://there.org/a", False),
        ("https://here.org/a", "/b", False),
        ("http://here.org/a", "http://there.org/a", False),
    ],
)
def test_a_redirect_does_not_leave_tls(url, target, refused):
    response = requests.Response()
    response.url, response.status_code, response.headers["location"] = url, 302, target
    if refused:
        with pytest.raises(requests.RequestException, match=r"(?i)http://there\.org/a, which is not encrypted"):
            module.open_session().get_redirect_target(response)
    else:
        assert module.open_session().get_redirect_target(response) == target


def test_no_credentials_are_sent(bucket, tmp_path, monkeypatch):
    bucket.put(published("normal_001"))
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    sent = []
    send = requests.Session.send
    monkeypatch.setattr(requests.Session, "send", lambda s, r, **o: sent.append(dict(r.headers)) or send(s, r, **o))
    download(tmp_path / "slides", source=bucket.source)
    assert len(sent) == 1 + 2 + 2
    assert not any({"Authorization", "Cookie"} & headers.keys() for headers in sent)


# --- lists that are none ---


@pytest.mark.parametrize("path", ["../../x.tif", "/x.tif", "images/../../x.tif"])
def test_a_list_whose_paths_lead_out_of_the_folder_is_refused_and_nothing_is_written(bucket, tmp_path, path):
    bucket.put({INDEX: index_of({"images/normal_001.tif": b"1", path: b"2"}), "images/normal_001.tif": b"1"})
    with assert_refused(path, INDEX, "outside of its folder"):
        download(tmp_path / "a" / "b", source=bucket.source)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("text", ["<html>please log in</html>", "", "\xff\xfe", "0" * 32 + "  README.md"])
def test_a_list_that_is_none_is_refused_and_the_old_one_is_kept(bucket, tmp_path, text):
    bucket.put(published("normal_001"))
    download(tmp_path, source=bucket.source)
    before = contents(tmp_path)
    bucket.put({INDEX: text.encode("latin-1")})
    with assert_refused(f"{bucket.source}/{INDEX}"):
        download(tmp_path, source=bucket.source)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("source", ["http://127.0.0.1:9/x", "no address", "s3://bucket/x"])
def test_a_source_that_does_not_answer_is_named(tmp_path, source):
    with assert_refused(f"{source}/{INDEX}", "check the connection and the source"):
        download(tmp_path, source=source)


def test_a_source_without_a_list_is_named(bucket, tmp_path):
    with assert_refused(f"{bucket.source}/{INDEX}", "HTTP 404"):
        download(tmp_path, source=bucket.source)


def test_a_folder_that_cannot_be_made_is_refused(bucket, tmp_path):
    bucket.put(published("normal_001"))
    (tmp_path / "file").touch()
    with assert_refused(tmp_path / "file", "not a folder"):
        download(tmp_path / "file" / "slides", source=bucket.source)


def test_two_at_once_into_one_folder_are_refused_and_cost_nothing(bucket, tmp_path):
    files = bucket.put(published("normal_001", "tumor_001"))
    with only_one(tmp_path, "downloads to"), assert_refused(tmp_path, f"process {os.getpid()}", "wait"):
        download(tmp_path, source=bucket.source)
    assert not list(tmp_path.rglob("*.tif*"))
    download(tmp_path, source=bucket.source)
    assert downloaded(tmp_path) == of_slides(files, "normal_001", "tumor_001")


def test_a_link_in_the_place_of_a_partial_file_is_named_and_not_followed(bucket, tmp_path, capsys):
    bucket.put(published("normal_001"))
    (mine := tmp_path / "mine.txt").write_text("not to be touched")
    (link := tmp_path / "slides/images/normal_001.tif.partial").parent.mkdir(parents=True)
    link.symlink_to(mine)
    with assert_refused("normal_001.tif", "is a link; remove it"):
        download(tmp_path / "slides", source=bucket.source)
    assert mine.read_text() == "not to be touched"


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(bucket, tmp_path):
    files = bucket.put(published("normal_001"))
    (mine := tmp_path / "mine.txt").write_text("not to be touched")
    for name in ("images/normal_001.tif", INDEX, VERIFIED):
        (link := tmp_path / "slides" / name).parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(mine)
    download(tmp_path / "slides", source=bucket.source)
    assert mine.read_text() == "not to be touched"
    assert not (tmp_path / "slides/images/normal_001.tif").is_symlink()
    assert downloaded(tmp_path / "slides") == of_slides(files, "normal_001")


def test_a_file_is_checked_again_under_its_own_name(bucket, tmp_path, monkeypatch, capsys):
    """As if another program, which knows of no lock, had written to it meanwhile."""
    files = bucket.put(published("normal_001", "normal_002"))
    replace = Path.replace

    def spoil(path: Path, target: Path) -> Path:
        if path.name == "normal_001.tif.partial":
            flip_byte(path, 5)
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", spoil)
        with assert_refused("1 of 4 files", "images/normal_001.tif", "on the disk", "run it again"):
            download(tmp_path, source=bucket.source)
    assert not (tmp_path / "images/normal_001.tif").exists()
    download(tmp_path, source=bucket.source)
    assert downloaded(tmp_path) == of_slides(files, "normal_")


# --- from a server that fails ---


class Faulty(ThreadingHTTPServer):
    """Serves files, and fails as it is told.

    Attributes:
        breaks: bytes after which the next answers of an image break off, one after the other.
        refuses: how many of the next requests for an image are answered by 503.
        ranges: whether it knows them.
        headers: sent with every image, in the place of its own.
        status: of images, if it is not the right one.
        notice: called before each image is sent.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files = files | {INDEX: index_of(files)}
        self.breaks: list[int] = []
        self.refuses = 0
        self.ranges = True
        self.headers: dict[str, str] = {}
        self.status = 0
        self.notice = lambda: None
        self.source = f"http://127.0.0.1:{self.server_port}/CAMELYON16"


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server, name = self.server, self.path.removeprefix("/CAMELYON16/")
        image = name.endswith(".tif") and self.command == "GET"
        if image and server.refuses:
            server.refuses -= 1
            self.send_error(503)
            return
        body, range = server.files[name], self.headers.get("Range")
        start = int(range.removeprefix("bytes=").removesuffix("-")) if range and server.ranges else 0
        of_image = name.endswith(".tif")
        right = 206 if range and server.ranges else 200
        self.send_response(server.status or right if of_image else right)
        headers = {"Content-Length": str(len(body) - start)} | (server.headers if of_image else {})
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if image:
            server.notice()
        end = start + server.breaks.pop(0) if image and server.breaks else len(body)
        self.wfile.write(body[start:end])

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def faulty() -> Iterator[Faulty]:
    server = Faulty({"images/normal_001.tif": np.random.default_rng(0).bytes(SIZE)})
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def ranges_of(traffic) -> list[str | None]:
    return [range for method, name, range, _ in traffic if method == "GET" and name.endswith(".tif")]


def test_a_transfer_that_breaks_goes_on_where_it_broke(faulty, tmp_path, traffic):
    faulty.breaks = [3 * CHUNK, CHUNK, 0, 0, 0, 0, 0, CHUNK, 2 * CHUNK]
    starts = np.cumsum(faulty.breaks)
    download(tmp_path, source=faulty.source)
    assert downloaded(tmp_path) == faulty.files
    assert ranges_of(traffic) == [None, *(f"bytes={start}-" for start in starts)]


def test_a_transfer_that_always_breaks_is_given_up_and_resumed_by_the_next_run(faulty, tmp_path, traffic):
    faulty.breaks = [CHUNK + 100] + [100] * 1000
    with assert_refused("images/normal_001.tif (the connection broke)", "run it again"):
        download(tmp_path, source=faulty.source)
    assert len(ranges_of(traffic)) == 1 + module.BREAKS + 1
    partial = tmp_path / "images" / "normal_001.tif.partial"
    assert partial.read_bytes() == faulty.files["images/normal_001.tif"][:CHUNK]
    faulty.breaks.clear()
    traffic.clear()
    download(tmp_path, source=faulty.source)
    assert downloaded(tmp_path) == faulty.files
    assert ranges_of(traffic) == [f"bytes={CHUNK}-"]


def test_a_server_that_knows_no_ranges_is_asked_for_the_whole_again(faulty, tmp_path):
    faulty.ranges = False
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "normal_001.tif.partial").write_bytes(faulty.files["images/normal_001.tif"][:5000])
    faulty.breaks = [CHUNK, 5 * CHUNK, 10, 2 * CHUNK, SIZE - 1]
    download(tmp_path, source=faulty.source)
    assert downloaded(tmp_path) == faulty.files


def test_without_ranges_a_server_that_always_breaks_is_given_up(faulty, tmp_path, traffic):
    faulty.ranges = False
    faulty.breaks = [CHUNK, 3 * CHUNK, 2 * CHUNK] * 1000
    with assert_refused("the connection broke"):
        download(tmp_path, source=faulty.source)
    assert len(ranges_of(traffic)) == 2 + module.BREAKS + 1


def test_a_server_that_is_busy_is_asked_again(faulty, tmp_path):
    faulty.refuses = 2
    download(tmp_path, source=faulty.source)
    assert downloaded(tmp_path) == faulty.files


@pytest.mark.parametrize("length", ["", "x", "-5", "1e9", "٣", "9" * 30, "5, 5", "0x10"])
def test_an_odd_length_is_no_reason_to_stumble(faulty, tmp_path, length):
    faulty.headers = {"Content-Length": length}
    with suppress(StudyError):
        download(tmp_path, source=faulty.source)
    faulty.headers = {}
    download(tmp_path, source=faulty.source)
    assert downloaded(tmp_path) == faulty.files


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (302, {"Location": "http://[bad"}),
        (302, {"Location": "http://\x01/"}),
        (302, {"Location": "gopher://x/y"}),
        (302, {"Location": "http://127.0.0.1:99999/"}),
        (302, {"Location": "/CAMELYON16/images/normal_001.tif"}),
        (302, {}),
        (503, {"Retry-After": "soon"}),
        (200, {"Content-Encoding": "gzip"}),
        (200, {"Transfer-Encoding": "chunked"}),
        (206, {"Content-Range": "bytes 7-3/x"}),
        (204, {}),
        (700, {}),
    ],
)
def test_odd_answers_are_reported_in_one_line(faulty, tmp_path, status, headers):
    faulty.status, faulty.headers = status, headers
    refused = ""
    try:
        download(tmp_path, source=faulty.source)
    except StudyError as error:
        refused = str(error)
    assert "\n" not in refused
    assert refused or downloaded(tmp_path) == faulty.files
    faulty.status, faulty.headers = 0, {}
    download(tmp_path, source=faulty.source)
    assert downloaded(tmp_path) == faulty.files


def test_a_server_that_stays_busy_is_reported(faulty, tmp_path):
    faulty.refuses = 1000
    with assert_refused("images/normal_001.tif (HTTP 503 Service Unavailable)"):
        download(tmp_path, source=faulty.source)


def test_when_the_source_is_gone_the_rest_is_not_tried(faulty, tmp_path, monkeypatch, traffic):
    names = [f"images/normal_{n:03}.tif" for n in range(1, 60)]
    faulty.files = dict.fromkeys(names, b"1")
    faulty.files[INDEX] = index_of(faulty.files)
    monkeypatch.setattr(module, "BREAKS", 0)
    faulty.breaks = [0] * 1000
    with assert_refused(faulty.source, "answers no more", "run it again"):
        download(tmp_path, source=faulty.source)
    assert len(ranges_of(traffic)) < 30


def test_ctrl_c_leaves_whole_files_and_partial_ones_that_are_resumed(faulty, tmp_path, monkeypatch):
    names = [f"images/normal_{n:03}.tif" for n in range(1, 20)]
    faulty.files = {name: np.random.default_rng(n).bytes(SIZE) for n, name in enumerate(names)}
    faulty.files[INDEX] = index_of(faulty.files)
    pool, stops, sent = module._pool, [], iter(range(1, 1000))
    monkeypatch.setattr(module, "_pool", lambda stop: stops.append(stop) or pool(stop))

    def press_ctrl_c_at_the_eighth() -> None:
        number = next(sent)
        if number == 8:
            os.kill(os.getpid(), signal.SIGINT)
        if number >= 8:
            stops[0].wait(5)  # its data come when the client has been told to stop

    faulty.notice = press_ctrl_c_at_the_eighth
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            download(tmp_path, source=faulty.source)
    finally:
        signal.signal(signal.SIGINT, before)
    whole = set(tmp_path.glob("images/*.tif"))
    assert len(whole) <= 7
    assert len(set(tmp_path.glob("images/*")) - whole) >= 1
    for name, body in downloaded(tmp_path).items():
        published_body = faulty.files[name.removesuffix(".partial")]
        assert published_body.startswith(body) if name.endswith(".partial") else published_body == body
    faulty.notice = lambda: None
    download(tmp_path, source=faulty.source)
    assert downloaded(tmp_path) == faulty.files
