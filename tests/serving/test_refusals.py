"""One table of all refusals: what it says, what answers say, and what the documentation says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rayscale.serving.errors import STATUS, TABLE


def test_the_table_has_a_way_out_of_every_error() -> None:
    assert len({(row.status, row.code) for row in TABLE}) == len(TABLE)
    for row in TABLE:
        assert row.meaning.endswith(".")
        assert row.hint.endswith(".")
        assert row.kind is None or STATUS[row.kind] == row.status


def test_the_documentation_has_every_row() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/http.md").read_text()
    for row in TABLE:
        assert f"| `{row.status}` | `{row.code}` | {row.meaning} | {row.hint} |" in page


def test_a_limit_is_told_with_its_value(make_app: Any, tools: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("RAYSCALE_MAX_INPUT_BYTES", "5000")
    error = tools.call(make_app(), "POST", "/v1/upscale", content=b"x" * 5001).json()["error"]
    assert error["limit"] == {"RAYSCALE_MAX_INPUT_BYTES": 5000}
    assert "batch" in error["hint"]
    error = tools.call(make_app(api_keys="k" * 20), "GET", "/v1/models").json()["error"]
    assert error["limit"] is None


@pytest.mark.parametrize(
    ("given", "kept"),
    [("trace-7f.3:a", True), ("", False), ("x" * 129, False), ("a b", False), ("a;b", False)],
)
def test_the_request_id_of_the_client_is_kept_where_it_is_one(
    make_app: Any, tools: Any, given: str, kept: bool
) -> None:
    answer = tools.call(make_app(), "GET", "/nope", headers={"X-Request-Id": given})
    told = answer.json()["error"]["request_id"]
    assert answer.headers.get_list("x-request-id") == [told]
    assert (told == given) is kept


def test_an_answer_has_a_request_id(make_app: Any, tools: Any) -> None:
    app, data = make_app(), tools.encoded(4, 4)
    ids = {
        tools.call(app, "POST", "/v1/upscale", content=data).headers["x-request-id"]
        for _ in range(3)
    }
    assert len(ids) == 3


def test_a_corrected_image_tells_its_residual(make_app: Any, tools: Any) -> None:
    data = tools.encoded(12, 12)
    query = "/v1/upscale?model=bicubic&scale=2&consistency=true"
    answer = tools.call(make_app(), "POST", query, content=data)
    measures = dict(part.split("=") for part in answer.headers["x-rayscale-residual"].split(", "))
    assert set(measures) == {"max", "rms"}
    assert 0 <= float(measures["rms"]) <= float(measures["max"])


def test_under_the_path_of_a_proxy(make_app: Any, tools: Any) -> None:
    """Whether the proxy takes its path off or not."""
    app = make_app(path_prefix="/images/rayscale", api_keys="k" * 20)
    for path in ("/images/rayscale/healthz", "/healthz", "/images/rayscale/", "/images/rayscale"):
        assert tools.call(app, "GET", path).status_code == 200
    for path in ("/images/rayscale/v1/models", "/v1/models"):
        assert tools.call(app, "GET", path).status_code == 401
        headers = {"X-API-Key": "k" * 20}
        assert tools.call(app, "GET", path, headers=headers).status_code == 200
    document = tools.call(app, "GET", "/openapi.json").json()
    assert document["servers"] == [{"url": "/images/rayscale"}]
    assert tools.call(app, "GET", "/images/v1/models").status_code == 404


def test_what_fuzzing_has_found(make_app: Any, tools: Any) -> None:
    app = make_app()
    # So close to 1 that it is 1, which no model serves.
    for path in ("upscale", "estimate"):
        query = f"/v1/{path}?model=bicubic&scale=1.0000000000000002"
        assert tools.call(app, "POST", query, content=tools.encoded(4, 4)).status_code == 422
    # A variable of a shell that was not set.
    answer = tools.call(app, "POST", "/v1/upscale?scale=", content=tools.encoded(4, 4))
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "bad_parameter")
    assert "scale is empty" in answer.json()["error"]["message"]
    json = {"Content-Type": "application/json"}
    answer = tools.call(app, "POST", "/v1/batches", content=b"\xff\x11", headers=json)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "bad_parameter")


def test_all_methods_of_a_path_are_named(make_app: Any, tools: Any) -> None:
    app = make_app(path_prefix="/x")
    for path, allowed in (
        ("/v1/batches", "GET, HEAD, POST"),
        ("/v1/batches/20260101000000-000000000000", "DELETE, GET, HEAD"),
        ("/v1/upscale", "POST"),
    ):
        answer = tools.call(app, "PATCH", f"/x{path}", content=b"")
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
