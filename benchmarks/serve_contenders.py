"""What ``serve_load.py`` compares, each a process of its own: it prints its address and then obeys lines of standard input.

engine     the engine alone, driven in its process by as many tasks as there would be clients
uvicorn    plain FastAPI on uvicorn over the same engine: one route, no limits, no queue
app        the service without Ray: the whole HTTP application on uvicorn over the same engine
ray        ``rayscale serve`` on a Ray of its own, with Ray Serve's proxy
haproxy    the same with HAProxy in front of the ingress

Every contender works with two image threads of one core each, as a model replica does.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import psutil
from fastapi import FastAPI, Request, Response

from rayscale import strictjson

SCALE = 2
PATH = "/v1/upscale?model={model}&scale=2"
NAMES = ("engine", "uvicorn", "app", "ray", "haproxy")


@dataclass
class Contender:
    """A running one.

    Attributes:
        address: "" for the engine, which has none.
        first_s: seconds from its start (of the deployment, on a Ray that runs) to its first answer by a network.
    """

    name: str
    process: subprocess.Popen[str]
    address: str
    first_s: float

    def cpu(self) -> float:
        """Seconds that all its processes have had."""
        found = [psutil.Process(self.process.pid)]
        found += found[0].children(recursive=True)
        total = 0.0
        for process in found:
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def ask(self, **command: Any) -> dict[str, Any]:
        """One line to it, one line back."""
        assert self.process.stdin is not None
        print(strictjson.dumps(command), file=self.process.stdin, flush=True)
        return _line(self.process)


def _line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            return cast(dict[str, Any], strictjson.loads(line))
    raise SystemExit(f"a contender ended: {process.args!r}")


@contextmanager
def running(
    names: list[str], variables: Mapping[str, str], serve: Mapping[str, Any], image: Path
) -> Iterator[dict[str, Contender]]:
    """The contenders of ``names``; ``ray:NAME=VALUE,...`` is ``ray`` with more variables.

    Args:
        variables: of the environment of all. serve: changes of the deployment of the models.
        image: the file whose first answer is timed.
    """
    with ExitStack() as stack:
        found = {}
        for name in names:
            kind, _, more = name.partition(":")
            extra = dict(pair.split("=", 1) for pair in more.split(",") if pair)
            environment = {
                **os.environ,
                "RAY_SERVE_LOG_TO_STDERR": "0",
                "OMP_NUM_THREADS": "1",
                **variables,
                **extra,
            }
            command = [sys.executable, __file__, kind, strictjson.dumps(serve), str(image)]
            process = stack.enter_context(
                subprocess.Popen(
                    command, text=True, stdin=-1, stdout=-1, env=environment, stderr=_log(name)
                )
            )
            stack.callback(process.wait)
            assert process.stdin is not None
            stack.callback(process.stdin.close)
            told = _line(process)
            found[name] = Contender(name, process, told["address"], told["first_s"])
        yield found


def _log(name: str) -> Any:
    folder = Path(tempfile.gettempdir()) / "serve-load"
    folder.mkdir(exist_ok=True)
    return (folder / f"{name.partition(':')[0]}.log").open("a")


def main() -> None:
    """A contender: the first argument says which."""
    kind, serve, image = sys.argv[1], strictjson.loads(sys.argv[2]), Path(sys.argv[3]).read_bytes()
    out, sys.stdout = sys.stdout, sys.stderr  # what libraries print is not an answer
    if kind == "engine":
        _Alone(image).obey(out)
    elif kind in ("uvicorn", "app"):
        _over_uvicorn(kind, image, out)
    else:
        _over_ray(kind, serve, image, out)


@dataclass
class _Alone:
    image: bytes
    engine: Any = field(init=False)

    def __post_init__(self) -> None:
        from rayscale.serving.engine import Engine
        from rayscale.serving.settings import ServeSettings

        self.engine = Engine(ServeSettings())
        self.engine.start()

    def obey(self, out: Any) -> None:
        """Answer commands until there are no more."""
        start = time.perf_counter()
        asyncio.run(self._load("edsr-baseline", 1, 1))
        _tell(out, address="", first_s=time.perf_counter() - start)
        for line in sys.stdin:
            asked = strictjson.loads(line)
            begun = time.perf_counter()
            taken = asyncio.run(self._load(**asked))
            _tell(out, taken=taken, elapsed=time.perf_counter() - begun)

    async def _load(self, model: str, concurrency: int, count: int) -> list[float]:
        from rayscale.options import Options
        from rayscale.serving.requests import UpscaleRequest

        asked = UpscaleRequest(self.image, model, Options(scale=SCALE))
        taken: list[float] = []
        sent = 0

        async def client() -> None:
            nonlocal sent
            while sent < count:
                sent += 1
                begun = time.perf_counter()
                await self.engine.upscale(asked)
                taken.append(time.perf_counter() - begun)

        await asyncio.gather(*(client() for _ in range(concurrency)))
        return taken


def _over_uvicorn(kind: str, image: bytes, out: Any) -> None:
    import threading

    import uvicorn

    start = time.perf_counter()
    app = _plain() if kind == "uvicorn" else _whole()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        threading.Thread(target=server.run, args=([listener],), daemon=True).start()
        _first(address, image, start, out)
        sys.stdin.read()


def _plain() -> Any:
    """What one would write first."""
    from rayscale.options import Options
    from rayscale.serving.engine import Engine
    from rayscale.serving.requests import UpscaleRequest
    from rayscale.serving.settings import ServeSettings

    engine, app = Engine(ServeSettings()), FastAPI()
    engine.start()

    @app.post("/v1/upscale", response_model=None)
    async def upscale(request: Request, model: str, scale: float) -> Response:
        result = await engine.upscale(
            UpscaleRequest(await request.body(), model, Options(scale=scale))
        )
        return Response(result.data, media_type="image/png")

    return app


def _whole() -> Any:
    from rayscale.serving.api import create_app
    from rayscale.serving.engine import Engine
    from rayscale.serving.settings import ServeSettings

    settings = ServeSettings()
    engine = Engine(settings)
    engine.start()
    return create_app(engine, settings)


def _over_ray(kind: str, serve: dict[str, Any], image: bytes, out: Any) -> None:
    import yaml

    from rayscale import local
    from rayscale.serving.deploy import CONFIG, deploy

    with tempfile.TemporaryDirectory(prefix="serve-load-") as scratch:
        home = Path(scratch).resolve()
        if kind == "haproxy":
            _use_haproxy(home)
        config = yaml.safe_load(CONFIG.read_text())
        for deployment in config["applications"][0]["deployments"]:
            if deployment["name"] == "Upscaling":
                deployment.update(serve)
        path = home / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        os.environ.pop("RAY_ADDRESS", None)
        try:
            local.up(home, services=("ray",), num_cpus=4, fixed_ports=False)
            os.environ.update(local.environment(home))
            start = time.perf_counter()
            address = deploy(path)
            _first(address, image, start, out)
            for line in sys.stdin:
                _tell(out, **_replicas(strictjson.loads(line)))
        finally:
            local.down(home)


def _use_haproxy(home: Path) -> None:
    os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = "1"
    places = {
        "CONFIG_FILE_LOC": "haproxy.cfg",
        "SOCKET_PATH": "admin.sock",
        "SERVER_STATE_BASE": "",
        "SERVER_STATE_FILE": "server-state",
        "METRICS_SOCKET_PATH": "metrics.sock",
    }
    for name, file in places.items():
        os.environ[f"RAY_SERVE_HAPROXY_{name}"] = str(home / file)
    for name in ("METRICS", "STATS"):
        with socket.create_server(("127.0.0.1", 0)) as free:
            os.environ[f"RAY_SERVE_HAPROXY_{name}_PORT"] = str(free.getsockname()[1])


def _replicas(asked: dict[str, Any]) -> dict[str, Any]:
    """The processes of deployments and of proxies, by name."""
    from ray.util.state import list_actors

    found = list_actors(filters=[("state", "=", "ALIVE")], detail=True)
    return {
        name: [a.pid for a in found if a.class_name in (f"ServeReplica:rayscale:{name}", name)]
        for name in asked["actors"]
    }


def _first(address: str, image: bytes, start: float, out: Any) -> None:
    """Wait for the first answer by a network and tell of it."""
    import httpx

    key = os.environ.get("RAYSCALE_SERVE_API_KEYS", "").partition(",")[0]
    headers = {"X-API-Key": key} if key else {}
    with httpx.Client(base_url=address, headers=headers, timeout=120, trust_env=False) as client:
        while True:
            try:
                answer = client.post(PATH.format(model="edsr-baseline"), content=image)
            except httpx.TransportError:
                time.sleep(0.05)
                continue
            if answer.status_code == 200:
                break
            if answer.status_code != 503:
                raise SystemExit(answer.text)
            time.sleep(0.05)
    _tell(out, address=address, first_s=time.perf_counter() - start)


def _tell(out: Any, **values: Any) -> None:
    print(strictjson.dumps(values), file=out, flush=True)


if __name__ == "__main__":
    main()
