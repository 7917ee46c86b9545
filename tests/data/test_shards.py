"""Shards: the same files, names, samples and weights as from the folder."""

import json
import os
import tarfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data import DATASETS
from data.base_dataset import BaseDataset
from tests.support.environment import Command
from tests.support.shards import dataset, pack
from util.errors import UserError
from util.shards import Member, expand_braces

MODES = [mode for mode in DATASETS.names() if DATASETS.get(mode).layout]


def members_of(shard: Path) -> list[tarfile.TarInfo]:
    with tarfile.open(shard) as tar:
        return tar.getmembers()


def assert_equal(plain: BaseDataset, packed: BaseDataset, roots: tuple[object, object]) -> None:
    assert len(plain) == len(packed)
    for key in product((1, 2), range(len(plain))):
        a: Any = plain[key]
        b: Any = packed[key]
        assert torch.equal(a.A, b.A) and (a.B is None or torch.equal(a.B, b.B))
        assert (a.label, len(a.replaced)) == (b.label, len(b.replaced))
        for path, member in ((a.path_A, b.path_A), (a.path_B, b.path_B)):
            assert isinstance(member, Member) and not isinstance(path, Member)
            assert os.path.relpath(path, roots[0]) == os.path.relpath(member, roots[1])


@pytest.mark.parametrize("mode", MODES)
def test_a_data_set_is_the_same_from_shards(mode: str, data: dict[str, Path], tmp_path: Path) -> None:
    shards = pack(data[mode], tmp_path / "shards", mode, "--per_shard", "2")
    assert_equal(dataset(data[mode], mode), dataset(shards, mode), (data[mode], shards))
    limited = ["--max_dataset_size", "3", "--serial_batches"]
    assert_equal(dataset(data[mode], mode, *limited), dataset(shards, mode, *limited), (data[mode], shards))
    for cache in ("ram", "disk"):
        flags = ["--cache", cache, "--cache_limit", "0.01", "--cache_dir", str(tmp_path / "cache")]
        assert_equal(dataset(data[mode], mode), dataset(shards, mode, *flags), (data[mode], shards))


PART_FLAGS = {
    "inputs": ["--inputs", "A1,A2", "--outputs", "B1", "--mask"],
    "pix2pixHD": ["--label_nc", "5", "--mask"],
    "two folders": ["--input_range", "full", "--output_range", "percentile:1", "--mask"],
}
"""Flags of training by layout; those of packing are the same, of those that packing has."""


def write_parts(root: Path, layout: str) -> None:
    rng = np.random.default_rng(0)
    folders = {
        "inputs": ["A1.png", "A2.npy", "B1.png", "M.png"],
        "pix2pixHD": ["_label.png", "_inst.png", "_img.png", "M.png"],
        "two folders": ["A.npy", "B.npy", "M.png"],
    }
    for name in folders[layout]:
        folder, extension = root / f"train{name[:-4]}", name[-4:]
        folder.mkdir(parents=True)
        for number in range(3):
            path = folder / f"{number}{extension}"
            if extension == ".npy":
                np.save(path, rng.integers(0, 4000, (32, 30), dtype=np.uint16))
            else:
                size = (32, 30, 3) if name in ("A1.png", "B1.png", "_img.png") else (32, 30)
                Image.fromarray(rng.integers(0, 5, size, dtype=np.uint8)).save(path)


@pytest.mark.parametrize("layout", PART_FLAGS)
def test_several_images_of_a_sample_are_packed_together(layout: str, tmp_path: Path) -> None:
    root, flags = tmp_path / "plain", PART_FLAGS[layout]
    write_parts(root, layout)
    packing = flags if layout == "inputs" else ["--mask"]
    shards = pack(root, tmp_path / "shards", "aligned", "--per_shard", "2", *packing)
    if layout == "inputs":
        flags = [*flags, "--input_range", "A2:full"]
    nc = [] if layout == "pix2pixHD" else ["--input_nc", "4" if layout == "inputs" else "1"]
    nc += ["--output_nc", "1"] if layout == "two folders" else []
    plain, packed = (dataset(folder, "aligned", *flags, *nc) for folder in (root, shards))
    assert_equal(plain, packed, (root, shards))
    assert all(torch.equal(plain[1, index].mask, packed[1, index].mask) for index in range(3))
    if layout == "inputs":  # a stream tells what its files hold before it is read
        stream = dataset(f"pipe:cat {shards}/{{train-000000.tar,train-000001.tar}}", "aligned", *flags, *nc)
        assert stream.sides == plain.sides
    names = [member.name for member in members_of(shards / "train-000001.tar")]
    letters = {"inputs": "abcd", "pix2pixHD": "abcd", "two folders": "abc"}[layout]
    assert [name.split(".")[:2] for name in names] == [["000000002", letter] for letter in letters]


