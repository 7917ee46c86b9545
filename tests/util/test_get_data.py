"""The peer's class for downloads."""

import tarfile
from pathlib import Path

import pytest

from scripts import download
from util.errors import UserError
from util.get_data import GetData


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive on a folder that stands in for the download server."""
    monkeypatch.setattr(download, "HOST", (tmp_path / "server").as_uri())
    archive = tmp_path / "server" / "pix2pix" / "datasets" / "maps.tar.gz"
    archive.parent.mkdir(parents=True)
    (tmp_path / "1.txt").write_text("one")
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "1.txt", "maps/train/1.txt")
    return archive


@pytest.mark.parametrize("name", ["maps", "maps.tar.gz", None])
def test_a_data_set_is_unpacked_once(
    archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.input", lambda prompt: "3")  # maps
    folder = GetData(technique="Pix2Pix", verbose=False).get("data", name)
    assert folder == str(tmp_path / "data" / "maps")
    assert (tmp_path / "data" / "maps" / "train" / "1.txt").read_text() == "one"
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["maps"]

    archive.unlink()
    assert GetData("pix2pix").get(save_path=tmp_path / "data", dataset="maps") == folder
    assert "exists already" in caplog.text


def test_unknown_names_are_refused_with_the_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="choices: cyclegan, pix2pix"):
        GetData("stylegan")
    with pytest.raises(UserError, match="Choices: edges2handbags"):
        GetData("pix2pix").get("data", "horse2zebra.zip")
    with pytest.raises(UserError, match="cityscapes-dataset"):
        GetData().get("data", "cityscapes.zip")
    monkeypatch.setattr("builtins.input", lambda prompt: "99")
    with pytest.raises(UserError, match="99: expected a number"):
        GetData().get("data")
