"""The examples of docs/tutorials/team.md: nginx with that very file, the unit and the manifest."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import numpy as np
import pytest
import yaml
from tests.plugins.web import EndlessJobs, listening
from tests.serving.deployed import direct

from rayscale.imaging import Image, read_image, write_image
from rayscale.serving.api import create_app
from rayscale.serving.engine import Engine
from rayscale.serving.settings import ServeSettings

NAME = "images.example.org"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("proxy")


@pytest.fixture(scope="module")
def address(place: Path) -> Iterator[str]:
    """The service itself, without a proxy."""
    settings = ServeSettings(
        path_prefix="/rayscale",
        batches_uri=str(place / "records"),
        batch_prefixes=str(place),
    )
    engine = Engine(settings)
    engine.start()
    with listening(create_app(engine, settings, jobs=EndlessJobs())) as address:
        yield address
    engine.close()


def configure(checkout: Path, place: Path, port: int, upstream: str) -> Path:
    """nginx.conf around the file of the repository, whose addresses and certificate are those of this test."""
    text = (checkout / "infra/nginx/rayscale.conf").read_text()
    for old, new in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("server 127.0.0.1:8000", f"server {upstream}"),
        (f"/etc/letsencrypt/live/{NAME}/fullchain.pem", f"{place}/cert.pem"),
        (f"/etc/letsencrypt/live/{NAME}/privkey.pem", f"{place}/key.pem"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (place / "rayscale.conf").write_text(text)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = "\n".join(f"  {kind}_temp_path {place}/{kind};" for kind in kinds)
    (place / "nginx.conf").write_text(
        f"daemon off;\npid {place}/nginx.pid;\nerror_log {place}/error.log;\nevents {{}}\n"
        f"http {{\n  access_log off;\n{folders}\n  include {place}/rayscale.conf;\n}}\n"
    )
    return place / "nginx.conf"


@pytest.fixture(scope="module")
def proxy(checkout: Path, place: Path, address: str) -> Iterator[str]:
    """``host:port`` of nginx in front of the service."""
    if NGINX is None or shutil.which("openssl") is None:
        pytest.skip("nginx and openssl are not installed")
    make = [
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={NAME}",
        "-addext", f"subjectAltName=DNS:{NAME}", "-keyout", place / "key.pem", "-out", place / "cert.pem",
    ]  # fmt: skip
    subprocess.run(make, check=True, capture_output=True)
    place.chmod(0o755)  # nginx's workers are somebody else where it was started by root
    port = free_port()
    command = [NGINX, "-e", f"{place}/error.log", "-c", str(configure(checkout, place, port, address))]  # fmt: skip
    checked = subprocess.run([*command, "-t"], check=False, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    running = subprocess.Popen(command)
    try:
        while True:
            assert running.poll() is None, (place / "error.log").read_text()
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        running.terminate()
        running.wait(20)


@pytest.fixture
def http(proxy: str, place: Path) -> Iterator[httpx.Client]:
    """A client that trusts the certificate and asks for the service by its name."""
    context = ssl.create_default_context(cafile=str(place / "cert.pem"))
    host, _, port = proxy.partition(":")

    class Local(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            request.extensions["sni_hostname"] = NAME
            request.url = request.url.copy_with(host=host, port=int(port))
            return super().handle_request(request)

    with httpx.Client(
        base_url=f"https://{NAME}/rayscale", transport=Local(verify=context), timeout=60
    ) as client:
        yield client


def test_an_image_and_the_page_pass_under_the_path(http: httpx.Client) -> None:
    image = Image(np.arange(12 * 10 * 3, dtype=np.uint8).reshape(12, 10, 3))
    data = write_image(image)
    answer = http.post("/v1/upscale?scale=2", content=data)
    assert answer.status_code == 200, answer.text
    expected = read_image(direct(None, data, None)).pixels
    np.testing.assert_array_equal(read_image(answer.content).pixels, expected)
    for path in ("/", "/docs", "/openapi.json", "/readyz"):
        assert http.get(path).status_code == 200
    assert http.get("/openapi.json").json()["servers"][0]["url"] == "/rayscale"


def test_a_body_over_the_limit_never_reaches_the_service(proxy: str, place: Path) -> None:
    context = ssl.create_default_context(cafile=str(place / "cert.pem"))
    host, _, port = proxy.partition(":")
    head = f"POST /rayscale/v1/upscale HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 70000000\r\n\r\n"
    with (
        socket.create_connection((host, int(port)), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname=NAME) as line,
    ):
        line.sendall(head.encode())  # and nothing of the body
        answer = line.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 413")
    assert '"code": "too_large"' in answer


def test_events_pass_as_they_come(http: httpx.Client, place: Path) -> None:
    asked = {"source": f"{place}/in", "target": f"{place}/out", "model": "bicubic"}
    batch = http.post("/v1/batches", json=asked).json()["id"]
    headers = {"Accept": "text/event-stream"}
    with http.stream("GET", f"/v1/batches/{batch}", headers=headers) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "event: progress"  # a proxy that waits for more would wait forever
        assert http.delete(f"/v1/batches/{batch}").json()["state"] == "cancelled"
        assert "event: end" in list(lines)


def test_a_service_that_is_gone_is_told_in_its_own_form(
    checkout: Path, place: Path, proxy: str, http: httpx.Client
) -> None:
    configure(checkout, place, int(proxy.partition(":")[2]), f"127.0.0.1:{free_port()}")
    command = [str(NGINX), "-e", f"{place}/error.log", "-c", f"{place}/nginx.conf", "-s", "reload"]
    subprocess.run(command, check=True, capture_output=True)
    for _ in range(200):  # until the workers of the old file are gone
        answer = http.get("/readyz", headers={"Connection": "close"})
        if answer.status_code != 200:
            break
        time.sleep(0.05)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["error"]["code"] == "unavailable"


def test_the_unit_is_one(checkout: Path, tmp_path: Path) -> None:
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd is not installed")
    text = (checkout / "infra/systemd/rayscale.service").read_text()
    command = "/opt/rayscale/bin/rayscale"
    assert f"ExecStart={command} serve" in text
    unit = tmp_path / "rayscale.service"
    unit.write_text(text.replace(command, str(shutil.which("true"))))
    told = subprocess.run(
        [verify, "verify", "--man=no", unit], check=False, capture_output=True, text=True
    )
    problems = [line for line in told.stderr.splitlines() if unit.name in line]
    assert not problems
    assert "KillMode=mixed" in text  # or Ray would end with it, before the last answer


def test_the_ingress_is_one(checkout: Path) -> None:
    manifest: dict[str, Any] = yaml.safe_load((checkout / "infra/kuberay/ingress.yaml").read_text())
    kubernetes_validate.validate(manifest, "1.31", strict=True)
    rule = manifest["spec"]["rules"][0]["http"]["paths"][0]
    assert rule["backend"]["service"]["name"] == "rayscale-serve-serve-svc"
