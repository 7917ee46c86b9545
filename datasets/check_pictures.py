"""The earlier name of ``datasets/doctor.py --list``: print whether each file of folders can be read."""

import runpy
import sys
from pathlib import Path

doctor = runpy.run_path(str(Path(__file__).with_name("doctor.py")))

if __name__ == "__main__":
    sys.exit(doctor["run_command"](lambda argv: doctor["main"](["--list", *argv])))
