"""Worker processes that fail or pause, and servers that hang: an error or a signal ends the wait."""

import errno
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from torch.utils.data import dataloader

from data import Loader, url
from data.image_folder import find_images
from data.single_dataset import SingleDataset
from data.transforms import Transform
from tests.support.environment import ONE_THREAD, ROOT
from tests.support.images import image
from util.errors import UserError
from util.stopping import SIGNALS, Stopped, StopSignals, interruptible


@pytest.fixture(autouse=True)
def _workers_of_this_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """End the workers of earlier tests; look for dead ones every 0.2 s, not every 5 s."""
    for child in multiprocessing.active_children():
        child.kill()
        child.join()
    wait = dataloader._MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(wait, "__defaults__", (0.2,))


def reading(folder: Path, num_threads: int, count: int = 16, size: int = 8) -> Loader:
    paths = [image(folder / f"{number}.png", size, size, seed=number) for number in range(count)]
    dataset = SingleDataset(paths, Transform("none", 0, 0, flip=False), grey=False, seed=0)
    return Loader(dataset, 1, shuffle=False, seed=0, num_threads=num_threads)


def after(seconds: float, action: Callable[..., object], *arguments: object) -> None:
    threading.Timer(seconds, action, arguments).start()


def signal_workers(number: int) -> list[int]:
    pids = [child.pid for child in multiprocessing.active_children() if child.pid]
    for pid in pids:
        os.kill(pid, number)
    return pids


def are_gone(pids: list[int]) -> bool:
    def lives(pid: int) -> bool:
        with suppress(FileNotFoundError):
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        return False

    deadline = time.monotonic() + 5
    while any(map(lives, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(lives, pids))


@pytest.mark.parametrize("num_threads", [1, 2])
def test_batches_too_large_for_shared_memory_are_an_error(tmp_path: Path, num_threads: int) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    batches = reading(tmp_path, num_threads, count=4, size=200).epoch(0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # workers inherit it
    try:
        with pytest.raises(UserError, match=r"cannot hand over a batch \(.*--shm-size.*--num_threads 0"):
            next(batches)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not multiprocessing.active_children()


def test_a_temporary_folder_that_is_gone_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))  # for the socket that passes batches
    monkeypatch.setattr(
        multiprocessing.process.current_process(), "_config", {"authkey": b"", "semprefix": "/mp"}
    )
    with pytest.raises(UserError, match=r"cannot hand over a batch \(.*gone"):
        next(reading(tmp_path, 1).epoch(0))


def test_workers_that_cannot_be_started_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fork)
    with pytest.raises(UserError, match=r"--num_threads 2: worker processes cannot be started .*unavailable"):
        next(reading(tmp_path, 2).epoch(0))


def test_an_error_of_the_system_in_a_worker_is_one_line(tmp_path: Path) -> None:
    loader = reading(tmp_path, 1)

    def read(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files", "weights.pth")

    loader.dataset.read = read  # type: ignore[method-assign, assignment]
    with pytest.raises(UserError, match=r"^weights\.pth: Too many open files; raise the limit"):
        next(loader.epoch(0))


@pytest.mark.parametrize("num_threads", [1, 3])
def test_a_worker_killed_later_is_an_error_of_the_wait_alone(tmp_path: Path, num_threads: int) -> None:
    batches = reading(tmp_path, num_threads).epoch(0)
    next(batches)
    os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
    time.sleep(0.2)  # a step or a save is not interrupted by it
    with pytest.raises(UserError, match=r"A worker process that reads images died \(SIGKILL\)"):
        list(batches)
    assert not multiprocessing.active_children()


def test_a_paused_worker_is_waited_for_and_a_stop_signal_ends_the_wait(tmp_path: Path) -> None:
    loader = reading(tmp_path, 2)
    batches = loader.epoch(0)
    next(batches)
    paused = signal_workers(signal.SIGSTOP)
    after(0.5, signal_workers, signal.SIGCONT)
    assert len(list(batches)) == 15

    signal_workers(signal.SIGSTOP)
    after(0.5, os.kill, os.getpid(), signal.SIGUSR2)
    began = time.monotonic()
    with StopSignals(), pytest.raises(Stopped, match="SIGUSR2"):
        list(loader.epoch(1))
    assert time.monotonic() - began < 3 and are_gone(paused)


def test_a_rank_waits_a_while_after_a_signal(tmp_path: Path) -> None:
    """All ranks can save together only if none of them leaves."""
    began = time.monotonic()
    with StopSignals() as stop:
        with interruptible(patience=0.5):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped), interruptible(patience=0.5):
            time.sleep(5)
    assert stop.received == "SIGTERM" and 0.4 < time.monotonic() - began < 3


