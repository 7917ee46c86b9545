"""Output that cannot be shown costs at most one remark, never the run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.environment import ROOT

PROGRAM = r"""
import logging, os, sys
from pathlib import Path
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm
from util.errors import run_command

def main(argv):
    log = logging.getLogger(__name__)
    with logging_redirect_tqdm(), tqdm(total=3000) as bar:
        for number in range(3000):
            log.info("é %d caf\udce9\x1b[0m\ttab\nline %s", number, Path("a\nb\udcff"))
            bar.set_description("é\udce9")
            bar.update()
    print("printed é\udce9")
    with open(argv[0], "w") as file:
        file.write(f"complete in {file.fileno()}")
    return 0

sys.exit(run_command(main))
"""


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
@pytest.mark.parametrize(
    ("redirection", "remarks"),
    [
        (">&-", 0),
        (">&- 2>&- <&-", 0),
        ("2>&- >/dev/null", 0),
        ("| head -1 >/dev/null", 0),
        ("2>&1 | head -1 >/dev/null", 0),
        (">/dev/full", 1),
    ],
)
def test_output_that_is_lost(tmp_path: Path, redirection: str, remarks: int) -> None:
    done = tmp_path / "done"
    ran = subprocess.run(
        ["bash", "-c", f'set -o pipefail; "$0" -c "$1" "$2" {redirection}', sys.executable, PROGRAM, done],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert int(done.read_text().removeprefix("complete in ")) > 2
    assert ran.stderr.count("nothing more is shown") == remarks
    assert "Traceback" not in ran.stderr and "Error" not in ran.stderr


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}, {"PYTHONUTF8": "0"}])
def test_output_in_any_encoding(tmp_path: Path, variables: dict[str, str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "done"],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
    )
    assert ran.returncode == 0 and b"Traceback" not in ran.stderr
    text = ran.stdout.decode("ascii" if "PYTHONIOENCODING" in variables else "utf-8")
    lines = text.splitlines()
    assert r"caf\udce9\x1b[0m" in lines[-3] and "\ttab" in lines[-3]
    assert lines[-2] == r"line a\nb\udcff" and lines[-1].startswith("printed ")
