"""Downloads from a server on this machine: broken connections, checks, and hostile archives."""

import gzip
import hashlib
import http.server
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from scripts import download
from util.errors import UserError
from util.weights import check_cached

CONTENT = bytes(range(256)) * 4000
MODEL = "/cyclegan/pretrained_models/horse2zebra.pth"
ZIP = "/cyclegan/datasets/maps.zip"
TAR = "/pix2pix/datasets/facades.tar.gz"


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `files` with ranges, and breaks off after `breaks_after` bytes of an answer."""

    protocol_version = "HTTP/1.1"
    files: ClassVar[dict[str, bytes]] = {}
    headers_sent: ClassVar[dict[str, str]] = {}
    ranges: ClassVar[list[str]] = []
    breaks_after: ClassVar[int | None] = None
    tells_length: ClassVar[bool] = True
    status: ClassVar[int] = 200
    offset: ClassVar[int] = 0
    """Added to the beginning of every range, as a faulty server may do."""

    def do_GET(self) -> None:
        wanted, etag = self.headers["Range"], self.headers_sent.get("ETag")
        self.ranges.append(wanted or "")
        content = self.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if wanted and self.headers["If-Range"] == etag:
            start += self.offset
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            start = 0
            self.send_response(self.status)
        if self.tells_length:
            self.send_header("Content-Length", str(len(content) - start))
        for header in self.headers_sent.items():
            self.send_header(*header)
        self.end_headers()
        self.wfile.write(content[start:][: self.breaks_after])
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def handler(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Handler]]:
    class Fresh(Handler):
        files: ClassVar[dict[str, bytes]] = {MODEL: CONTENT}
        headers_sent: ClassVar[dict[str, str]] = {"ETag": '"one"'}
        ranges: ClassVar[list[str]] = []

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Fresh)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setattr(download, "HOST", f"http://127.0.0.1:{server.server_port}")
    yield Fresh
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / "horse2zebra_pretrained" / "latest_net_G.pth"


def get_model(tmp_path: Path, *flags: str) -> int:
    return download.main(["cyclegan_model", "horse2zebra", "--root", str(tmp_path), *flags])


def test_a_broken_download_continues(
    handler: type[Handler], tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handler.breaks_after = 1000
    assert get_model(tmp_path) == 1
    assert "broke after 1,000 of 1,024,000 bytes; the same command continues it\n" in capsys.readouterr().err
    assert not model.exists()
    assert get_model(tmp_path) == 1
    handler.breaks_after = None
    assert get_model(tmp_path) == 0
    assert handler.ranges == ["", "bytes=1000-", "bytes=2000-"]
    assert model.read_bytes() == CONTENT
    digest, url = model.with_name("latest_net_G.pth.sha256").read_text().split()
    assert digest == hashlib.sha256(CONTENT).hexdigest() and url.endswith(MODEL)
    assert {path.name for path in model.parent.iterdir()} == {model.name, f"{model.name}.sha256"}

    assert get_model(tmp_path) == 0 and len(handler.ranges) == 3
    model.write_bytes(CONTENT[:-1])
    assert get_model(tmp_path) == 1
    assert "damaged or another file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [{"validator": '"one"\r\nX: y'}, {"validator": "\u00e9"}, {"length": "7"}, {"url": None}, "[" * 9000],
)
def test_a_damaged_record_begins_a_download_anew(
    handler: type[Handler], tmp_path: Path, model: Path, change: dict[str, object] | str
) -> None:
    handler.breaks_after = 1000
    assert get_model(tmp_path) == 1
    [record] = model.parent.glob("*.part.json")
    text = change if isinstance(change, str) else json.dumps({**json.loads(record.read_text()), **change})
    record.write_text(text)
    handler.breaks_after = None
    assert get_model(tmp_path) == 0
    assert handler.ranges == ["", ""] and model.read_bytes() == CONTENT
    model.with_name(f"{model.name}.sha256").write_bytes(b"\xff\xfe\x00")
    assert get_model(tmp_path) == 1


@pytest.mark.parametrize("change", ["other content", "other length", "no ranges", "wrong range"])
def test_a_download_of_a_changed_file_begins_anew(
    handler: type[Handler], tmp_path: Path, model: Path, change: str
) -> None:
    handler.breaks_after = 1000
    assert get_model(tmp_path) == 1
    handler.breaks_after = None
    content = CONTENT
    if change == "other content":
        content = handler.files[MODEL] = CONTENT[::-1]
        handler.headers_sent["ETag"] = '"two"'
    elif change == "other length":
        content = handler.files[MODEL] = CONTENT[::-1] + b"more"
    elif change == "no ranges":
        handler.headers_sent.clear()
    else:
        handler.offset = 7
    assert get_model(tmp_path) == 0
    assert model.read_bytes() == content


def test_the_hash_is_checked(
    handler: type[Handler], tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert get_model(tmp_path, "--sha256", "0" * 64) == 1
    error = capsys.readouterr().err
    assert f"should be {'0' * 64}" in error and error.count("\n") == 1
    assert not model.parent.exists()
    assert get_model(tmp_path, "--sha256", "12") == 1
    assert get_model(tmp_path, "--sha256", hashlib.sha256(CONTENT).hexdigest().upper()) == 0
    assert get_model(tmp_path, "--sha256", "0" * 64) == 1 and model.exists()


def test_answers_without_a_length_and_web_pages(
    handler: type[Handler], tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handler.tells_length = False
    buffer = io.BytesIO()
    torch.save({"weight": torch.ones(1000)}, buffer)
    handler.files[MODEL], handler.breaks_after = buffer.getvalue(), 2000
    assert get_model(tmp_path) == 1
    assert "cannot be read as weights" in capsys.readouterr().err and not model.exists()
    handler.breaks_after = None
    assert get_model(tmp_path) == 0
    model.unlink()
    handler.files[MODEL] = b""
    assert get_model(tmp_path) == 1
    assert "the file on the server is empty" in capsys.readouterr().err and not model.exists()
    handler.files[MODEL], handler.status = CONTENT, 206  # a part although the whole was requested
    assert get_model(tmp_path) == 1
    assert "status 206" in capsys.readouterr().err and not model.exists()
    handler.status = 200
    handler.headers_sent["Content-Type"] = "text/html"
    assert get_model(tmp_path) == 1
    assert "a web page and not the file" in capsys.readouterr().err and not model.exists()


def test_archives_are_unpacked_whole_or_not_at_all(
    handler: type[Handler], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("maps/trainA/1.jpg", b"one")
        archive.writestr("../../escape.txt", b"")
    handler.files[ZIP] = buffer.getvalue()
    maps = ["maps", "--root", str(tmp_path)]
    assert download.main(["cyclegan_dataset", *maps]) == 0
    error = capsys.readouterr().err
    assert "unsafe members were refused: '../../escape.txt'" in error and error.count("\n") == 1
    assert (tmp_path / "datasets" / "maps" / "trainA" / "1.jpg").read_bytes() == b"one"
    assert not list(tmp_path.parent.rglob("escape.txt"))
    assert [path.name for path in (tmp_path / "datasets").iterdir()] == ["maps"]
    assert download.main(["pix2pix_dataset", *maps]) == 1  # the other data set of this name
    assert "rename it" in capsys.readouterr().err

    damaged = bytearray(gzip.compress(bytes(4096)))
    damaged[-6] ^= 1
    handler.files[TAR] = bytes(damaged)
    facades = ["pix2pix_dataset", "facades", "--root", str(tmp_path)]
    assert download.main(facades) == 1
    error = capsys.readouterr().err
    assert "facades.tar.gz: it is damaged" in error and error.count("\n") == 1
    assert [path.name for path in (tmp_path / "datasets").iterdir()] == ["maps"]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("facades/train/1.jpg"))
    handler.files[TAR] = buffer.getvalue()
    (tmp_path / "datasets" / "facades").mkdir()  # empty: as good as absent
    assert download.main(facades) == 0
    assert (tmp_path / "datasets" / "facades" / "train" / "1.jpg").exists()


def test_a_link_at_the_place_of_a_partial_download_is_not_followed(
    handler: type[Handler], tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "precious").write_text("precious")
    model.parent.mkdir(parents=True)
    (model.parent / "horse2zebra.pth.part").symlink_to(tmp_path / "precious")
    assert get_model(tmp_path) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert (tmp_path / "precious").read_text() == "precious"


def test_only_one_process_downloads_a_file(
    handler: type[Handler], tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = model.parent / "horse2zebra.pth.part"
    part.parent.mkdir(parents=True)
    with part.open("wb") as file:
        download._lock(file, part)
        assert get_model(tmp_path) == 1
    assert "another process is downloading it" in capsys.readouterr().err


def test_http_takes_the_place_of_https_where_nothing_answers(
    handler: type[Handler],
    tmp_path: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The server of this test answers a TLS handshake with an error."""
    monkeypatch.setattr(download, "HOST", download.HOST.replace("http:", "https:"))
    assert get_model(tmp_path) == 0
    assert "trying http, which is not encrypted" in capsys.readouterr().err
    assert model.read_bytes() == CONTENT


def test_weights_are_checked_by_the_hash_in_their_names(
    handler: type[Handler],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    good = f"net-{hashlib.sha256(CONTENT).hexdigest()[:8]}"
    names = (good, "net-00000000")
    handler.files.update({f"/{name}.pth": CONTENT for name in names})
    kind = download.Kind(f"{download.HOST}/{{}}.pth", f"{download.CACHE}/{{}}.pth", names)
    monkeypatch.setitem(download.KINDS, "torchvision_weights", kind)
    assert download.main(["torchvision_weights", good]) == 0
    cached = tmp_path / "checkpoints" / f"{good}.pth"
    assert cached.read_bytes() == CONTENT
    assert download.main(["torchvision_weights", "net-00000000"]) == 1
    assert "should be 00000000: it is damaged" in capsys.readouterr().err

    check_cached(cached.name, "vgg_weights")
    cached.write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match=r"vgg_weights .*damaged"):
        check_cached(cached.name, "vgg_weights")
    assert download.main(["torchvision_weights", good]) == 1
