"""Streams: every sample once per epoch, in an order that a resumed run continues."""

import io
import json
import sys
import tarfile
import threading
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data import DATASETS, Loader, create_loader, stream_order
from data.shards import is_url, open_folder
from data.stream_order import advance, deal, mix
from data.url import check_version, read_shard
from models import MODELS
from options.parse import parse
from options.train_options import TrainOptions
from tests.support.environment import Command
from tests.support.shards import dataset, pack
from util import distributed
from util.batch import Batch
from util.errors import UserError
from util.seeding import numpy_rng
from util.shards import Member

pytest.importorskip("webdataset")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for every data set that streams, with 23 samples; unaligned has 23 images in A, 9 in B."""
    root = tmp_path_factory.mktemp("folders")
    for name, count, width in (("pairs/train", 23, 40), ("both/trainA", 23, 20), ("both/trainB", 9, 20)):
        (root / name).mkdir(parents=True)
        for i in range(count):
            colour = (10 * i, 255 - 10 * i, width)
            Image.new("RGB", (width, 20), colour).save(root / name / f"{i:02d}.png")
    roots = {"aligned": root / "pairs", "colorization": root / "pairs", "unaligned": root / "both"}
    return roots | {"single": root / "pairs" / "train"}


@pytest.fixture(scope="module")
def shards(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same folders, packed into shards of 4 samples."""
    root = tmp_path_factory.mktemp("shards")
    return {mode: pack(folder, root / mode, mode, "--per_shard", "4") for mode, folder in folders.items()}


@pytest.fixture(scope="module")
def server(shards: dict[str, Path]) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    folder = shards["aligned"].parent
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def by_pipe(shards: Path) -> str:
    names = ",".join(path.name for path in sorted(shards.glob("*.tar")))
    return f"pipe:cat {shards}/{{{names}}}"


def loader(
    dataroot: str, mode: str, *flags: str, rank: int = 0, world_size: int = 1, workers: int = 0
) -> Loader:
    argv = ["--dataset_mode", mode, "--dataroot", dataroot, "--model", "pix2pix", "--gpu_ids", "-1"]
    argv += ["--load_size", "12", "--crop_size", "8", "--num_threads", str(workers), "--batch_size", "4"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "rank", lambda: rank)
        patch.setattr(distributed, "world_size", lambda: world_size)
        options = parse(TrainOptions, [*argv, *flags], MODELS, DATASETS)
        return create_loader(options, torch.device("cpu"))


def content(batches: list[Batch]) -> list[tuple[Any, ...]]:
    """The samples one by one."""
    samples = []
    for batch in batches:
        for i in range(len(batch)):
            B = None if batch.B is None else batch.B[i].tolist()
            samples.append((int(batch.index[i]), batch.A[i].tolist(), B, batch.paths_A[i], batch.paths_B[i]))
    return samples


def indices(batches: list[Batch]) -> list[int]:
    return list(chain(*(batch.index.tolist() for batch in batches)))


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("sizes", [[4, 4, 4, 4], [5, 1, 7, 2, 2, 3], [1], [9]])
def test_shards_are_dealt_without_overlap(world_size: int, sizes: list[int]) -> None:
    positions = iter(range(sum(sizes)))
    shards = [[next(positions) for _ in range(size)] for size in sizes]
    ranks = [deal(shards, rank, world_size, numpy_rng("deal", 0)) for rank in range(world_size)]
    held = [sorted(chain(*chain(*lanes))) for lanes in ranks]
    assert sorted(chain(*held)) == list(range(sum(sizes)))
    assert max(map(len, held)) - min(map(len, held)) <= 1
    for lanes in ranks:
        owners = [
            {next(i for i, shard in enumerate(shards) if part[0] in shard) for part in lane} for lane in lanes
        ]
        assert sum(map(len, owners)) == len(set().union(*owners))  # no two lanes of a rank read one shard
    assert deal(shards, 0, 1, None) == [shards]


