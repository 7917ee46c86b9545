"""Rules about the code that a machine can check."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.environment import ROOT

LEVELS = {"util": 0, "options": 1, "data": 2, "models": 2, "training": 3, "train": 4, "test": 4, "scripts": 5}
PEERS_PLACE = "util.get_data"
"""Where the peer has its class for downloads, which is ``scripts/download.py`` here."""
FILES = [
    *(path for folder in LEVELS for path in sorted((ROOT / folder).rglob("*.py"))),
    *(ROOT / f"{command}.py" for command in ("train", "test")),
]


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Return the modules that a file imports, inside of functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # What is imported from a package may be a module of it.
            modules = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else node.module for name in modules}
    return names


MODULES = {module(path) for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    package = "scripts" if module(path) == PEERS_PLACE else module(path).split(".")[0]
    for name in {name.split(".")[0] for name in imports(path)} & LEVELS.keys():
        assert name == package or LEVELS[name] < LEVELS[package], f"{path} imports {name}"


def test_no_imports_go_in_a_circle() -> None:
    graph = {module(path): (imports(path) & MODULES) - {module(path)} for path in FILES}
    assert len(graph) > 100 and graph["train"]  # the files were found
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imports go in a circle: {' <- '.join(error.args[1])}")


def test_translating_needs_nothing_of_training() -> None:
    graph = {module(path): imports(path) & MODULES for path in FILES}
    reached: set[str] = set()
    waiting = ["test"]
    while waiting:
        name = waiting.pop()
        reached.add(name)
        waiting += graph[name] - reached
    assert "models.base_model" in reached
    assert not [name for name in reached if name.split(".")[0] == "training"]
