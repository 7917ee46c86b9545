"""Memory that is freed stays in the process."""

import subprocess
import sys

import pytest
from conftest import ONE_THREAD, ROOT

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