def test_native_files_are_read_from_a_stream_and_those_with_several_images_named(tmp_path: Path) -> None:
    nibabel, flags = pytest.importorskip("nibabel"), ["--input_range", "full", "--input_nc", "1"]
    for slices in (1, 3):
        folder = tmp_path / f"{slices}" / "train"
        folder.mkdir(parents=True)
        volume = np.full((12, 12, slices), 4095, np.int16)
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / "volume.nii.gz")
        (shard,) = pack(folder, tmp_path / f"shards{slices}", "single").glob("*.tar")
        root = f"pipe:cat {shard}"
        loaded = loader(root, "single", *flags, "--output_nc", "1", "--preprocess", "none")
        if slices == 1:
            (batch,) = loaded.epoch(0)
            assert (batch.A == 4095).all() and batch.A.shape == (1, 1, 12, 12)
        else:
            with pytest.raises(UserError, match=r"volume\.nii\.gz.* holds 3 images; a stream has one image"):
                list(loaded.epoch(0))


def test_a_buffer_mixes_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_order, "BUFFER", 8)
    order = mix(50, numpy_rng("mix", 1))
    assert sorted(order) == list(range(50)) != order
    assert order == mix(50, numpy_rng("mix", 1)) != mix(50, numpy_rng("mix", 2))
    assert all(
        number < place + 8 for place, number in enumerate(order)
    )  # what has not come is not handed out
    assert mix(5, None) == [0, 1, 2, 3, 4]


def test_lanes_take_turns() -> None:
    lengths = [3, 1, 0, 2]
    turns = [lane for turn in range(3) for lane, length in enumerate(lengths) if length > turn]
    for count in range(len(turns) + 1):
        assert advance(lengths, count) == [turns[:count].count(lane) for lane in range(4)]


@pytest.mark.parametrize("mode", ["aligned", "unaligned", "single", "colorization"])
@pytest.mark.parametrize("source", ["http", "pipe"])
def test_two_ranks_of_two_workers_see_every_sample_once(
    mode: str, source: str, shards: dict[str, Path], server: str
) -> None:
    dataroot = f"{server}/{mode}" if source == "http" else by_pipe(shards[mode])
    seen = []
    for rank in range(2):
        parallel = loader(dataroot, mode, rank=rank, world_size=2, workers=2)
        assert len(parallel) == 23
        batches = list(parallel.epoch(1))
        assert [len(batch) for batch in batches] == [2] * 5 + [2 if rank else 1]
        plain = loader(dataroot, mode, rank=rank, world_size=2)
        assert content(batches) == content(list(plain.epoch(1)))
        seen += indices(batches)
        assert indices(list(plain.epoch(2))) != indices(batches)
    assert sorted(seen) == list(range(23))


def test_ranks_make_the_same_number_of_steps(shards: dict[str, Path]) -> None:
    for size, batches in ((9, [[2, 2], [2, 3]]), (10, [[2, 2, 1], [2, 2, 1]]), (8, [[2, 2], [2, 2]])):
        for rank, expected in enumerate(batches):
            flags = ["--max_dataset_size", str(size)]
            streamed = loader(by_pipe(shards["aligned"]), "aligned", *flags, rank=rank, world_size=2)
            assert [len(batch) for batch in streamed.epoch(1)] == expected
            assert [len(batch) for batch in streamed.epoch(1, 4)] == expected[1:]
    with pytest.raises(UserError, match="1 samples are too few for 2 ranks"):
        loader(by_pipe(shards["aligned"]), "aligned", "--max_dataset_size", "1", world_size=2)


@pytest.mark.parametrize("mode", ["aligned", "single", "colorization"])
def test_a_sample_is_the_same_as_from_the_folder(
    mode: str, folders: dict[str, Path], shards: dict[str, Path]
) -> None:
    plain = loader(str(folders[mode]), mode)
    for streamed in (loader(by_pipe(shards[mode]), mode), loader(by_pipe(shards[mode]), mode, workers=3)):
        expected, samples = (sorted(content(list(source.epoch(2)))) for source in (plain, streamed))
        assert [sample[:3] for sample in samples] == [sample[:3] for sample in expected]
        assert [Path(sample[3]).name for sample in samples] == [Path(sample[3]).name for sample in expected]


