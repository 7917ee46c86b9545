"""Download a data set, a published generator, or a backbone's weights.

    python scripts/download.py pix2pix_dataset facades                # to datasets/facades/
    python scripts/download.py cyclegan_model horse2zebra             # to checkpoints/horse2zebra_pretrained/
    python scripts/download.py torchvision_weights vgg16-397923af     # to torch's cache

The same command continues an interrupted download. Its length is checked, and its SHA-256 if one is published
or given by --sha256; the SHA-256 is recorded in latest_net_G.pth.sha256 or facades/download.sha256. The files
are published by the authors of the papers; check their terms before redistributing anything.
"""

import argparse
import fcntl
import hashlib
import http.client
import json
import os
import re
import ssl
import sys
import tempfile
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))

from scripts.archives import ArchiveError, unpack
from util.checking import Rule, read_json
from util.errors import UserError, run_command
from util.files import read_text, write_text
from util.text import printable

ROOT = Path(__file__).parents[1]
HOST = "https://efrosgans.eecs.berkeley.edu"
TIMEOUT = 30
"""Seconds to wait for a connection, and for each part of an answer."""

CITYSCAPES = (
    "cityscapes: its licence forbids redistribution; download it from https://www.cityscapes-dataset.com, and"
    " see datasets/prepare_cityscapes_dataset.py"
)
CACHE = "{cache}"
"""Stands for the folder of torch's cache of weights."""

SHA256 = {
    f"https://efrosgans.eecs.berkeley.edu/cyclegan/datasets/{name}.zip": digest
    for name, digest in {
        "apple2orange": "845a191e9af8926408ea597001cd03a452e3300a1f44a79fe329b3d59f6e3eb8",
        "cezanne2photo": "3a6c10ca21f9485862f1cbd707744b9dc258954a04631271d23a3605eeb63cff",
        "facades": "9a31ebf3a31b9b5cd195dd5bf62e9308e00cb94604d1019e3889ac84248695c0",
        "horse2zebra": "a74d9d392eecca9966b51287a76ca126af473d9de4f3e8fc0e9cda08fa1730a1",
        "iphone2dslr_flower": "8fcb5e374d631b107e1d961b8c4cd0a186aa2a4ff3e279923f4c426128de7113",
        "maps": "639534f69dbf9f36bef8d6292a7698006361221f83f0285d7c9ca78afe6e8a9e",
        "monet2photo": "88f91b00fc228f97c9411fbf1880ec1d119c98f1722e4cfcfaa2fb35fac05b04",
        "summer2winter_yosemite": "167fe1726807a9d22bd106b4a6c0bd7953b688af924ac1bf967439c4961e49f9",
        "ukiyoe2photo": "02a2a2fb5ecf425ca1bf86aca7304377da64a2a1d3b86df54eb65e4068bf3b08",
        "vangogh2photo": "362c3473e70be0944bda08d49d660eafdc2854df55d697835b8186d1d79caaff",
    }.items()
}
"""Published hashes by URL, from url_checksums/cycle_gan.txt of tensorflow-datasets 4.9.10."""


@dataclass(frozen=True)
class Kind:
    """A kind of download: its `names`, and `url` and `target` with braces in place of the name.

    A `url` that begins with a slash is a path on `HOST`.
    """

    url: str
    target: str
    names: tuple[str, ...]


