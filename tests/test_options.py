"""An option is added in one place and is there at every door."""

from __future__ import annotations

import asyncio
import json
import runpy
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from rayscale.cli import run
from rayscale.errors import ConfigError
from rayscale.fields import choices_of
from rayscale.options import Options
from rayscale.serving.api import create_app
from rayscale.serving.errors import BadParameterError
from rayscale.serving.options import parse_options
from rayscale.serving.settings import ServeSettings

THROWN_AWAY = """
import dataclasses, json, sys
sys.path.insert(0, ".")
import rayscale.options
from rayscale.fields import choice

@dataclasses.dataclass(frozen=True)
class Wider(rayscale.options.Options):
    sparkle: int = choice(0, "Grains of glitter per pixel.", int, minimum=0)

rayscale.options.Options, rayscale.options.DEFAULTS = Wider, Wider()

from typer.testing import CliRunner
from rayscale.cli.app import app
import rayscale
from rayscale.batch.job import open_method
from rayscale.serving.api import create_app
from rayscale.serving.settings import ServeSettings

found = {}
for command in ("upscale", "batch", "evaluate", "info"):
    help_ = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
    found[command] = "--sparkle" in help_ and "Grains of glitter" in help_
document = create_app(None, ServeSettings()).openapi()
(query,) = [p for p in document["paths"]["/v1/upscale"]["post"]["parameters"] if p["name"] == "sparkle"]
found["http"] = query["description"]
network, method = open_method("bicubic", Wider(sparkle=3))
found["method"] = method.parameters["sparkle"], method.id != open_method("bicubic", Wider())[1].id
found["provenance"] = method.pipeline(network, "cpu").provenance.parameters["sparkle"]
found["python"] = rayscale.open_model("bicubic", sparkle=2).options.sparkle
import runpy
sys.argv[0] = "docs/pages.py"
pages = dict(runpy.run_path("docs/pages.py")["render_all"]())
found["docs"] = all("sparkle" in pages[f"reference/{name}.md"] for name in ("cli", "http"))
print(json.dumps(found))
"""


@pytest.mark.slow
def test_an_option_that_is_added_in_one_place_is_at_every_door(checkout: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-c", THROWN_AWAY],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout) == {
        "upscale": True,
        "batch": True,
        "evaluate": True,
        "info": True,
        "http": "Grains of glitter per pixel.",
        "method": [3, True],
        "provenance": 3,
        "python": 2,
        "docs": True,
    }


def test_every_field_is_described() -> None:
    assert [each.name for each in choices_of(Options)] == [field.name for field in fields(Options)]
    assert all(each.help.endswith(".") for each in choices_of(Options))


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options(scale=2.5, ensemble=True, tile=64, format="png"),
        Options(levels=(-0.1, 1e-12), labels="nearest", metadata="strip", precision="float32"),
        Options(uncertainty=True, consistency=True),
    ],
)
def test_text_forms_give_the_same_value(options: Options) -> None:
    assert Options.parse(**options.to_texts()) == options
    as_text = {name: str(value) for name, value in options.to_texts().items()}
    assert Options.parse(**as_text) == options


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        ({"scale": "0.5"}, "scale must be at least 1.01, not 0.5"),
        ({"scale": "two"}, "scale must be a number, not 'two'"),
        ({"scale": "1.23456"}, "too many digits"),
        ({"tile": "3"}, "tile must be at least 16, not 3"),
        ({"ensemble": "maybe"}, "ensemble must be true or false, not 'maybe'"),
        ({"precision": "half"}, "precision must be one of auto, float32, bfloat16, not 'half'"),
        ({"levels": "5"}, "BLACK..WHITE"),
        ({"levels": "9..1"}, "black below white"),
    ],
)
def test_what_cannot_be_is_named(texts: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Options.parse(**texts)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("tile", "15", "tile must be at least 16, not 15"),
        ("tile", "-" + "9" * 400, f"tile must be at least 16, not -{'9' * 79}..."),
        ("tile", "64.5", "tile must be a whole number, not '64.5'"),
        ("scale", "1", "scale must be at least 1.01, not 1.0"),
        ("scale", "1.0000000001", "scale must be at least 1.01, not 1.0000000001"),
        ("scale", "-2", "scale must be at least 1.01, not -2.0"),
        ("scale", "nan", "scale must be at least 1.01, not nan"),
        ("scale", "abc", "scale must be a number, not 'abc'"),
        ("precision", "half", "precision must be one of auto, float32, bfloat16, not 'half'"),
        ("levels", "x" * 200, f"levels '{'x' * 79}... must be BLACK..WHITE, such as 0..10000"),
    ],
)
def test_every_door_refuses_in_the_same_words(
    capsys: pytest.CaptureFixture[str], name: str, text: str, told: str
) -> None:
    with pytest.raises(ConfigError) as error:
        Options.parse(**{name: text})
    assert str(error.value) == told
    for command in (("upscale", "a.png", "b.png"), ("batch", "in", "out", "--model=bicubic")):
        assert run(*command, f"--{name}={text}") == 2
        assert capsys.readouterr().err == f"error: {told}\n"
    for path in ("upscale", "estimate"):
        answer = asyncio.run(_post(f"/v1/{path}", {name: text}))
        assert answer.status_code == 422
        refusal = answer.json()["error"]
        assert (refusal["code"], refusal["message"]) == ("bad_parameter", told)
    with pytest.raises(BadParameterError) as refused:
        parse_options({name: text})  # of a batch, and of the Open Inference Protocol
    assert str(refused.value) == told


