"""Cards of models and estimates, against what the library knows and does."""

from __future__ import annotations

from typing import Any

import pytest

from rayscale.imaging import probe
from rayscale.inference.memory import working_bytes
from rayscale.models.builtin import builtin_names, read_card


def ask(app: Any, tools: Any, query: str = "", **body: Any) -> Any:
    return tools.call(app, "POST", f"/v1/estimate?{query}", **body)


def test_every_built_in_model_has_a_card(make_app: Any, tools: Any) -> None:
    app = make_app()
    listed = {m["reference"]: m for m in tools.call(app, "GET", "/v1/models").json()["models"]}
    for name in builtin_names():
        card = tools.call(app, "GET", f"/v1/models/{name}").json()
        assert listed[name].items() <= card.items()
        assert set(card["memory_per_megapixel"]) == {str(scale) for scale in card["scales"]}
        assert all(8e6 < size < 1e9 for size in card["memory_per_megapixel"].values())
    card = tools.call(app, "GET", "/v1/models/edsr-baseline-x2").json()
    known = read_card("edsr-baseline-x2")
    assert (card["licence"], card["data"], card["scores"]) == (
        known["licence"],
        known["data"],
        known["figures"],
    )
    assert card["weights_sha256"] == known["sha256"]
    assert card["levels"] == [0.0, 255.0]


def test_a_registered_model_is_found_by_version_and_alias(
    make_app: Any, tools: Any, registry: Any
) -> None:
    registry.add("roofs", 7, "prod")
    app = make_app()
    for reference in ("roofs/7", "roofs@prod", "roofs"):
        card = tools.call(app, "GET", f"/v1/models/{reference}").json()
        assert (card["reference"], card["scales"], card["licence"]) == ("roofs/7", [2], None)
    assert registry.loads == []


@pytest.mark.parametrize(
    ("name", "status"),
    [("nope", 404), ("nope/3", 404), ("a b", 422), ("s3://a/b", 403), ("..%2F..%2Fetc", 403)],
)
def test_cards_of_models_that_do_not_exist(
    make_app: Any, tools: Any, name: str, status: int
) -> None:
    assert tools.call(make_app(), "GET", f"/v1/models/{name}").status_code == status


def test_an_estimate_from_a_header_alone(make_app: Any, tools: Any) -> None:
    app = make_app()
    data = tools.encoded(300, 400)
    told = ask(app, tools, "model=bicubic&scale=3", content=data[:4096]).json()
    assert (told["width"], told["height"], told["scale"]) == (1200, 900, 3)
    assert told["memory_bytes"] == working_bytes(probe(data), 3)
    assert told["output_bytes"] == 1200 * 900 * 3
    assert told["seconds"] > 0
    assert "measured" in told["estimated_from"]


def test_estimates_follow_what_was_done(make_app: Any, tools: Any) -> None:
    app = make_app()
    data = tools.encoded(100, 100)
    answer = tools.call(app, "POST", "/v1/upscale?model=bicubic&scale=2", content=data)
    header = {"container": "png", "width": 1000, "height": 1000, "bytes": 100 * len(data)}
    told = ask(app, tools, "model=bicubic&scale=2", json=header).json()
    assert told["estimated_from"] == "1 image of this kind"
    assert told["output_bytes"] == pytest.approx(100 * len(answer.content), rel=1e-6)
    double = ask(app, tools, "model=bicubic&scale=2", json={**header, "height": 2000}).json()
    assert double["seconds"] == pytest.approx(2 * told["seconds"], abs=0.002)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"json": {"container": "png", "width": 10}}, 422),
        ({"json": {"container": "gif", "width": 10, "height": 10}}, 415),
        ({"json": {"container": "png", "width": 10, "height": 10, "depth": 1}}, 422),
        ({"json": {"container": "png", "width": 90000, "height": 90000}}, 413),
        ({"json": [1]}, 422),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 422),
        ({"content": b"\x89PNG\r\n\x1a\n"}, 422),
        ({"content": b"text"}, 415),
    ],
)
def test_what_would_be_refused_is_refused(
    make_app: Any, tools: Any, body: Any, status: int
) -> None:
    assert ask(make_app(), tools, **body).status_code == status
