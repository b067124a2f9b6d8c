"""The HTTP interface in this process: every status, and results equal to the library's."""

from __future__ import annotations

import asyncio
import base64
import re
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from tests.serving.refusal import refused

from rayscale import __version__
from rayscale.errors import OutOfMemoryError, RayscaleError
from rayscale.fields import choices_of
from rayscale.imaging import MIME, read_image
from rayscale.inference.pipeline import Pipeline
from rayscale.models.builtin import OpenedModel, builtin_names, open_builtin
from rayscale.options import Options
from rayscale.serving.errors import STATUS, OverloadedError, UnavailableError
from rayscale.serving.requests import UpscaleRequest
from rayscale.serving.tensors import HEADER

KINDS = [
    ("png", 8, 3),
    ("png", 16, 3),
    ("png", 8, 1),
    ("png", 16, 1),
    ("jpeg", 8, 3),
    ("jpeg", 8, 1),
    ("webp", 8, 3),
    ("tiff", 8, 3),
    ("tiff", 16, 3),
    ("tiff", 16, 4),
]


class Backend:
    """Answers every upscaling with ``error`` or after ``seconds``."""

    def __init__(
        self, error: Exception | None = None, seconds: float = 0, ready: bool = True
    ) -> None:
        self.error, self.seconds, self.is_ready = error, seconds, ready

    def name(self) -> str:
        return "here"

    def places(self) -> int:
        return 4

    async def ready(self) -> bool:
        if self.error:
            raise self.error
        return self.is_ready

    async def models(self) -> list[dict[str, Any]]:
        raise self.error or AssertionError

    async def upscale(self, job: UpscaleRequest) -> Any:
        await asyncio.sleep(self.seconds)
        raise self.error or AssertionError


@pytest.mark.parametrize(("container", "bits", "channels"), KINDS)
def test_answers_what_the_library_computes(
    make_app: Any, tools: Any, container: str, bits: int, channels: int
) -> None:
    data = tools.encoded(17, 23, channels=channels, bits=bits, container=container)
    response = tools.call(make_app(), "POST", "/v1/upscale?model=bicubic&scale=3", content=data)
    assert response.status_code == 200, response.text
    direct = Pipeline(open_builtin("bicubic"), Options(scale=3)).run(data)
    assert response.content == direct.data
    answer = read_image(response.content)
    assert (answer.container, answer.bits) == (container, bits)
    assert answer.pixels.shape == (51, 69, channels)
    assert response.headers["content-type"] == MIME[container]


def test_any_scale_that_the_model_serves(make_app: Any, tools: Any) -> None:
    data = tools.encoded(17, 23)
    for asked, told, shape in (("2.5", "2.5", (42, 57)), ("2.0", "2", (34, 46))):
        response = tools.call(
            make_app(), "POST", f"/v1/upscale?model=bicubic&scale={asked}", content=data
        )
        assert response.headers["x-rayscale-scale"] == told
        assert read_image(response.content).pixels.shape[:2] == shape


def test_a_system_and_a_scale_mean_the_bundled_model(make_app: Any, tools: Any) -> None:
    app, data = make_app(), tools.encoded(9, 9)
    response = tools.call(app, "POST", "/v1/upscale?model=aplus&scale=3", content=data)
    assert response.status_code == 200, response.text
    assert response.headers["x-rayscale-model"] == "aplus-x3"
    assert read_image(response.content).pixels.shape[:2] == (27, 27)
    response = tools.call(app, "POST", "/v1/upscale?model=aplus&scale=2.5", content=data)
    assert response.status_code == 404


def test_headers_name_what_was_done(make_app: Any, tools: Any, registry: Any) -> None:
    version = registry.add("roofs", 7, "prod")
    response = tools.call(
        make_app(), "POST", "/v1/upscale?model=roofs@prod", content=tools.encoded(9, 9)
    )
    assert response.status_code == 200, response.text
    assert response.headers["x-rayscale-model"] == "roofs/7"
    assert response.headers["x-rayscale-weights-sha256"] == version.digest
    assert response.headers["x-rayscale-scale"] == "2"
    stages = re.findall(r"(\w+);dur=[\d.]+", response.headers["server-timing"])
    assert stages == ["queue", "decode", "upscale", "encode", "total"]
    assert response.headers["x-rayscale-model-version"] == "7"
    assert response.headers["x-rayscale-version"] == __version__


