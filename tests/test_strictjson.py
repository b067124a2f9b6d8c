"""JSON of numbers that are not finite: read by a parser that refuses what RFC 8259 does not know."""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from rayscale import strictjson
from rayscale.batch import Row
from rayscale.cli.app import app
from rayscale.imaging import Provenance


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


NUMBERS = st.sampled_from([math.inf, -math.inf, math.nan, 0.5, 3, None, "NaN", True])
LISTS = st.lists(NUMBERS, max_size=3)
FLAT = st.dictionaries(st.sampled_from("abc"), NUMBERS | LISTS | st.lists(LISTS, max_size=2))


@given(st.dictionaries(st.sampled_from("abc"), FLAT | st.lists(FLAT, max_size=2) | NUMBERS))
def test_whatever_is_written_is_json_and_is_read_back(value: dict[str, object]) -> None:
    text = strictjson.dumps(value)
    json.loads(text, parse_constant=refuse)
    assert repr(strictjson.loads(text)) == repr(value)  # nan is not equal to itself


def test_a_flag_says_what_null_stands_for() -> None:
    value = {"psnr": math.inf, "ssim": 1.0, "nodata": [math.nan, 0], "parts": [{"a": -math.inf}]}
    assert json.loads(strictjson.dumps(value)) == {
        "psnr": None, "psnr_is": "Infinity", "ssim": 1.0,
        "nodata": [None, 0], "nodata_is": ["NaN", None],
        "parts": [{"a": None, "a_is": "-Infinity"}],
    }  # fmt: skip
    assert strictjson.loads('{"what_is": "it", "a": 1, "a_is": "NaN"}') == {"what_is": "it", "a": 1}
    assert strictjson.dumps(math.nan) == "null"
    with pytest.raises(TypeError):
        strictjson.dumps({"a": {1, 2}})


def _writers(tree: ast.AST) -> list[int]:
    """Lines that use Python's writer of JSON, called or handed on, by whatever name it was imported."""
    names = {"dump", "dumps", "JSONEncoder"}
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in {"json", "simplejson", "orjson"} and node.attr in names:
                lines.append(node.lineno)
        elif isinstance(node, ast.ImportFrom) and node.module == "json":
            lines += [node.lineno for name in node.names if name.name in names]
        elif isinstance(node, ast.Import):
            lines += [node.lineno for name in node.names if name.name == "json" and name.asname]
    return lines


def test_nothing_writes_json_by_itself(checkout: Path) -> None:
    assert _writers(ast.parse("import json\njson.dumps(1)\nf(json.dump)")) == [2, 3]
    assert _writers(ast.parse("from json import dumps as d\nimport json as j")) == [1, 2]
    folders = ("platform", "jobs", "tune", "benchmarks", "infra")
    files = [file for folder in folders for file in (checkout / folder).rglob("*.py")]
    assert len(files) > 150
    found = {
        f"{file.relative_to(checkout)}:{line}"
        for file in files
        if file.name != "strictjson.py" and b"json" in file.read_bytes()
        for line in _writers(ast.parse(file.read_text()))
    }
    assert found == set()


def test_the_provenance_and_the_row_of_an_output_are_json() -> None:
    measures = {"residual": {"psnr": math.inf, "rms": 0.0}}
    told = Provenance("m", "d").with_measures(**measures).to_json()
    assert json.loads(told, parse_constant=refuse)["residual"] == {
        "psnr": None, "psnr_is": "Infinity", "rms": 0.0,
    }  # fmt: skip
    row = Row("k", "e", 1, "r", "m", "d", {"levels": [-math.inf, 1.0]})
    json.loads(row.to_json(), parse_constant=refuse)
    assert Row.from_json(row.to_json()) == row
    old = row.to_json().replace("null", "-Infinity", 1)
    assert Row.from_json(old).parameters["levels"] == [-math.inf, 1.0]  # of an older version


def test_info_of_a_file_whose_nodata_is_nan(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="needs the extra geo")
    path = tmp_path / "a.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=40, height=40, count=1, dtype="float32", nodata=math.nan, crs="EPSG:32632"
    ) as file:  # fmt: skip
        pixels = np.random.default_rng(0).random((1, 40, 40)).astype(np.float32)
        pixels[0, :5, :5] = math.nan
        file.write(pixels)
    answer = CliRunner().invoke(app, ["info", str(path), "--json"])
    assert json.loads(answer.stdout, parse_constant=refuse)["container"] == "geotiff"
