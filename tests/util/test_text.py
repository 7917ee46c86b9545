"""Names in printable characters: reversible, safe in spreadsheets; text of files in any encoding."""

import csv
import io

import pytest

from util.text import csv_cell, csv_text, decode, escape, printable, unescape

NAMES = [
    *(
        "plain",
        "é 日本 ключ",
        "caf\udce9",
        "a\nb\r\tc",
        "\x1b[31mred\x07",
        "back\\slash",
        r"\n",
        r"\udce9",
        "",
    ),
    *(
        "\u202eevil",
        "\u2028",
        "\x85",
        "=1+1",
        "-cmd",
        "+x",
        "@SUM(1)",
        "\t=1",
        "\r=1",
        "'=x",
        "''",
        "'x",
        "-",
    ),
]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_escaped_reversibly(name: str) -> None:
    shown = escape(name)
    assert unescape(shown) == name
    shown.encode("utf-8")
    assert printable(shown) == shown and "\n" not in shown and "\x1b" not in shown


def test_escapes_are_those_of_python_and_json() -> None:
    assert escape("é\udce9\n\x1b\\") == r"é\udce9\n\x1b\\"
    assert printable("a\\b\nc\udcff") == r"a\b\nc\udcff"


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_no_formulas(name: str) -> None:
    file = io.StringIO()
    csv.writer(file).writerow(["x", csv_cell(name)])
    ((_, cell),) = csv.reader(io.StringIO(file.getvalue()))
    assert csv_text(cell) == name
    assert not cell.startswith(("=", "+", "@", "\t", "\r", "\uff1d")) and cell[:2] not in ("-c", "-@")


def test_numbers_in_cells_stay_numbers() -> None:
    for value in (-1, -0.5, float("-inf"), "-1", "-1e-05", "+2.5", "1"):
        assert csv_cell(value) == value


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gbk", "cp1252", "shift_jis"])
def test_text_of_any_encoding_is_read(encoding: str) -> None:
    name = {"gbk": "数据", "shift_jis": "データ"}.get(encoding, "Faç")
    data = f"dataroot: {name}\r\nnetG: unet_256\r\n".encode(encoding)
    lines = decode(data).split("\n")
    assert lines[1] == "netG: unet_256" and lines[0].startswith("dataroot: ")
    assert (lines[0].removeprefix("dataroot: ") == name) == encoding.startswith("utf")