def test_a_trained_model_and_its_ensemble_equal_the_library(
    make_app: Any, tools: Any, registry: Any
) -> None:
    registry.add("roofs", 1)
    app, data = make_app(model="roofs"), tools.encoded(20, 31)
    for ensemble in (False, True):
        response = tools.call(app, "POST", f"/v1/upscale?ensemble={ensemble}", content=data)
        options = Options(scale=2, ensemble=ensemble)
        digest = response.headers["X-Rayscale-Weights-Sha256"]
        model = OpenedModel(tools.tiny_model(1), digest, "roofs/1")
        assert response.content == Pipeline(model, options).run(data).data


def test_sixteen_mixed_clients_get_their_own_images(
    make_app: Any, tools: Any, registry: Any
) -> None:
    registry.add("a", 1)
    registry.add("b", 2)
    app = make_app(threads=4)
    asked = []
    for i in range(16):
        container, bits, channels = KINDS[i % len(KINDS)]
        model = ("a", "b")[i % 2] if channels == 3 else "bicubic"
        scale = 2 if model != "bicubic" else 2 + i % 3
        kinds = {"container": container, "bits": bits, "channels": channels, "seed": i}
        asked.append(
            (f"/v1/upscale?model={model}&scale={scale}", tools.encoded(8 + i, 40 - i, **kinds))
        )
    serial = [tools.call(app, "POST", path, content=data).content for path, data in asked]

    async def together() -> list[Any]:
        async with tools.client(app) as http:
            return await asyncio.gather(*(http.post(p, content=d) for p, d in asked))

    for _ in range(3):
        answers = asyncio.run(together())
        assert [a.status_code for a in answers] == [200] * 16
        assert [a.content for a in answers] == serial
    assert len(set(serial)) == 16


def test_models_and_probes(make_app: Any, tools: Any, registry: Any) -> None:
    registry.add("roofs", 3, "prod")
    app = make_app(model="roofs@prod")
    listed = tools.call(app, "GET", "/v1/models").json()
    assert listed["default"] == "roofs@prod"
    by_reference = {model["reference"]: model for model in listed["models"]}
    assert set(by_reference) == {*builtin_names(), "roofs/3"}
    assert by_reference["roofs/3"]["aliases"] == ["prod"]
    assert by_reference["roofs/3"]["scales"] == [2]
    assert by_reference["roofs/3"]["scale_range"] is None
    assert by_reference["bicubic"]["scale_range"] == [1, 16]
    health = tools.call(app, "GET", "/healthz").json()
    assert health["status"] == "alive"
    assert health["versions"]["rayscale"] == __version__
    assert {"ray", "torch", "python"} <= set(health["versions"])
    assert tools.call(app, "GET", "/readyz").json() == {"status": "ready"}


def test_alive_but_not_ready_without_the_default_model(make_app: Any, tools: Any) -> None:
    app = make_app(model="missing")
    assert tools.call(app, "GET", "/healthz").status_code == 200
    response = tools.call(app, "GET", "/readyz")
    assert (response.status_code, response.json()) == (503, {"status": "not ready"})


def test_busy_replicas_stay_ready(make_app: Any, tools: Any) -> None:
    backend = Backend()
    app = make_app(backend)
    assert tools.call(app, "GET", "/readyz").status_code == 200
    backend.error = OverloadedError("full")
    assert tools.call(app, "GET", "/readyz").status_code == 200
    assert (
        tools.call(make_app(Backend(OverloadedError("full"))), "GET", "/readyz").status_code == 503
    )


@pytest.mark.parametrize(
    "reference",
    [
        "s3://other-bucket/model",
        "file:///etc/passwd",
        "http://169.254.169.254/latest",
        "models:/roofs/1",
        "../../etc/passwd",
        "roofs%2F..%2F..",
        "/etc/passwd",
        "~/x",
        "..",
    ],
)
def test_a_model_is_never_a_path_or_an_address(
    make_app: Any, tools: Any, registry: Any, reference: str
) -> None:
    registry.gone = AssertionError("the registry was asked")
    response = tools.call(
        make_app(), "POST", "/v1/upscale", params={"model": reference}, content=tools.encoded(4, 4)
    )
    refused(response, 403, "source_not_allowed")


