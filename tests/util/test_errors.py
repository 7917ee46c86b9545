"""Errors end a command with one line that says what to do, and an exit status."""

import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import test as test_command
import train
from data import DATASETS
from models import MODELS
from options.parse import parse
from options.test_options import TestOptions
from options.train_options import TrainOptions
from tests.support.environment import ONE_THREAD, ROOT
from util.errors import UserError, run_command

LIMITED = """
import resource, sys
import train
from util.errors import run_command
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv.pop(1)),) * 2)
sys.exit(run_command(train.main, train.TO_SAVE_MEMORY))
"""
"""train.py with a limit on memory, in bytes beyond what its modules take."""


@pytest.mark.parametrize(
    ("error", "requested"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has"), "20.00 GiB"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes."),
            "64 bytes",
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), None),
        (RuntimeError("CUDA error: out of memory"), None),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), None),
        (MemoryError(), None),
    ],
)
def test_out_of_memory_is_explained(
    error: Exception, requested: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(_: list[str]) -> int:
        raise error

    assert run_command(main, "Try --accumulate N") == 2
    more = f" (tried to allocate {requested})" if requested else ""
    assert capsys.readouterr().err.endswith(f": error: out of memory{more}. Try --accumulate N\n")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.EROFS, "Read-only file system", "a"), "a: Read-only file system; choose a folder"),
        (
            PermissionError(errno.EACCES, "Permission denied", "a\nb\udce9"),
            r"a\nb\udce9: Permission denied; ",
        ),
        (OSError(errno.ENAMETOOLONG, "File name too long", b"\xe9"), r"\udce9: File name too long; "),
        (OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b"), "a -> b: Invalid cross-device"),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded", "a"),
            "a: Disk quota exceeded. Earlier files are intact",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "a file: No space left on device. "),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a"), "a: No such file or directory"),
        (UserError("two\nlines\x1b[2J"), r"two\nlines\x1b[2J"),
    ],
)
def test_errors_of_files_are_one_line(
    error: Exception, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(_: list[str]) -> int:
        raise error

    assert run_command(main) == 2
    shown = capsys.readouterr().err
    assert f": error: {message}" in shown and shown.count("\n") == 1


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), OSError("no file"), OSError(9, "bad", 3)])
def test_other_errors_keep_their_traceback(error: Exception) -> None:
    def main(_: list[str]) -> int:
        raise error

    with pytest.raises(type(error)) as caught:
        run_command(main)
    assert caught.value is error


def test_flags_that_save_memory_exist() -> None:
    for kind, advice, needed in (
        (TrainOptions, train.TO_SAVE_MEMORY, {"accumulate", "checkpointing", "batch_size", "crop_size"}),
        (TestOptions, test_command.TO_SAVE_MEMORY, {"tile", "batch_size", "precision"}),
    ):
        named = set(re.findall(r"--(\w+)", advice))
        assert needed <= named <= parse(kind, ["--dataroot", "."], MODELS, DATASETS).values().keys()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's limit on memory")
def test_out_of_memory_ends_a_run_with_advice_and_keeps_its_checkpoint(pairs: Path, tmp_path: Path) -> None:
    flags = f"--dataroot {pairs} --name run --checkpoints_dir {tmp_path} --model pix2pix --gpu_ids -1"
    flags += " --netG unet_32 --ngf 4 --ndf 4 --num_threads 0 --no_html"
    flags += " --batch_size 6 --n_epochs_decay 0"

    def run(more: str, headroom: int, status: int) -> str:
        argv = [sys.executable, "-c", LIMITED, str(headroom), *flags.split(), *more.split()]
        result = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, env=ONE_THREAD, timeout=120)
        assert result.returncode == status, result.stdout + result.stderr
        return result.stderr

    run("--n_epochs 1 --load_size 36 --crop_size 32", 2**34, 0)
    weights, state = (tmp_path / "run" / f"latest_{name}.pth" for name in ("net_G", "state"))
    before = weights.read_bytes(), torch.load(state, weights_only=True)["progress"]
    error = run("--n_epochs 2 --load_size 1024 --crop_size 1024 --continue_train", 2**28, 2)
    assert ": out of memory" in error and "--accumulate" in error and "--continue_train" in error
    assert error.count("\n") == 1 and "Traceback" not in error
    # It may have been saved again, with the flags that have changed, but nothing was learned since.
    assert (weights.read_bytes(), torch.load(state, weights_only=True)["progress"]) == before