def test_workers_ignore_signals_from_their_first_moment(tmp_path: Path) -> None:
    """Terminals and schedulers signal all processes, at any time."""
    loader, read = reading(tmp_path, 2), SingleDataset.read
    batches = loader.epoch(0)

    def signals_itself(*arguments: object) -> object:
        for number in SIGNALS:
            os.kill(os.getpid(), number)
        return read(loader.dataset, *arguments)

    loader.dataset.read = signals_itself  # type: ignore[method-assign, assignment]
    assert len(list(batches)) == 16


MAIN = """
import sys, time
from pathlib import Path
from tests.data.test_workers import multiprocessing, reading
batches = reading(Path(sys.argv[1]), 2).epoch(0)
next(batches)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
time.sleep(60)
"""


def test_workers_end_when_the_main_process_is_killed(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", MAIN, str(tmp_path)]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=ONE_THREAD) as main:
        assert main.stdout
        pids = [int(pid) for pid in main.stdout.readline().split()]
        main.kill()
    assert len(pids) == 2 and are_gone(pids)


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A server that begins to answer, and then sends nothing more."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        connections: list[socket.socket] = []

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connections.append(server.accept()[0])
                    if len(connections) > 1:
                        connections[-1].sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\nbegins")

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/shard-000000.tar"
        server.shutdown(socket.SHUT_RDWR)
        for connection in connections:
            connection.close()


def test_a_server_that_hangs_is_named(silent_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("webdataset")
    monkeypatch.setattr(url, "SILENCE_SECONDS", 0.5)
    for _ in ("never answers", "stops in the middle"):
        with pytest.raises(UserError, match=rf"{silent_server}: .*nothing came for 0\.5 s"):
            url.read_url(silent_server)
    with pytest.raises(UserError, match="its command does not end"):
        url.read_url("pipe:exec 1>&-; sleep 20")
    monkeypatch.setattr(url, "SILENCE_SECONDS", 60)
    after(0.5, os.kill, os.getpid(), signal.SIGTERM)
    with StopSignals(at_once=True), pytest.raises(Stopped):
        url.read_url(silent_server)
    assert not url._processes


@pytest.mark.skipif(sys.platform == "win32", reason="there are no FIFOs")
def test_only_regular_files_are_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = image(tmp_path / "1.png", 4, 4)
    os.mkfifo(tmp_path / "2.png")
    (tmp_path / "3.png").symlink_to("/dev/zero")
    (tmp_path / "4.png").symlink_to("2.png")
    (tmp_path / "5.png").symlink_to("missing.png")  # an error when it is read
    os.mkfifo(tmp_path / "fifo")
    assert find_images(tmp_path) == [good, str(tmp_path / "5.png")]
    assert [message.split(": ")[1] for message in caplog.messages] == ["not a regular file; left out"] * 3


SMALL_SHM = 'mount -t tmpfs -o size=100k tmpfs /dev/shm && exec "$@"'


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting needs root")
def test_a_full_dev_shm_ends_training_with_one_line(tmp_path: Path) -> None:
    for number in range(4):
        image(tmp_path / "train" / f"{number}.png", 512, 256, seed=number)
    flags = "--model pix2pix --gpu_ids -1 --netG unet_32 --ngf 4 --ndf 4 --batch_size 4 --num_threads 2"
    train = [sys.executable, str(ROOT / "train.py"), *flags.split(), "--dataroot", str(tmp_path)]
    result = subprocess.run(
        ["unshare", "-m", "bash", "-c", SMALL_SHM, "-", *train, "--checkpoints_dir", str(tmp_path / "runs")],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "--shm-size" in result.stderr
