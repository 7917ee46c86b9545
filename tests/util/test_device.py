"""Choice of the GPU, and memory that stays in the process."""

import subprocess
import sys

import pytest
import torch

from tests.support.environment import ONE_THREAD, ROOT
from util.device import select_device
from util.errors import UserError

PROGRAM = """
import resource, torch
from util.device import keep_freed_memory
keep_freed_memory()
def step():
    return [torch.ones(4_000_000) for _ in range(6)]
for _ in range(4):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
def test_a_repeated_step_has_no_page_faults() -> None:
    # Otherwise about every second process has 15,000 page faults.
    for _ in range(3):
        command = [sys.executable, "-c", PROGRAM]
        found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=ONE_THREAD)
        assert int(found.stdout) < 1000


@pytest.mark.parametrize(
    ("gpu_ids", "explicit", "local_rank", "processes", "expected"),
    [
        ("1", False, 0, 1, "cuda:1"),  # from a --config
        ("0", False, 2, 3, "cuda:2"),
        ("3,1", True, 1, 2, "cuda:1"),
        ("-1", True, 1, 2, "cpu"),
        ("0", True, 1, 2, "2 processes need as many GPUs"),
    ],
)
def test_each_rank_has_its_own_gpu(
    gpu_ids: str,
    explicit: bool,
    local_rank: int,
    processes: int,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: None)
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    if "need" in expected:
        with pytest.raises(UserError, match=expected):
            select_device(gpu_ids, explicit)
    else:
        assert str(select_device(gpu_ids, explicit)) == expected