KINDS = {
    "pix2pix_dataset": Kind(
        "/pix2pix/datasets/{}.tar.gz",
        "datasets/{}",
        ("edges2handbags", "edges2shoes", "facades", "maps", "night2day"),
    ),
    "cyclegan_dataset": Kind(
        "/cyclegan/datasets/{}.zip",
        "datasets/{}",
        (
            *("ae_photos", "apple2orange", "cezanne2photo", "facades", "horse2zebra", "iphone2dslr_flower"),
            *("maps", "mini", "mini_colorization", "mini_pix2pix", "monet2photo", "summer2winter_yosemite"),
            *("ukiyoe2photo", "vangogh2photo"),
        ),
    ),
    "pix2pix_model": Kind(
        "/pix2pix/models-pytorch/{}.pth",
        "checkpoints/{}_pretrained/latest_net_G.pth",
        ("day2night", "edges2shoes", "facades_label2photo", "map2sat", "sat2map"),
    ),
    "cyclegan_model": Kind(
        "/cyclegan/pretrained_models/{}.pth",
        "checkpoints/{}_pretrained/latest_net_G.pth",
        (
            *("apple2orange", "cityscapes_label2photo", "cityscapes_photo2label", "facades_label2photo"),
            *("facades_photo2label", "horse2zebra", "iphone2dslr_flower", "map2sat", "monet2photo"),
            *("orange2apple", "sat2map", "style_cezanne", "style_monet", "style_ukiyoe", "style_vangogh"),
            *("summer2winter_yosemite", "winter2summer_yosemite", "zebra2horse"),
        ),
    ),
    "torchvision_weights": Kind(  # --vgg_weights, --resnet_weights, lpips
        "https://download.pytorch.org/models/{}.pth",
        CACHE + "/{}.pth",
        ("alexnet-owt-7be5be79", "resnet18-f37072fd", "vgg16-397923af", "vgg19-dcbb9e9d"),
    ),
    "torch_fidelity_weights": Kind(  # fid and kid
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{}.pth",
        CACHE + "/{}.pth",
        ("weights-inception-2015-12-05-6726825d",),
    ),
}


class DownloadError(Exception):
    """A download failed; the message is one line that says why and what to do."""


class DamagedError(DownloadError):
    """What was downloaded is useless."""


HEADER = Rule(str, lambda value: value.isascii() and value.isprintable(), "the value of a header")


@dataclass(frozen=True)
class Attempt:
    """What is known of a file on the server, recorded beside the part that has been downloaded.

    Attributes:
        validator: its ETag or date, which tells whether it has changed since; may be empty.
        length: its size in bytes, if the server tells it.
    """

    url: str
    validator: str = ""
    length: int | None = None

    @classmethod
    def read(cls, path: Path) -> "Attempt | None":
        """Return the record in a file; None without a valid one."""
        try:
            values = read_json(path, {"url": str, "validator": HEADER, "length": int | None})
        except UserError:
            return None
        return cls(values["url"], values["validator"], values["length"])


def download(url: str, file: IO[bytes], record: Path) -> bool:
    """Download what `file` lacks of `url`, and return whether the server gave its length.

    Args:
        file: open for reading and writing; what it contains is continued if the server confirms that its file
            is still the same, and replaced otherwise.
        record: the file of the earlier attempt's `Attempt`.

    Raises:
        DownloadError: the answer is no such file, or it broke off.
        OSError: the server is unreachable or has no such file, or the disk is full.
    """
    begun = Attempt.read(record)
    have = file.seek(0, os.SEEK_END)
    if begun is None or begun.url != url or have > (begun.length or have):
        have = 0
    if have and begun and have == begun.length:
        return True
    with _open(url, have, begun if have else None) as answer:
        headers = answer.headers
        if answer.status != http.client.PARTIAL_CONTENT:
            have = 0
        if headers.get_content_type() == "text/html":
            raise DownloadError(f"{url}: the answer is a web page and not the file, perhaps of a proxy")
        rest, etag = headers["Content-Length"], headers["ETag"] or "W/"
        length = have + int(rest) if rest and rest.isdecimal() else None
        validator = (headers["Last-Modified"] or "") if etag.startswith("W/") else etag
        write_text(record, json.dumps({"url": url, "validator": validator, "length": length}) + "\n")
        file.truncate(have)
        size = _copy(answer, file, have, length)
    if length is not None and size != length:
        raise DownloadError(
            f"{url}: the connection broke after {size:,} of {length:,} bytes; the same command continues it"
        )
    if not size:
        raise DownloadError(f"{url}: the file on the server is empty")
    return length is not None


