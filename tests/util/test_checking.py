"""Data of a wrong structure is refused in one line that names the file and the key."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from util import checking
from util.checking import COUNT, check, parse_json, read_json, read_json_lines
from util.errors import UserError

SHAPE = {"name": str, "size?": COUNT, "mean": {str: float | None}, "rows": [{"images": [str]}]}
VALID = {"name": "x", "mean": {"psnr": 1, "fid": None}, "rows": [{"images": ["a"]}, {"images": []}], "new": 1}


def test_what_has_the_shape_is_returned(tmp_path: Path) -> None:
    for content in (VALID, {**VALID, "size": 0}):
        path = tmp_path / "file.json"
        path.write_text(json.dumps(content))
        assert read_json(path, SHAPE) == content
    path.write_bytes(b"\xef\xbb\xbf[1]")  # as some editors save
    assert read_json(path, [int]) == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 3}, "name: expected a string, found 3"),
        ({"name": True}, "name: expected a string, found true"),
        ({"size": -1}, "size: expected a whole number not below 0, found -1"),
        ({"size": 10**40}, "size: expected a whole number not below 0, found a number of 133 bits"),
        ({"size": True}, "size: expected a whole number not below 0, found true"),
        ({"size": 2.5}, "size: expected a whole number not below 0, found 2.5"),
        ({"mean": []}, "mean: expected an object, found a list"),
        ({"mean": {"psnr": "high"}}, "mean.psnr: expected a number or null, found 'high'"),
        ({"mean": {"a\x1b[2J": "x\n" * 99}}, r"mean.a\x1b[2J: expected a number or null, found 'x\nx"),
        ({"rows": {"images": []}}, "rows: expected a list, found an object"),
        ({"rows": [{"images": ["a"]}, {}]}, "rows[1].images is missing"),
        ({"rows": [{"images": ["a", None]}]}, "rows[0].images[1]: expected a string, found null"),
    ],
)
def test_another_shape_is_named_with_its_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_json(json.dumps({**VALID, **change}).encode(), SHAPE, "a.json", "run test.py again")
    text = str(error.value)
    assert text.startswith(f"a.json: {message}") and text.endswith("; run test.py again")
    assert text.isprintable() and len(text) < 200


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON (Expecting value"),
        (b"{", "not JSON (Expecting property name"),
        (b'{"a": 1}{', "not JSON (Extra data"),
        (b"[" * 200_000 + b"]" * 200_000, "not JSON (nested too deeply)"),
        (b'"caf\xe9"', "not JSON (byte 4 is not UTF-8)"),
        (b"9" * 9000, "not JSON (Exceeds the limit"),
        (b"null", "expected an object, found null"),
    ],
)
def test_what_is_not_json_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_json(path, SHAPE)
    assert str(error.value).startswith(f"{path}: {reason}") and "\n" not in str(error.value)


def test_files_that_are_huge_or_no_files_are_not_read(tmp_path: Path) -> None:
    huge = tmp_path / "huge.json"
    huge.touch()
    os.truncate(huge, 1 << 40)
    with pytest.raises(UserError, match="larger than 64 MiB"):
        read_json(huge, SHAPE)
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match=r"cannot be read \(not a regular file\)"):
        read_json(pipe, SHAPE)
    with pytest.raises(UserError, match=r"cannot be read \(No such file"):
        read_json(tmp_path / "nothing.json", SHAPE)
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path, SHAPE)


def test_lines_are_read_up_to_one_that_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "losses.jsonl"
    assert list(read_json_lines(path, {"epoch": int})) == []
    path.write_text('{"epoch": 1}\n{"epoch": 2}\n{"epo')
    assert list(read_json_lines(path, {"epoch": int})) == [{"epoch": 1}, {"epoch": 2}]
    path.write_text('{"epoch": 1}\n{"epoch": "2"}\n')
    with pytest.raises(UserError, match=r"losses.jsonl: line 2: epoch: expected a whole number, found '2'$"):
        list(read_json_lines(path, {"epoch": int}))
    monkeypatch.setattr(checking, "JSON_LIMIT", 100)
    path.write_text('{"epoch": 1}\n' + " " * 100)
    with pytest.raises(UserError, match="line 2: longer than 100 bytes"):
        list(read_json_lines(path, {"epoch": int}))


def test_states_have_tensors_and_are_checked_only_as_deep_as_their_shape() -> None:
    shape = {"nets": {str: {str: Tensor}}, "pool?": object}
    deep: list[Any] = []
    deep.append(deep)
    state = {"nets": {"G": {"weight": torch.ones(2)}}, "pool": deep}
    assert check(state, shape, "a.pth") is state
    for wrong, message in (
        ({"G": {"weight": [1.0]}}, "nets.G.weight: expected a Tensor, found a list"),
        ({1: {}}, "a key of nets: expected a string, found 1"),
        ({"G": {"weight": 1 << 99}}, "nets.G.weight: expected a Tensor, found a number of 100 bits"),
    ):
        with pytest.raises(UserError, match=f"^a.pth: {message}$"):
            check({"nets": wrong}, shape, "a.pth")
