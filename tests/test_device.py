"""Memory that is freed stays in the process."""

import subprocess
import sys

import pytest
from conftest import ONE_THREAD, ROOT

PROGRAM = """
import resource, sys, torch
from util.device import keep_freed_memory
if sys.argv[1] == "keep":
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
    def faults(mode: str) -> int:
        command = [sys.executable, "-c", PROGRAM, mode]
        found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=ONE_THREAD)
        return int(found.stdout)

    assert faults("keep") < faults("no") / 2