def _open(url: str, have: int, begun: Attempt | None) -> Any:
    """Request a file, or what it has after its first `have` bytes if it is that of `begun`."""
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
    if begun is None:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
        if answer.status not in (None, http.client.OK):  # None: not by HTTP
            raise DownloadError(f"{url}: the server answered with status {answer.status} {answer.reason}")
        return answer
    request.add_header("Range", f"bytes={have}-")
    if begun.validator:
        request.add_header("If-Range", begun.validator)
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        return _open(url, 0, None)
    if answer.status == http.client.PARTIAL_CONTENT:
        span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.headers["Content-Range"] or "")
        expected = (str(have), str((begun.length or 0) - 1), str(begun.length))
        if span is None or span.groups() != expected:
            answer.close()
            return _open(url, 0, None)
    return answer


def _copy(answer: IO[bytes], file: IO[bytes], have: int, length: int | None) -> int:
    """Append an answer to a file until it ends or breaks off, and return the file's size."""
    file.seek(have)
    name = str(getattr(file, "name", "")).rsplit("/", 1)[-1].removesuffix(".part")
    with tqdm(
        total=length, initial=have, unit="B", unit_scale=True, unit_divisor=1024, desc=name, disable=None
    ) as progress:
        while True:
            try:
                data = answer.read(1 << 16)
            except (OSError, http.client.HTTPException) as error:
                if length is None:
                    raise DownloadError(f"the connection broke ({error!r})") from error
                break
            if not data:
                break
            file.write(data)
            progress.update(len(data))
    file.flush()
    os.fsync(file.fileno())
    return file.tell()


def fetch(kind: Kind, name: str, root: Path, sha256: str = "") -> Path:
    """Download `name` below `root`, check it, unpack it if it is an archive, and return its path.

    Raises:
        DownloadError: it is damaged, or another process downloads it.
        OSError: it cannot be downloaded or written.
    """
    url, target = address(kind, name), destination(kind, name, root)
    if not is_missing(target):
        check_present(target, url, sha256)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(url.rsplit("/", 1)[1] + ".part")
    record = part.with_name(f"{part.name}.json")
    # Not through a link that somebody else may have put there.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    with os.fdopen(os.open(part, flags, 0o666), "r+b") as file:
        _lock(file, part)
        try:
            if is_missing(target):  # otherwise another process has completed it meanwhile
                length_checked = _download_from_any(url, file, record)
                _install(part, target, name, url, sha256, length_checked)
        except DamagedError:
            file.truncate(0)
            raise
        finally:
            if not is_missing(target) or not file.seek(0, os.SEEK_END):
                for path in (part, record):
                    path.unlink(missing_ok=True)
                with suppress(OSError):
                    target.parent.rmdir()  # if it is empty
    return target


def _install(part: Path, target: Path, name: str, url: str, sha256: str, length_checked: bool) -> None:
    """Check a complete download and move or unpack it to `target`.

    Args:
        length_checked: whether the server gave a length, to which the file's is equal.
    """
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    check_digest(digest, sha256 or SHA256.get(url, ""), url)
    record = f"{digest}  {url}\n"
    if target.suffix != ".pth":
        _unpack(part, target, name, record)
        return
    if not length_checked and not sha256 and not _prefix(url):
        from util.weights import read_weights  # here because torch takes seconds

        try:
            read_weights(part)
        except UserError as error:
            raise DamagedError(f"{url}: {error}; download it again") from error
    write_text(record_path(target), record)
    part.replace(target)


def address(kind: Kind, name: str) -> str:
    """Return the URL of a download."""
    return (HOST if kind.url.startswith("/") else "") + kind.url.format(name)


def destination(kind: Kind, name: str, root: Path) -> Path:
    """Return the file or folder that a download becomes."""
    if not kind.target.startswith(CACHE):
        return root / kind.target.format(name)
    import torch  # here because it takes seconds

    return Path(torch.hub.get_dir()) / "checkpoints" / kind.target.removeprefix(CACHE).format(name).strip("/")


def record_path(target: Path) -> Path:
    """Return the file with the SHA-256 and the URL of what was downloaded to `target`."""
    return target / "download.sha256" if target.is_dir() else target.with_name(f"{target.name}.sha256")


def is_missing(target: Path) -> bool:
    """Return whether there is no file or only an empty folder."""
    return not (any(target.iterdir()) if target.is_dir() else target.exists())