def test_unpaired_images(shards: dict[str, Path]) -> None:
    """The smaller side is repeated beside the larger one, whichever that is."""
    for flags in ([], ["--direction", "BtoA"]):
        samples = content(list(loader(by_pipe(shards["unaligned"]), "unaligned", *flags).epoch(1)))
        larger, smaller = (4, 3) if flags else (3, 4)
        assert Counter(sample[larger] for sample in samples).most_common(1)[0][1] == 1
        assert 5 < len({sample[smaller] for sample in samples}) <= 9
    serial = loader(by_pipe(shards["unaligned"]), "unaligned", "--serial_batches", "--max_dataset_size", "20")
    names = [(Path(a).stem, Path(b).stem) for *_, a, b in content(list(serial.epoch(1)))]
    assert names == [(f"{i:02d}", f"{i % 9:02d}") for i in range(20)]


@pytest.mark.parametrize("mode", ["aligned", "unaligned"])
@pytest.mark.parametrize("flags", [[], ["--serial_batches"]])
def test_a_stream_continues_in_mid_epoch(
    mode: str, flags: list[str], shards: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_order, "LANES", 2)
    monkeypatch.setattr(stream_order, "BUFFER", 3)
    for rank in range(2):
        streamed = loader(by_pipe(shards[mode]), mode, *flags, rank=rank, world_size=2, workers=rank)
        whole = content(list(streamed.epoch(3)))
        for start in (4, 12, 20):
            assert content(list(streamed.epoch(3, start))) == whole[start // 2 :]
        if flags:
            assert [sample[0] for sample in whole] == list(range(11 * rank, 11 + 12 * rank))


def test_skipped_shards_are_not_opened(shards: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from data import stream

    read, opened = stream.read_shard, []
    monkeypatch.setattr(stream, "read_shard", lambda url, files: (opened.append(url), read(url, files))[1])
    streamed = loader(by_pipe(shards["aligned"]), "aligned", "--serial_batches")
    assert len(list(streamed.epoch(1, 16))) == 2
    assert [url[-10:] for url in opened] == ["000004.tar", "000005.tar"]
    opened.clear()
    assert [batch.index.tolist() for batch in streamed.first(3)] == [[0], [1], [2]]
    assert len(opened) == 1


@pytest.mark.parametrize("bad", [[0, 5, 6], [22], [20, 21, 22]])
def test_the_next_good_sample_replaces_a_bad_one(
    bad: list[int], folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "data" / "train"
    folder.mkdir(parents=True)
    for path in (folders["single"]).iterdir():
        broken = int(path.stem) in bad
        (folder / path.name).write_bytes(b"not an image" if broken else path.read_bytes())
    dataroot = by_pipe(pack(tmp_path / "data", tmp_path / "shards", "aligned", "--per_shard", "4"))
    serial = loader(dataroot, "aligned", "--serial_batches")
    samples = content(list(serial.epoch(1)))
    good = [i for i in range(23) if i not in bad]
    expected = [next((number for number in good if number >= i), good[-1]) for i in range(23)]
    assert [(i, int(Path(name).stem)) for i, *_, name in samples] == list(enumerate(expected))
    assert content(list(serial.epoch(1, 20))) == samples[20:]
    with pytest.raises(UserError, match="cannot be read as an image"):
        list(loader(dataroot, "aligned", "--bad_images", "error").epoch(1))


def test_damaged_streams_are_named(shards: dict[str, Path], tmp_path: Path, server: str) -> None:
    copied = tmp_path / "copied"
    copied.mkdir()
    for path in shards["aligned"].iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    dataroot, first = by_pipe(copied), copied / "train-000000.tar"
    for damage, message in (
        (first.read_bytes()[:3000], "000000.tar"),
        (first.read_bytes()[:1024] + bytes(1024), "differs from the index"),
        (None, "000000.tar: cannot be read"),
    ):
        first.unlink() if damage is None else first.write_bytes(damage)
        for workers in (0, 2):
            with pytest.raises(UserError, match=message) as caught:
                list(loader(dataroot, "aligned", workers=workers).epoch(1))
            assert "\n" not in str(caught.value)
    (copied / "index.json").unlink()
    for absent in (dataroot, f"{server}/absent", "http://127.0.0.1:9/shards"):
        with pytest.raises(UserError, match=r"index\.json: "):
            loader(absent, "aligned")
    for wrong in ("pipe:cat shards", "s3://bucket/{a,b}"):
        with pytest.raises(UserError, match="expected URLs of shards"):
            loader(wrong, "aligned")


def test_a_command_is_taken_from_the_command_line_alone(shards: dict[str, Path], tmp_path: Path) -> None:
    dataroot = by_pipe(shards["aligned"]).replace("pipe:", f"pipe:touch {tmp_path}/ran; ")
    (tmp_path / "train_opt.json").write_text(json.dumps({"dataroot": dataroot, "dataset_mode": "aligned"}))
    flags = ["--config", str(tmp_path / "train_opt.json"), "--model", "pix2pix", "--num_threads", "0"]
    with pytest.raises(UserError, match="taken from the command line alone"):
        create_loader(parse(TrainOptions, flags, MODELS, DATASETS), torch.device("cpu"))
    assert not (tmp_path / "ran").exists()
    assert len(loader(dataroot, "aligned")) == 23 and (tmp_path / "ran").exists()


def test_versions_of_webdataset_that_use_a_shell_are_refused() -> None:
    for installed in ("0.2.111", "0.1", "unknown"):
        with pytest.raises(UserError, match=f"webdataset {installed} passes URLs to a shell"):
            check_version(installed)
    check_version("1.0.2")
    check_version("12.0")


def test_what_the_index_does_not_name_takes_no_memory(
    shards: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def add(name: str, content: bytes) -> Member:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        offset = tar.offset + tarfile.BLOCKSIZE
        tar.addfile(member, io.BytesIO(content))
        return Member.of(f"folder/{name}", f"file:{tmp_path}/x.tar", name, offset, len(content))

    monkeypatch.setattr("data.url.max_image_bytes", lambda: 1 << 23)
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        first = add("000000000.png", b"one")
        add("extra.png", bytes(1 << 26))
        large, last = add("000000001.png", bytes(1 << 26)), add("000000002.png", b"two")
    tracemalloc.start()
    contents = list(read_shard(first.shard, [(first,), (large,), (last,)]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert contents == [(b"one",), (b"",), (b"two",)]  # an image too large to be decoded is bad
    assert peak < 1 << 23


def test_flags_that_a_stream_does_not_support(
    shards: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    aligned = by_pipe(shards["aligned"])
    with pytest.raises(UserError, match="--cache ram"):
        loader(aligned, "aligned", "--cache", "ram")
    with pytest.raises(UserError, match="--batch_size 4: 3 ranks"):
        loader(aligned, "aligned", world_size=3)
    with pytest.raises(UserError, match="cannot be read from a stream"):
        loader(by_pipe(shards["unaligned"]), "style")
    monkeypatch.setitem(sys.modules, "webdataset.gopen", None)
    with pytest.raises(UserError, match="pip install webdataset"):
        loader(aligned, "aligned")
    assert len(dataset(shards["aligned"], "aligned")) == 23  # on a disk it is not needed


def test_training_and_testing_from_a_stream(
    command: Command, shards: dict[str, Path], server: str, tmp_path: Path
) -> None:
    common = ["--name", "run", "--model", "pix2pix", "--gpu_ids", "-1", "--netG", "unet_32", "--ngf", 4]
    train = ["--load_size", 36, "--crop_size", 32, "--n_epochs", 1, "--n_epochs_decay", 0, "--ndf", 4]
    dataroot = f"{server}/aligned/train-{{000000..000005}}.tar"
    output = command("train.py", "--dataroot", dataroot, *common, *train, "--num_threads", 2).stdout
    assert "23 training images" in output
    test = ["--load_size", 32, "--crop_size", 32, "--phase", "train", "--num_test", 5]
    command("test.py", "--dataroot", by_pipe(shards["aligned"]), *common[:5], "-1", *test)
    images = tmp_path / "results" / "run" / "train_latest" / "images"
    assert sorted(path.name for path in images.glob("*_real_A.png")) == [
        f"{i:02d}_real_A.png" for i in range(5)
    ]


def test_a_colon_alone_does_not_make_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("nas:/images", "host:folder", "./a:b", "C:/images"):
        assert not is_url(path)
        assert open_folder(path) == Path(path)
    for url in ("http://host/shards", "s3://bucket/a.tar", "pipe:cat a.tar", "file:/a.tar"):
        assert is_url(url)