def test_pairs_of_two_folders_and_bad_images(data: dict[str, Path], tmp_path: Path) -> None:
    for side in "AB":
        (tmp_path / f"train{side}").mkdir()
        for path in (data["unaligned"] / "trainA").iterdir():
            (tmp_path / f"train{side}" / path.name).write_bytes(path.read_bytes())
    names = sorted(path.name for path in (tmp_path / "trainA").iterdir())
    for side, name in (("A", names[1]), ("B", names[2]), ("B", names[-1])):
        (tmp_path / f"train{side}" / name).write_bytes(b"nothing to see")
    shards = pack(tmp_path, tmp_path / "shards", "aligned", "--per_shard", "2")
    assert_equal(dataset(tmp_path, "aligned"), dataset(shards, "aligned"), (tmp_path, shards))
    one: Any = dataset(shards, "aligned")[1, 1]
    assert "000000.tar): cannot be read as an image (unknown format)" in str(one.replaced[0])
    alone = dataset(shards, "aligned", "--bad_images", "error")[1, 1]
    assert "trainA" in str(alone.error)  # type: ignore[union-attr]


ODD_NAMES = [
    *("a.b.jpg", "a.c.jpg", "UPPER.JPG", "ein Bild.png", "zeile\n2.png", "käse.png", "no'quote\".png"),
    *("x{0..3}.png", "sub/a.b.jpg", "sub.dir/1.png", "__meta__.png", "1" * 150 + ".png"),
]


def test_files_of_any_name_are_packed_byte_for_byte(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    names = [*ODD_NAMES, os.fsdecode(b"latin-\xe9.png")]
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30 + number, 20), (10 * number, 0, 0)).save(folder / name)
    shards = pack(folder, tmp_path / "shards", "single", "--per_shard", "5")
    packed: Any = dataset(shards, "single")
    plain: Any = dataset(folder, "single")
    assert sorted(os.path.relpath(path, shards) for path in packed.paths) == sorted(names)
    assert [path.read() for path in packed.paths] == [Path(path).read_bytes() for path in plain.paths]
    assert_equal(plain, packed, (folder, shards))

    members = [member for path in sorted(shards.glob("*.tar")) for member in members_of(path)]
    assert [member.name.split(".")[0] for member in members] == [f"{i:09d}" for i in range(len(names))]
    index = json.loads((shards / "index.json").read_text())
    files = [file for shard in index["shards"] for file in shard["files"]]
    assert [(member.name, member.offset_data, member.size) for member in members] == [
        (file["member"], file["offset"], file["size"]) for file in files
    ]


def test_shards_are_split_by_size(data: dict[str, Path], tmp_path: Path) -> None:
    folder = data["unaligned"] / "trainA"
    sizes = [path.stat().st_size for path in folder.iterdir()]
    limit = 2.5 * max(sizes)
    shards = pack(folder, tmp_path / "shards", "single", "--shard_size", str(limit / 1e6))
    held = [sum(member.size for member in members_of(path)) for path in sorted(shards.glob("*.tar"))]
    assert sum(held) == sum(sizes) and 2 <= len(held) < len(sizes) and max(held) <= limit
    every = pack(folder, tmp_path / "every", "single", "--shard_size", "0.000001")
    assert len(list(every.glob("*.tar"))) == len(sizes)


def test_some_of_the_shards(data: dict[str, Path], tmp_path: Path) -> None:
    folder = data["aligned"]
    shards = pack(folder, tmp_path / "shards", "aligned", "--per_shard", "2", "--phase", "train", "test")
    assert len(dataset(shards, "aligned", "--phase", "test")) == 3
    some: Any = dataset(shards / "train-{000000,000002}.tar", "aligned")
    names = sorted(path.name for path in (folder / "train").iterdir())
    assert [Path(path).name for path, _ in some.pairs] == [*names[:2], *names[4:]]
    with pytest.raises(UserError, match="neither a folder test"):
        dataset(shards / "train-{000000..000002}.tar", "aligned", "--phase", "test")


