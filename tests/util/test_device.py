"""Memory that is freed stays in the process."""

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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it is for glibc")
def test_a_step_like_the_one_before_needs_no_new_pages() -> None:
    # Without it about every second process faults 15,000 pages in again.
    for _ in range(3):
        command = [sys.executable, "-c", PROGRAM]
        found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=ONE_THREAD)
        assert int(found.stdout) < 1000


@pytest.mark.parametrize(
    ("gpu_ids", "explicit", "turn", "processes", "expected"),
    [
        ("1", False, 0, 1, "cuda:1"),  # from a --config
        ("0", False, 2, 3, "cuda:2"),
        ("3,1", True, 1, 2, "cuda:1"),
        ("-1", True, 1, 2, "cpu"),
        ("0", True, 1, 2, "2 processes need as many GPUs"),
    ],
)
def test_each_process_has_a_gpu_of_its_own(
    gpu_ids: str, explicit: bool, turn: int, processes: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: None)
    monkeypatch.setenv("LOCAL_RANK", str(turn))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    if "need" in expected:
        with pytest.raises(UserError, match=expected):
            select_device(gpu_ids, explicit)
    else:
        assert str(select_device(gpu_ids, explicit)) == expected
