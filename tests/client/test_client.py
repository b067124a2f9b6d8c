"""The client against the service on a real socket: results, refusals, patience, batches, and the commands that use it."""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tests.plugins.web import EndlessJobs, listening

import rayscale
from rayscale.cli.app import run
from rayscale.client import AsyncClient, Client, ServiceError
from rayscale.client.retries import Retries
from rayscale.errors import ConfigError
from rayscale.imaging import Image, probe, write_image
from rayscale.inference.pipeline import Pipeline
from rayscale.models.builtin import open_builtin
from rayscale.options import Options
from rayscale.serving.api import create_app
from rayscale.serving.batches import Records
from rayscale.serving.engine import Engine
from rayscale.serving.errors import OverloadedError
from rayscale.serving.settings import ServeSettings
from rayscale.storage import connect

KEY = "a-key-of-somebody-long-enough"


class Busy(Engine):
    """Refuses the first images that it is asked for."""

    refusals = 0

    async def upscale(self, job: Any) -> Any:
        if self.refusals:
            self.refusals -= 1
            raise OverloadedError("full")
        return await super().upscale(job)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("client")


@pytest.fixture(scope="module")
def engine(place: Path) -> Iterator[Busy]:
    settings = ServeSettings(
        api_keys=KEY,
        retry_after_s=1,
        path_prefix="/rayscale",
        batches_uri=str(place / "records"),
        batch_prefixes=str(place),
    )
    engine = Busy(settings)
    engine.start()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def address(engine: Busy) -> Iterator[str]:
    """Of the service, under the path of a proxy."""
    app = create_app(engine, engine.settings, jobs=EndlessJobs())
    with listening(app) as place:
        yield f"{place}/rayscale"


@pytest.fixture
def service(address: str) -> Iterator[Client]:
    with Client(address, KEY) as service:
        yield service


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (21, 17, 3), np.uint8)
    path = tmp_path / "photo.png"
    path.write_bytes(write_image(Image(pixels)))
    return path


def direct(path: Path, **options: Any) -> bytes:
    return Pipeline(open_builtin("bicubic"), Options(**options)).run(path.read_bytes()).data


def test_an_image_as_the_library_makes_it(service: Client, photo: Path, tmp_path: Path) -> None:
    options = {"scale": 3, "levels": (0, 200), "ensemble": True}
    answer = service.upscale(photo, model="bicubic", **options)
    assert answer.data == direct(photo, **options)
    assert (answer.width, answer.height, answer.model, answer.scale) == (51, 63, "bicubic", 3)
    seen: list[tuple[int, int]] = []
    target = tmp_path / "deep/large.png"
    told = service.upscale(photo, target, scale=2, progress=lambda *now: seen.append(now))
    assert told.data == b""
    assert target.read_bytes() == direct(photo, scale=2)
    assert seen[-1] == (target.stat().st_size,) * 2
    assert service.upscale(photo, consistency=True).residual is not None


@pytest.mark.parametrize("source", [str, Path.read_bytes], ids=["path", "bytes"])
def test_a_result_is_what_its_name_says(
    service: Client, photo: Path, tmp_path: Path, source: Callable[[Path], str | bytes]
) -> None:
    asked = {"model": "bicubic", "scale": 2}
    for name, container in (("a.tif", "tiff"), ("a.webp", "webp"), ("a.PNG", "png")):
        service.upscale(source(photo), tmp_path / name, **asked)
        assert probe((tmp_path / name).read_bytes()).container == container
    with pytest.raises(
        ConfigError, match=r"b\.png ends in \.png, but the format asked for is tiff"
    ):
        service.upscale(source(photo), tmp_path / "b.png", format="tiff", **asked)
    with pytest.raises(ConfigError, match=r"b\.dcm: a service makes DICOM of nothing else"):
        service.upscale(source(photo), tmp_path / "b.dcm", **asked)
    before = photo.read_bytes()
    with pytest.raises(ConfigError, match="input and output are the same file"):
        service.upscale(photo, photo, **asked)
    assert photo.read_bytes() == before


