"""Packages of other projects with the names of ours: ours are imported, and do not hide the others."""

import ast
import json
import subprocess
import sys
from pathlib import Path

from tests.support.environment import ONE_THREAD, ROOT

OURS = ("data", "models", "options", "scripts", "tests", "test", "train", "training", "util")
FOLDERS = (".", "scripts", "scripts/slurm", "datasets")
PROGRAM = """
import json, runpy, sys
from importlib.machinery import PathFinder
from pathlib import Path
root, ours, commands = json.loads(sys.argv[1])
path = list(sys.path)

class First(Exception):
    pass

class Finder:
    # Stops at the first import of one of our packages, with the place where Python finds it.
    def find_spec(self, name, path=None, target=None):
        if name in ours:
            raise First(PathFinder.find_spec(name).origin)

sys.meta_path.insert(0, Finder())
for folder, name in commands:
    sys.path[:] = [f"{root}/{folder}", *path[1:]]  # as for a script
    try:
        runpy.run_path(f"{root}/{folder}/{name}", run_name="imported")
        first = f"{root}/nothing.py"
    except First as error:
        first = str(error)
    if not first.startswith(root):
        sys.exit(f"{folder}/{name} imports {first}")
sys.path[:] = [root, *path[1:]]
import datasets
assert datasets.FOREIGN
"""


def test_commands_import_our_packages(tmp_path: Path) -> None:
    for name in (*OURS, "datasets"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("FOREIGN = True")
    commands = [
        (folder, path.name)
        for folder in FOLDERS
        for path in sorted((ROOT / folder).glob("*.py"))
        if '__name__ == "__main__"' in path.read_text()
    ]
    assert {(".", "train.py"), ("datasets", "make_shards.py"), ("scripts", "ablate.py")} < set(commands)
    commands += [("", f"tests/support/{name}.py") for name in ("prefork", "rank_worker")]
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps((str(ROOT), OURS, commands))],
        env={**ONE_THREAD, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert ran.returncode == 0, ran.stderr


def test_nothing_imports_the_folder_datasets() -> None:
    folders = (ROOT / name for name in (*OURS, "datasets"))
    for path in (*ROOT.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            assert "datasets" not in [name.split(".")[0] for name in names], path
    assert not (ROOT / "datasets" / "__init__.py").exists()  # it would hide a package of that name