async def _post(path: str, query: dict[str, str]) -> httpx.Response:
    transport = httpx.ASGITransport(create_app(None, ServeSettings()))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        return await client.post(path, params=query, content=b"x")


def test_help_and_openapi_show_the_ranges(checkout: Path) -> None:
    pages = runpy.run_path(str(checkout / "docs/pages.py"))
    table = {
        line.split("`")[1].split(",")[0]: line
        for line in pages["render_commands"]().splitlines()
        if line.startswith("| `--")
    }
    assert "At least 16." in table["--tile"]
    assert "At least 1.01." in table["--scale"]
    document = create_app(None, ServeSettings()).openapi()  # type: ignore[arg-type]
    asked = document["paths"]["/v1/upscale"]["post"]["parameters"]
    schemas = {each["name"]: each["schema"] for each in asked}
    assert (schemas["tile"]["type"], schemas["tile"]["minimum"]) == ("integer", 16)
    assert (schemas["scale"]["minimum"], schemas["scale"]["maximum"]) == (1.01, 16)
    assert schemas["labels"]["enum"] == ["refuse", "nearest"]


def test_the_service_has_a_largest_scale() -> None:
    assert parse_options({"scale": 16}) == Options(scale=16)
    with pytest.raises(
        BadParameterError, match=r"scale must be at least 1.01 and at most 16, not 17"
    ):
        parse_options({"scale": 17})
    with pytest.raises(BadParameterError, match="'scal' is not an option"):
        parse_options({"scal": 2})


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("degrade", "a.png", "b.png", "--scale=0"), "scale must be at least 1, not 0"),
        (("demo", "--steps=x"), "steps must be a whole number, not 'x'"),
        (
            ("batch", "submit", "a", "b", "--server=x", "--limit=0"),
            "limit must be at least 1, not 0",
        ),
        (("compare", "-m=bicubic", "--data=x", "--scale=y"), "scale must be a number, not 'y'"),
    ],
)
def test_numbers_of_other_commands_too(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str
) -> None:
    assert run(*words) == 2
    assert capsys.readouterr().err == f"error: {told}\n"


def test_a_door_says_why_it_cannot() -> None:
    Options().refuse("uncertainty", "no place")
    with pytest.raises(ConfigError, match="uncertainty is not possible here: no place"):
        Options(uncertainty=True).refuse("uncertainty", "no place")


def test_uncertainty_is_of_the_ensemble() -> None:
    assert Options(uncertainty=True).ensemble


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"scale": "2"}, "scale must be a number, not '2'"),
        ({"scale": True}, "scale must be a number, not True"),
        ({"scale": [2]}, r"scale must be a number, not \[2\]"),
        ({"ensemble": "false"}, "ensemble must be true or false, not 'false'"),
        ({"tile": 64.5}, "tile must be a whole number, not 64.5"),
        ({"tile": [64]}, r"tile must be a whole number, not \[64\]"),
        ({"levels": 5}, r"levels must be two numbers, such as \(0, 10000\), not 5"),
        ({"levels": (1, 2, 3)}, r"levels must be two numbers.*not \(1, 2, 3\)"),
        ({"precision": None}, "precision must be one of auto, float32, bfloat16, not None"),
    ],
)
def test_values_of_another_type_are_refused(given: dict[str, Any], told: str) -> None:
    """In Python, and in the JSON of a batch over HTTP, where a bare TypeError would be an internal error."""
    with pytest.raises(ConfigError, match=told):
        Options(**given)
    if None not in given.values() and not isinstance(*given.values(), str):
        with pytest.raises(ConfigError, match=told):
            Options.parse(**given)


def test_scalars_of_numpy_are_numbers() -> None:
    options = Options(scale=np.float32(2.5), tile=np.int64(64), ensemble=np.bool_(True))  # type: ignore[arg-type]
    assert options == Options(scale=2.5, tile=64, ensemble=True)
    assert json.loads(json.dumps(options.to_texts())) == options.to_texts()