def test_with_asyncio(address: str, photo: Path) -> None:
    async def work() -> list[bytes]:
        async with AsyncClient(address, KEY) as service:
            assert (await service.health())["status"] == "alive"
            asked = [service.upscale(photo, model="bicubic", scale=s) for s in (2, 3, 4)]
            return [answer.data for answer in await asyncio.gather(*asked)]

    assert asyncio.run(work()) == [direct(photo, scale=s) for s in (2, 3, 4)]


def test_both_clients_do_the_same() -> None:
    def surface(kind: type) -> dict[str, Any]:
        methods = {k: v for k, v in vars(kind).items() if callable(v) and not k.startswith("_")}
        return {k: list(inspect.signature(v).parameters) for k, v in methods.items()}

    assert surface(Client) == surface(AsyncClient)
    assert {"upscale", "submit", "watch", "cancel", "models"} <= set(surface(Client))
    assert rayscale.Client is Client
    assert rayscale.AsyncClient is AsyncClient


def test_models_and_estimates(service: Client, photo: Path) -> None:
    assert "bicubic" in {model["reference"] for model in service.models()}
    assert service.model("edsr-baseline-x2")["channels"] == 3
    told = service.estimate(photo.read_bytes()[:64], model="bicubic", scale=3)
    assert (told["width"], told["height"]) == (51, 63)


def test_refusals_in_words(service: Client, address: str, photo: Path, tmp_path: Path) -> None:
    target = tmp_path / "none.png"
    with pytest.raises(ServiceError, match=r"'nope'.*status 404, not_found") as refused:
        service.upscale(photo, target, model="nope")
    assert (refused.value.status, refused.value.reason) == (404, "not_found")
    assert refused.value.request_id
    assert not target.exists()
    with Client(address, "wrong") as stranger, pytest.raises(ServiceError, match="401"):
        stranger.models()
    with pytest.raises(ServiceError, match=r"does not answer.*running"):
        Client("127.0.0.1:9", attempts=1).models()


@pytest.mark.slow
def test_a_full_service_is_asked_again(engine: Busy, service: Client, photo: Path) -> None:
    engine.refusals = 2
    assert service.upscale(photo, model="bicubic", scale=2).data == direct(photo, scale=2)
    engine.refusals = 2
    with (
        Client(str(service._http.base_url), KEY, attempts=2) as hasty,
        pytest.raises(ServiceError, match="429"),
    ):
        hasty.upscale(photo)
    engine.refusals = 0


@pytest.mark.parametrize(
    ("status", "headers", "least", "most"),
    [
        (429, {"Retry-After": "7"}, 7, 8.75),
        (503, {"Retry-After": "9999"}, 60, 75),
        (503, {}, 0.2, 0.5),
        (400, {}, None, None),
        (200, {}, None, None),
    ],
)
def test_how_long_it_waits(
    status: int, headers: dict[str, str], least: float | None, most: float | None
) -> None:
    wait = Retries(3).wait(httpx.Response(status, headers=headers))
    assert wait == least if least is None or most is None else least <= wait <= most  # type: ignore[operator]
    last = Retries(1)
    assert last.wait(httpx.ConnectError("gone")) is None


