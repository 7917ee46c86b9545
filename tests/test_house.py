"""The house rules that a machine can check."""

import ast
from pathlib import Path

import pytest
from conftest import ROOT

LEVELS = {"util": 0, "options": 1, "data": 2, "models": 2, "training": 3, "train": 4, "test": 4}
FILES = [
    *(path for package in LEVELS for path in sorted((ROOT / package).glob("*.py"))),
    ROOT / "train.py",
    ROOT / "test.py",
]


def imports(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for name in imports(path) & LEVELS.keys():
        assert name == package or LEVELS[name] < LEVELS[package], f"{path} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_readable(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert len(path.read_text().splitlines()) <= 400
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno and node.end_lineno - node.lineno < 60, f"{path}: {node.name}"
