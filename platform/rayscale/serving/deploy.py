"""Deploying the service from Python, as ``rayscale serve`` and the demo do: same file as ``serve deploy``.

Nothing here knows what the service does; see ``rayscale.serving.app``.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import yaml

from rayscale import cluster
from rayscale.errors import ConfigError, RayscaleError
from rayscale.serving import front
from rayscale.serving.environment import passed_on
from rayscale.serving.keys import render_keys
from rayscale.serving.settings import ServeSettings, get_serve_settings
from rayscale.settings import checkout

log = logging.getLogger(__name__)

CONFIG = Path(__file__).with_name("config.yaml")

_DELETE_S = 10.0
"""What Serve may take to delete an application that has nothing to do; it needs 2."""

_SHORTEST_KEY = 16
"""Characters below which a key could be found from its hash by trying."""


def deploy(
    config_path: Path | str | None = None,
    *,
    host: str | None = None,
    port: int | None = None,
    model: str | None = None,
    weights: Path | str | None = None,
    timeout_s: float = 180.0,
) -> str:
    """Deploy the application on the cluster of ``RAY_ADDRESS`` (or an embedded Ray) and wait for it.

    Args:
        config_path: Serve configuration; the one beside this file by default.
        host, port: where the proxies listen; ``RAYSCALE_SERVE_PORT`` (the local stack sets it) or as in the
            configuration by default.
        model: the default model; ``RAYSCALE_SERVE_MODEL`` by default.
        weights: a file that the default model is read from, which every node must have at this path;
            ``RAYSCALE_SERVE_WEIGHTS`` by default.
        timeout_s: seconds to wait until ``/readyz`` answers 200.

    Returns:
        The address of the service, ``http://HOST:PORT``.

    Raises:
        ConfigError: the configuration or an API key is wrong, or Serve already listens elsewhere.
        RayscaleError: the application failed to start, or not in time.
    """
    if weights is not None:
        weights = _check_weights(model, Path(weights))
    schema = _schema(Path(config_path or CONFIG), host, port, model, weights)
    _prepare_proxies()
    cluster.connect()
    name = schema.applications[0].name
    address = _start(schema)
    from ray.serve.context import _get_global_client

    client = _get_global_client()
    assert client is not None
    client.deploy_apps(schema)
    deadline = time.monotonic() + timeout_s
    _await_running(name, deadline)
    _await_ready(address, deadline)
    return address


def access(address: str) -> str:
    """Who may call the service at ``address``, as it answers itself: ``open``, or ``keys: n`` (``keys: set by the
    cluster`` where they come from the environment of its nodes).

    Raises RayscaleError when keys are set here and the service is open all the same.
    """
    told = get_serve_settings().access()
    answer = httpx.get(f"{address}/v1/models", timeout=60, trust_env=False)
    if answer.status_code == 401:
        return "keys: set by the cluster" if told == "open" else told
    if told != "open":
        raise RayscaleError(
            f"API keys are set here, but {address} answers without one; stop it (`serve shutdown`) and deploy again"
        )
    return told


def shutdown() -> None:
    """Stop the service and Serve: new requests are refused, those in progress have ``RAYSCALE_SERVE_GRACE_S`` to finish.

    It takes 45 s more at most, usually 5.
    """
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    grace_s = get_serve_settings().grace_s
    for name in serve.status().applications:
        # All is stopped in any case; a service that is not well is the one that cannot be drained.
        with suppress(RayServeException, RayError, TimeoutError):
            ingress = serve.get_deployment_handle("Ingress", name)
            ingress.broadcast("drain", grace_s).results(timeout_s=grace_s + 5)
        serve.delete(name, _blocking=False)
    # Serve's own shutdown ends the proxies, and with them the connections, before the replicas have passed on their answers.
    deadline = time.monotonic() + _DELETE_S
    while serve.status().applications and time.monotonic() < deadline:
        time.sleep(0.2)
    serve.shutdown()


def _check_weights(model: str | None, path: Path) -> Path:
    """The whole path of a file that can be served: a bad one is an error here, not of every replica."""
    from rayscale.registry.opening import find_file

    find_file(model or get_serve_settings().model, path)
    return path.resolve()


def _schema(
    path: Path,
    host: str | None,
    port: int | None,
    model: str | None,
    weights: Path | None = None,
) -> Any:
    from ray.serve.schema import ServeDeploySchema

    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        schema = ServeDeploySchema.model_validate(raw)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is not a Serve configuration: {error}") from error
    if len(schema.applications) != 1:
        raise ConfigError(
            f"{path} has {len(schema.applications)} applications; exactly one is needed"
        )
    if host is not None:
        schema.http_options.host = host
    if port is None and "RAYSCALE_SERVE_PORT" in os.environ:
        port = int(os.environ["RAYSCALE_SERVE_PORT"])
    if port is not None:
        schema.http_options.port = port
    application = schema.applications[0]
    variables = dict(application.runtime_env.get("env_vars", {}))
    # On the nodes that have this checkout it is found wherever they were started; on others (images with
    # the repository as working directory) that folder does not exist and does no harm.
    root = checkout()
    if root is not None:
        path = variables.get("PYTHONPATH", "${PYTHONPATH}")
        variables["PYTHONPATH"] = f"{root / 'platform'}:{path}"
    variables.update(passed_on())
    hashes = _key_hashes(get_serve_settings())
    if hashes:
        variables["RAYSCALE_SERVE_API_KEY_HASHES"] = ",".join(hashes)
    named = get_serve_settings().named_keys()
    if named:
        variables["RAYSCALE_SERVE_KEYS"] = render_keys(named)
    variables |= _replicas(application.deployments)
    if model is not None:
        variables["RAYSCALE_SERVE_MODEL"] = model
    if weights is not None:
        variables["RAYSCALE_SERVE_WEIGHTS"] = str(weights)
    application.runtime_env = {**application.runtime_env, "env_vars": variables}
    return schema


def _replicas(deployments: list[Any]) -> dict[str, str]:
    """What the ingresses must know of how many there are of whom."""
    variables = {}
    for each in deployments:
        if each.name == "Ingress" and isinstance(each.num_replicas, int):
            variables["RAYSCALE_SERVE_INGRESSES"] = str(each.num_replicas)
        scaling = each.autoscaling_config
        if each.name == "Upscaling" and isinstance(scaling, dict):
            variables["RAYSCALE_SERVE_SLEEPS"] = str(scaling.get("min_replicas") == 0).lower()
    return variables


def _prepare_proxies() -> None:
    """Environment of a Ray that is started here: its proxies load ``front``. A cluster that is joined has its own."""
    for name, value in front.ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _key_hashes(settings: ServeSettings) -> tuple[str, ...]:
    """What replicas get to know about the API keys; ConfigError for a key that its hash would give away."""
    hashes = settings.key_hashes()
    if settings.api_key_hashes is None and settings.api_keys is not None:
        keys = [key.strip() for key in settings.api_keys.get_secret_value().split(",")]
        shortest = min(len(key) for key in keys if key)
        if shortest < _SHORTEST_KEY:
            raise ConfigError(
                f"a key of RAYSCALE_SERVE_API_KEYS has {shortest} characters; the cluster gets its hash, from which keys "
                f"below {_SHORTEST_KEY} could be guessed: make one with `openssl rand -hex 24`"
            )
    return hashes


def _start(schema: Any) -> str:
    """Start Serve where it does not run; the address on which its proxies really listen."""
    from ray import serve
    from ray.serve.context import _get_global_client

    options = schema.http_options.model_dump()
    serve.start(proxy_location=schema.proxy_location, http_options=options)
    client = _get_global_client()
    assert client is not None
    running = client.http_config
    if running.port != options["port"]:
        raise ConfigError(
            f"Ray Serve already listens on port {running.port} of this cluster, not {options['port']}; "
            "use that port, or stop it first (`serve shutdown`)"
        )
    return f"http://{_reachable(running.host)}:{running.port}"


def _reachable(host: str | None) -> str:
    """Where a proxy that listens on ``host`` is found: of several nodes, the head always has one, and this one may not."""
    import ray

    if host not in ("0.0.0.0", "::", None):
        return host
    alive = [node for node in ray.nodes() if node["Alive"]]
    heads = [node for node in alive if "node:__internal_head__" in node["Resources"]]
    return str(heads[0]["NodeManagerAddress"]) if heads and len(alive) > 1 else "127.0.0.1"


def _await_running(name: str, deadline: float) -> None:
    from ray import serve

    while True:
        application = serve.status().applications.get(name)
        state = "NOT_STARTED" if application is None else str(application.status.value)
        if state == "RUNNING":
            return
        message = "" if application is None else application.message
        if state == "DEPLOY_FAILED":
            raise RayscaleError(f"the application {name!r} failed to start: {message}")
        if time.monotonic() > deadline:
            raise RayscaleError(
                f"the application {name!r} is still {state}: {message or 'no reason'}"
            )
        time.sleep(0.2)


def _await_ready(address: str, deadline: float) -> None:
    last = "no answer"
    with httpx.Client(base_url=address, timeout=5, trust_env=False) as client:
        while time.monotonic() < deadline:
            try:
                response = client.get("/readyz")
            except httpx.TransportError as error:
                last = str(error)
            else:
                if response.status_code == 200:
                    return
                last = f"{response.status_code} {response.text}"
            time.sleep(0.2)
    raise RayscaleError(f"{address}/readyz did not become ready in time: {last}")