@pytest.mark.parametrize("reference", ["nope", "nope/3", "nope@prod", "edsr"])
def test_unknown_models(make_app: Any, tools: Any, reference: str) -> None:
    response = tools.call(
        make_app(), "POST", "/v1/upscale", params={"model": reference}, content=tools.encoded(4, 4)
    )
    assert reference in refused(response, 404, "not_found")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("scale=5&model=roofs", "scale 2, not 5"),
        ("scale=1.23456", "digits"),
        ("scale=0", "scale"),
        ("scale=1", "scale"),
        ("sharpness=true", "'sharpness' is not a parameter"),
        ("uncertainty=true", "an answer holds one image"),
        ("tile=3", "tile"),
        ("precision=half", "precision"),
        ("format=gif", "format must be one of png"),
        ("Scale=2", "'Scale' is not a parameter"),
        ("scale=2&scale=2", "2 times"),
        ("scale=-2", "scale"),
        ("scale=2.5&model=roofs", "scale 2, not 2.5"),
        ("scale=nan", "scale"),
        (f"scale={10**40}", "scale"),
        ("ensemble=maybe", "ensemble"),
        ("levels=5", "BLACK..WHITE"),
        ("levels=9..1", "black below white"),
        ("labels=linear", "labels"),
        ("metadata=drop", "metadata"),
        ("model=" + "x" * 300, "model"),
        ("model=a%20b", "model reference"),
        ("model=roofs@", "model reference"),
        ("model=", "model reference"),
    ],
)
def test_bad_parameters(make_app: Any, tools: Any, registry: Any, query: str, named: str) -> None:
    registry.add("roofs", 1)
    response = tools.call(make_app(), "POST", f"/v1/upscale?{query}", content=tools.encoded(4, 4))
    assert named in refused(response, 422, "bad_parameter")


def test_body_limits(make_app: Any, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSCALE_MAX_INPUT_BYTES", "5000")
    app = make_app()
    message = refused(tools.call(app, "POST", "/v1/upscale", content=b"x" * 5001), 413, "too_large")
    assert "5001" in message
    assert "5000" in message

    async def chunks() -> Any:
        yield b"x" * 10

    refused(tools.call(app, "POST", "/v1/upscale", content=chunks()), 411, "length_required")
    assert tools.call(app, "POST", "/v1/upscale", content=tools.encoded(5, 5)).status_code == 200


def test_keys(make_app: Any, tools: Any) -> None:
    app = make_app(api_keys="first-key, second-key")
    data = tools.encoded(5, 5)
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic first-key"},
        {"X-API-Key": ""},
        {"X-API-Key": "first-key,"},
    ):
        response = tools.call(app, "POST", "/v1/upscale", content=data, headers=headers)
        message = refused(response, 401, "unauthorized")
        assert "first-key" not in message
        assert response.headers["www-authenticate"] == "Bearer"
    refused(tools.call(app, "GET", "/v1/models?key=first-key"), 401)
    for headers in ({"Authorization": "Bearer first-key"}, {"X-API-Key": "second-key"}):
        response = tools.call(app, "POST", "/v1/upscale", content=data, headers=headers)
        assert response.status_code == 200
    for open_path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
        assert tools.call(app, "GET", open_path).status_code == 200
    assert "securitySchemes" in tools.call(app, "GET", "/openapi.json").json()["components"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OverloadedError("full"), 429),
        (UnavailableError("lost"), 503),
        (OutOfMemoryError("large"), 507),
        (RayscaleError("weights of /secret/place"), 500),
        (ZeroDivisionError("secret-host:1234"), 500),
    ],
)
def test_failures_behind_the_interface(
    make_app: Any, tools: Any, error: Exception, status: int
) -> None:
    app = make_app(Backend(error))
    message = refused(tools.call(app, "POST", "/v1/upscale", content=tools.encoded(4, 4)), status)
    assert status != 500 or "secret" not in message


def test_deadline(make_app: Any, tools: Any) -> None:
    app = make_app(Backend(seconds=5), request_timeout_s=0.05)
    response = tools.call(app, "POST", "/v1/upscale", content=tools.encoded(4, 4))
    assert "0.05 s" in refused(response, 504, "deadline_exceeded")


def test_paths_and_methods_that_do_not_exist(make_app: Any, tools: Any) -> None:
    app = make_app()
    refused(tools.call(app, "GET", "/nope"), 404, "not_found")
    refused(tools.call(app, "GET", "/v1/upscale"), 405, "method_not_allowed")


def test_unknown_parameters_of_other_paths(make_app: Any, tools: Any) -> None:
    app = make_app()
    assert "it takes none" in refused(tools.call(app, "GET", "/v1/models?x=1"), 422)
    assert tools.call(app, "GET", "/healthz?from=balancer").status_code == 200