def check_present(target: Path, url: str, sha256: str) -> None:
    """Check a file that was downloaded earlier, or the hash that was recorded of an archive then.

    Raises:
        DownloadError: it is damaged, or another file than that of `url`.
    """
    record = record_path(target)
    recorded, _, source = read_text(record).strip().partition("  ") if record.is_file() else ("", "", "")
    if source and urlsplit(source).path != urlsplit(url).path:
        raise DownloadError(f"{target} is {source}; rename it before you download {url}")
    if target.is_dir():
        if sha256 and not recorded:
            raise DownloadError(f"{target}: its SHA-256 was not recorded; remove it to download it again")
        digest = recorded
    elif sha256 or recorded or _prefix(url):
        with target.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    else:
        return
    expected = sha256 or recorded
    if digest:
        check_digest(digest, expected, str(target) if expected else url, f"{target}: ")


def check_digest(digest: str, expected: str, url: str, place: str = "") -> None:
    """Check a SHA-256 against the expected one, or its beginning in a name such as vgg16-397923af.pth.

    Raises:
        DamagedError: they differ.
    """
    expected = expected.lower() or _prefix(url)
    if not digest.startswith(expected):
        raise DamagedError(
            f"{place or url + ': '}the SHA-256 is {digest} and should be {expected}: it is damaged or another"
            " file. Remove it if it is still there and download it again; --sha256 gives another hash"
        )


def _prefix(url: str) -> str:
    found = re.search(r"-([0-9a-f]{8})\.pth$", url)
    return found[1] if found else ""


def _lock(file: IO[bytes], part: Path) -> None:
    with suppress(OSError):  # some network file systems have no locks
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DownloadError(f"{part}: another process is downloading it; wait until it ends") from None


def _download_from_any(url: str, file: IO[bytes], record: Path) -> bool:
    """Download by https, or by http from a host that does not answer to https."""
    try:
        return download(url, file, record)
    except urllib.error.URLError as error:
        refused = isinstance(error.reason, ConnectionError | TimeoutError | ssl.SSLError)
        untrusted = isinstance(error.reason, ssl.SSLCertVerificationError)
        if not url.startswith(f"{HOST}/") or not url.startswith("https:") or untrusted or not refused:
            raise
        report(f"{url}: {error.reason}; trying http, which is not encrypted")
        return download(url.replace("https:", "http:", 1), file, record)


def _unpack(archive: Path, target: Path, name: str, record: str) -> None:
    """Unpack the folder `name` of an archive as `target`, which appears when it is complete."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        try:
            refused = unpack(archive, Path(folder), name)
        except ArchiveError as error:
            raise DamagedError(f"{archive.name.removesuffix('.part')}: {error}; it was removed") from error
        if refused:
            more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
            report(f"{name}: unsafe members were refused: {', '.join(refused[:3])}{more}")
        write_text(record_path(Path(folder) / name), record)
        (Path(folder) / name).replace(target)


def report(message: str) -> None:
    """Write a message, which may contain names and texts from the network, as one line to stderr."""
    sys.stderr.write(printable(message) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Run the command; return 0, or 1 after an error message of one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("name")
    parser.add_argument("--root", type=Path, default=ROOT, help="the project's folder")
    parser.add_argument("--sha256", default="", help="the SHA-256 that the downloaded file must have")
    options = parser.parse_args(argv)
    kind, name = KINDS[options.kind], options.name
    if name == "cityscapes":
        report(CITYSCAPES)
        return 1
    if name not in kind.names:
        report(f"{name}: there is no such {options.kind}. Choices: {', '.join(kind.names)}")
        return 1
    if not re.fullmatch(r"([0-9a-fA-F]{64})?", options.sha256):
        report(f"--sha256 {options.sha256}: expected 64 hexadecimal digits")
        return 1
    try:
        print(fetch(kind, name, options.root, options.sha256))
    except DownloadError as error:
        report(str(error))
        return 1
    except KeyboardInterrupt:
        report("interrupted; the same command continues the download")
        return 130
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        url, target = address(kind, name), destination(kind, name, options.root)
        how = "copy it" if target.suffix == ".pth" else "unpack it"
        report(f"{url} cannot be downloaded ({reason}); if you have the file, {how} to {target}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
