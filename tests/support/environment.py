"""Paths, environment and flags that tests share."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


GOLDEN = ROOT.parent / "shared" / "golden"
"""Numbers that junyanz/pytorch-CycleGAN-and-pix2pix computes; tests that compare with them skip without."""


ODD = ROOT.parent / "shared" / "data" / "odd"
"""Image files of every kind, good and broken; tests that use them skip without."""


ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
"""The tests' nets are tiny: more threads would only wait for each other."""


needs_golden = pytest.mark.skipif(not GOLDEN.exists(), reason="no reference numbers at hand")


needs_odd = pytest.mark.skipif(not ODD.exists(), reason="no odd image files at hand")


Command = Callable[..., subprocess.CompletedProcess[str]]