def test_braces() -> None:
    assert expand_braces("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expand_braces("{9..10}") == ["9", "10"]
    assert expand_braces("t{A,B}-{0..1}") == ["tA-0", "tA-1", "tB-0", "tB-1"]
    for wrong in ("{1..a}", "{3..1}", "{1", "{}", "{{1..2},3}"):
        with pytest.raises(UserError, match="braces hold"):
            expand_braces(wrong)


def test_shards_that_differ_from_their_index_are_refused(data: dict[str, Path], tmp_path: Path) -> None:
    shards = pack(data["aligned"], tmp_path / "shards", "aligned", "--per_shard", "2")
    first, second = shards / "train-000000.tar", shards / "train-000001.tar"
    with pytest.raises(UserError, match=r"bytes, but .* by its index"):
        second.write_bytes(second.read_bytes()[:-512])
        dataset(shards, "aligned")
    second.unlink()
    with pytest.raises(UserError, match=r"train-000001\.tar: there is no such shard"):
        dataset(shards, "aligned")
    assert len(dataset(first, "aligned")) == 2
    with pytest.raises(UserError, match="this shard is not in the index"):
        dataset(first.rename(shards / "other.tar"), "aligned")
    (shards / "index.json").write_text("{}")
    with pytest.raises(UserError, match="not an index of shards"):
        dataset(shards / "other.tar", "aligned")
    (shards / "index.json").unlink()
    with pytest.raises(UserError, match=r"index\.json: there is no such file"):
        dataset(shards / "other.tar", "aligned")


def test_an_index_names_files_beside_it_and_nothing_else(data: dict[str, Path], tmp_path: Path) -> None:
    shards = pack(data["aligned"], tmp_path / "shards", "aligned")
    index = json.loads((shards / "index.json").read_text())
    [shard] = index["shards"]
    names = (
        "../other.tar",
        "/etc/x.tar",
        "sub/x.tar",
        "pipe:touch x.tar",
        "http://host/x.tar",
        "x.zip",
        ".tar",
    )
    for name in (*names, "-x.tar", "a\\b.tar", "a\nb.tar", 7, None):
        (shards / "index.json").write_text(json.dumps({**index, "shards": [{**shard, "name": name}]}))
        with pytest.raises(UserError, match=r"shards\[0\]\.name: expected the name of a \.tar file"):
            dataset(shards, "aligned")
    first, *others = shard["files"]
    wrong = ({"name": "../x.png"}, {"name": "/x.png"}, {"size": 1 << 40}, {"size": -1}, {"offset": -1})
    wrong += ({"name": "a\0.png"}, {"name": "\ud800.png"})  # no names of files
    for change in (*wrong, {"offset": 0.5}, {"size": True}, {"size": "7"}, {"member": None}, {"name": ["x"]}):
        files = [{**first, **change}, *others]
        (shards / "index.json").write_text(json.dumps({**index, "shards": [{**shard, "files": files}]}))
        with pytest.raises(UserError, match="the entry of a file in it is damaged"):
            dataset(shards, "aligned")
    (shards / "index.json").write_text('{"format": "atelier shards 1", "shards":' + "[" * 5000)
    with pytest.raises(UserError, match="not an index of shards"):
        dataset(shards, "aligned")


def test_folders_that_cannot_be_packed_are_refused(data: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        pack(tmp_path / "absent", tmp_path / "out", "single")
    with pytest.raises(UserError, match="neither a folder nowhere"):
        pack(data["aligned"], tmp_path / "out", "aligned", "--phase", "nowhere")
    with pytest.raises(UserError, match="no such folder"):
        pack(data["aligned"], tmp_path / "out", "unaligned")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError, match="not empty"):
        pack(data["aligned"], tmp_path / "full", "aligned")
    for wrong in (["--per_shard", "0"], ["--shard_size", "-1"], ["--per_shard", "1", "--shard_size", "1"]):
        with pytest.raises(UserError, match="--per_shard"):
            pack(data["aligned"], tmp_path / "out", "aligned", *wrong)
    with pytest.raises(UserError, match="--phase: --dataset_mode single packs the whole folder"):
        pack(data["single"], tmp_path / "out", "single", "--phase", "train")
    with pytest.raises(UserError, match="--dataset_mode latent: cannot be packed; choices: aligned, "):
        pack(data["single"], tmp_path / "out", "latent")
    with pytest.raises(UserError, match="did you mean aligned"):
        pack(data["aligned"], tmp_path / "out", "alined")
    assert not (tmp_path / "out").exists()


def test_training_from_shards_gives_the_same_weights(command: Command, pairs: Path, tmp_path: Path) -> None:
    shards = pack(pairs, tmp_path / "shards", "aligned", "--per_shard", "4")
    common = ["--model", "pix2pix", "--gpu_ids", "-1", "--netG", "unet_32", "--ngf", 4, "--ndf", 4]
    common += ["--load_size", 36, "--crop_size", 32, "--n_epochs", 2, "--n_epochs_decay", 0, "--no_html"]
    weights = []
    for name, root, workers in (("folder", pairs, 0), ("shards", shards, 2)):
        command("train.py", "--dataroot", root, "--name", name, "--num_threads", workers, *common)
        weights.append(torch.load(tmp_path / "checkpoints" / name / "latest_net_G.pth"))
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