def test_an_address_is_needed(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.delenv("RAYSCALE_SERVER", raising=False)
    with pytest.raises(ConfigError, match="RAYSCALE_SERVER"):
        Client()
    monkeypatch.setenv("RAYSCALE_SERVER", address)
    monkeypatch.setenv("RAYSCALE_KEY", KEY)
    with Client() as service:
        assert service.models()


def ending(place: Path, batch: str, state: str) -> Callable[[], None]:
    """Ends a batch as its job would."""

    def end() -> None:
        time.sleep(0.3)
        summary = {"megapixels": 1.0, "failed_count": 0}
        Records(connect(place / "records")).change(batch, 1, state=state, summary=summary)

    return end


def test_a_batch_is_watched_until_its_end(service: Client, place: Path) -> None:
    made = service.submit(str(place / "in"), str(place / "out"), scale=3, idempotency_key="one")
    assert made["options"] == {"scale": 3}
    again = service.submit(str(place / "in"), str(place / "out"), scale=3, idempotency_key="one")
    assert again["id"] == made["id"]
    threading.Thread(target=ending(place, made["id"], "done")).start()
    states = [batch["state"] for batch in service.watch(made["id"])]
    assert (states[0], states[-1]) == ("queued", "done")
    assert service.retry(made["id"])["attempt"] == 2
    assert service.cancel(made["id"])["state"] == "cancelled"
    assert service.batch(made["id"])["state"] == "cancelled"
    assert made["id"] in {batch["id"] for batch in service.batches()}


def test_batches_with_asyncio(address: str, engine: Busy, place: Path, photo: Path) -> None:
    """What the client without asyncio does, against the same service."""

    async def work() -> None:
        async with AsyncClient(address, KEY) as service:
            assert "bicubic" in {model["reference"] for model in await service.models()}
            assert (await service.model("edsr-baseline-x2"))["channels"] == 3
            told = await service.estimate(photo, model="bicubic", scale=3)
            assert (told["width"], told["height"]) == (51, 63)
            engine.refusals, seen = 1, []
            target = photo.with_name("async.tif")
            asked = {"model": "bicubic", "scale": 2, "progress": lambda *now: seen.append(now)}
            assert (await service.upscale(photo, target, **asked)).data == b""
            assert probe(target.read_bytes()).container == "tiff"
            assert seen[-1] == (target.stat().st_size,) * 2
            with pytest.raises(ServiceError, match="404, not_found"):
                await service.upscale(photo, photo.with_name("none.png"), model="nope")
            assert not photo.with_name("none.png").exists()
            places = str(place / "async-in"), str(place / "async-out")
            made = await service.submit(*places, limit=5, scale=3, idempotency_key="async")
            threading.Thread(target=ending(place, made["id"], "done")).start()
            states = [batch["state"] async for batch in service.watch(made["id"])]
            assert (states[0], states[-1]) == ("queued", "done")
            assert (await service.retry(made["id"]))["attempt"] == 2
            assert (await service.cancel(made["id"]))["state"] == "cancelled"
            assert (await service.batch(made["id"]))["state"] == "cancelled"
            assert made["id"] in {batch["id"] for batch in await service.batches()}
            with pytest.raises(ServiceError, match="404"):
                [batch async for batch in service.watch("20200101000000-" + "0" * 12)]
        with pytest.raises(ServiceError, match=r"does not answer.*running"):
            await AsyncClient("127.0.0.1:9", attempts=1).models()

    asyncio.run(work())


def test_what_a_service_cannot_do_for_a_command(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, big = tmp_path / "w.pt", tmp_path / "big.png"
    weights.write_bytes(b"")
    for words, told in (
        ((photo, big, "--weights", weights), "a service has its own models"),
        ((photo, big, "--uncertainty"), "leave out --server"),
        (("s3://a/b.png", big), "rayscale batch submit SOURCE TARGET --server URL"),
    ):
        assert run("upscale", *map(str, words), "--server", "127.0.0.1:9") == 2
        assert told in capsys.readouterr().err
    assert not big.exists()


def test_the_commands(
    address: str,
    place: Path,
    photo: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RAYSCALE_KEY", KEY)
    folder, larger = photo.parent, photo.parent / "larger"
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    words = ("upscale", str(folder), str(larger), "--server", address, "-s", "3", "--json")
    assert run(*words) == 3
    told = json.loads(capsys.readouterr().out)
    assert len(told["done"]) == len(told["failed"]) == 1
    assert (larger / "photo.png").read_bytes() == direct(photo, scale=3)
    assert run("upscale", "s3://a/b", "s3://c/d", "--server", address) == 2
    monkeypatch.setenv("RAYSCALE_SERVER", address)
    places = str(place / "in"), str(place / "other")
    assert run("batch", "submit", *places, "-m", "bicubic", "--consistency", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert made["options"] == {"consistency": True}
    threading.Thread(target=ending(place, made["id"], "partial")).start()
    assert run("batch", "status", made["id"], "--wait") == 3
    assert "partial" in capsys.readouterr().out
    assert run("batch", "retry", made["id"]) == 0
    assert run("batch", "cancel", made["id"]) == 0
    assert run("batch", "status", made["id"]) == 1
    assert run("batch", "status") == 0
    assert made["id"] in capsys.readouterr().out
