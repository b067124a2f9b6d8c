"""Uploads in parts to a real S3 server, by somebody who has no keys of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.plugins.web import EndlessJobs, listening

from rayscale.client import AsyncClient, Client, ServiceError
from rayscale.serving import uploads
from rayscale.serving.api import create_app
from rayscale.serving.batches import Records
from rayscale.serving.keys import Key, hash_key, render_keys
from rayscale.serving.settings import ServeSettings
from rayscale.storage import connect

A, B = "a-key-of-somebody-long-enough", "b-key-of-somebody-long-enough"
AS_A, AS_B = {"X-API-Key": A}, {"X-API-Key": B}
PART = 5 << 20  # the least that S3 allows


@pytest.fixture
def app(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(uploads, "PART_BYTES", PART)
    keys = render_keys([Key("a", hash_key(A)), Key("b", hash_key(B))])
    settings = ServeSettings(batches_uri=f"{s3.uri}/service", keys=keys)
    return create_app(None, settings, jobs=EndlessJobs())  # type: ignore[arg-type]


def test_a_large_file_becomes_the_source_of_a_batch(app: Any, s3: Any, tools: Any) -> None:
    data = bytes(range(256)) * (PART // 256) + b"the rest"
    asked = {"name": "scène 1.tif", "bytes": len(data)}
    begun = tools.call(app, "POST", "/v1/uploads", json=asked, headers=AS_A)
    assert begun.status_code == 201, begun.text
    told = begun.json()
    assert len(told["addresses"]) == 2
    parts = []
    for number, address in enumerate(told["addresses"], 1):
        piece = data[(number - 1) * PART : number * PART]
        answer = httpx.put(address, content=piece, trust_env=False)
        assert answer.status_code == 200, answer.text
        parts.append({"number": number, "etag": answer.headers["etag"]})
    path = f"/v1/uploads/{told['id']}"
    for given, headers, status in ((parts, AS_B, 404), (parts[:1], AS_A, 422), (parts, AS_A, 200)):
        ended = tools.call(app, "POST", path, json={"parts": given}, headers=headers)
        assert ended.status_code == status, ended.text
    source = ended.json()["source"]
    assert connect(source).read("scène 1.tif") == data
    batch = {"source": source, "target": f"{told['place']}/larger", "model": "bicubic"}
    assert tools.call(app, "POST", "/v1/batches", json=batch, headers=AS_B).status_code == 403
    made = tools.call(app, "POST", "/v1/batches", json=batch, headers=AS_A)
    assert made.status_code == 202, made.text
    (record,) = Records(connect(f"{s3.uri}/service")).list()
    assert record.key == f"{made.json()['id']}.json"
    query = {"uri": f"{source}/scène 1.tif"}
    assert tools.call(app, "GET", "/v1/files", params=query, headers=AS_B).status_code == 404
    answer = tools.call(app, "GET", "/v1/files", params=query, headers=AS_A)
    assert answer.status_code == 307
    fetched = httpx.get(answer.headers["location"], trust_env=False)
    assert fetched.content == data


def test_the_client_sends_and_fetches(app: Any, s3: Any, tmp_path: Path) -> None:
    data = bytes(range(256)) * (PART // 256) + b"the rest"
    (tmp_path / "large.tif").write_bytes(data)
    seen: list[tuple[int, int]] = []

    async def work() -> str:
        transport = httpx.ASGITransport(app)
        async with AsyncClient("http://service", A, transport=transport) as service:
            told = await service.upload(tmp_path / "large.tif", lambda *now: seen.append(now))
            await service.fetch(f"{told['source']}/large.tif", tmp_path / "back.tif")
            with pytest.raises(ServiceError, match="of yours"):
                await service.fetch(f"{s3.uri}/service/other", tmp_path / "none")
            return told["source"]

    source = asyncio.run(work())
    assert seen == [(PART, len(data)), (len(data), len(data))]
    assert (tmp_path / "back.tif").read_bytes() == data
    with listening(app) as address, Client(address, A) as service:
        service.fetch(f"{source}/large.tif", tmp_path / "again.tif")
        again = service.upload(tmp_path / "again.tif")
        assert again["source"] != source
        assert connect(again["source"]).read("again.tif") == data


@pytest.mark.parametrize(
    "asked",
    [
        {"name": "../x.tif", "bytes": 5},
        {"name": ".hidden", "bytes": 5},
        {"name": "x.tif", "bytes": 0},
        {"name": "x.tif", "bytes": 1 << 50},
        {"name": "x.tif"},
    ],
)
def test_what_is_not_an_upload(app: Any, tools: Any, asked: Any) -> None:
    answer = tools.call(app, "POST", "/v1/uploads", json=asked, headers=AS_A)
    assert answer.status_code == 422, answer.text


def test_without_the_object_storage_the_service_says_so(
    app: Any, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("RAYSCALE_STORAGE_ATTEMPTS", "1")
    from rayscale.settings import get_settings

    get_settings.cache_clear()
    answer = tools.call(app, "GET", "/v1/batches", headers=AS_A)
    assert (answer.status_code, answer.headers["x-rayscale-error"]) == (503, "unavailable")
    assert "127.0.0.1" not in answer.text