def test_no_path_is_redirected(make_app: Any, tools: Any) -> None:
    app = make_app()
    for path in ("/", "/docs", "/v1/models/", "/healthz/"):
        assert "location" not in tools.call(app, "GET", path).headers
    refused(tools.call(app, "GET", "/v1/models/"), 404, "not_found")


def test_head_is_get_without_a_body(make_app: Any, tools: Any) -> None:
    app = make_app()
    for path in ("/", "/docs", "/openapi.json", "/v1/models", "/healthz", "/readyz"):
        head, get = (tools.call(app, method, path) for method in ("HEAD", "GET"))
        assert (head.status_code, head.content) == (200, b"")
        for answer in (head, get):
            del answer.headers["x-request-id"]
        assert head.headers == get.headers
    assert tools.call(app, "HEAD", "/v1/upscale").status_code == 405


def test_pages_of_allowed_origins_may_call(make_app: Any, tools: Any) -> None:
    app = make_app(cors_origins="https://a.example, https://b.example", api_keys="k" * 20)
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    for origin, allowed in (("https://b.example", True), ("https://c.example", False)):
        headers = {"Origin": origin}
        preflight = tools.call(app, "OPTIONS", "/v1/upscale", headers=headers | asked)
        answer = tools.call(app, "POST", "/v1/upscale", headers=headers, content=b"x")
        assert (preflight.status_code == 200) is allowed
        assert answer.status_code == 401  # readable for an allowed page, as its headers say
        assert answer.headers.get("access-control-allow-origin") == (origin if allowed else None)
    exposed = tools.call(app, "GET", "/healthz", headers={"Origin": "https://a.example"}).headers
    assert "X-Rayscale-Model" in exposed["access-control-expose-headers"]
    closed = tools.call(make_app(), "GET", "/healthz", headers={"Origin": "https://a.example"})
    assert "access-control-allow-origin" not in closed.headers


def test_the_openapi_document_is_valid_and_complete(make_app: Any, tools: Any) -> None:
    document = tools.call(make_app(api_keys="k"), "GET", "/openapi.json").json()
    OpenAPIV31SpecValidator(document).validate()
    schemas = document["components"]["schemas"]
    for reference in re.findall(r'"\$ref": ?"([^"]+)"', str(document).replace("'", '"')):
        assert reference.removeprefix("#/components/schemas/") in schemas
    assert {"/v1/upscale", "/v1/models", "/healthz", "/readyz"} <= set(document["paths"])
    upscale = document["paths"]["/v1/upscale"]["post"]
    assert set(upscale["responses"]) == {"200", "500", *map(str, STATUS.values())} - {"409"}
    assert set(upscale["requestBody"]["content"]) == {*MIME.values(), "multipart/form-data"}
    names = {p["name"] for p in upscale["parameters"]}
    assert names == {"model"} | {each.name for each in choices_of(Options)}
    assert "Retry-After" in upscale["responses"]["429"]["headers"]
    assert "ValidationError" not in schemas  # FastAPI's own form, which is never sent


def test_every_kind_of_body_has_an_example_that_works(make_app: Any, tools: Any) -> None:
    app = make_app()
    tried = set()
    for path, methods in tools.call(app, "GET", "/openapi.json").json()["paths"].items():
        for kind, body in methods.get("post", {}).get("requestBody", {}).get("content", {}).items():
            schema = body["schema"]
            name = schema.get("$ref", "").rpartition("/")[2]
            if name:
                schema = app.openapi()["components"]["schemas"][name]
            assert {"example", "examples"} & {*body, *schema}, (path, kind)
            for example in body.get("examples", {}).values():
                if "externalValue" in example and "{version}" not in path:
                    data = base64.b64decode(example["externalValue"].partition("base64,")[2])
                    place, headers = f"{path}?scale=2", {}
                    if "{name}" in path:
                        place = path.replace("{name}", "bicubic")
                        headers = {HEADER: str(data.index(b"0123"))}
                    answer = tools.call(app, "POST", place, content=data, headers=headers)
                    assert answer.status_code == 200, (path, kind, answer.text)
                    if path == "/v1/upscale":
                        assert answer.headers["content-type"] == kind
                        tried.add(kind)
    assert tried == set(MIME.values())


def test_the_pages_need_nothing_from_elsewhere(make_app: Any, tools: Any) -> None:
    app = make_app()
    for path in ("/", "/docs"):
        page = tools.call(app, "GET", path)
        assert page.status_code == 200  # no redirect that would lose a path before it
        assert page.headers["content-type"].startswith("text/html")
        assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", page.text)
