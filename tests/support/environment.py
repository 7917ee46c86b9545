"""Paths and environment variables of tests."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


GOLDEN = ROOT.parent / "shared" / "golden"
"""Reference numbers from junyanz/pytorch-CycleGAN-and-pix2pix; tests that need them are skipped without."""


ODD = ROOT.parent / "shared" / "data" / "odd"
"""Image files of every kind, good and broken; tests that need them are skipped without."""


ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
"""The networks of tests are tiny: more threads would only wait for each other."""


needs_golden = pytest.mark.skipif(not GOLDEN.exists(), reason="no reference numbers at hand")


needs_odd = pytest.mark.skipif(not ODD.exists(), reason="no odd image files at hand")


Command = Callable[..., subprocess.CompletedProcess[str]]
