"""The services of the compose file, run by Docker itself: `make image`, as root, minutes and a network.

Of other projects' images stand-ins run (``standins``), as no registry is asked.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import numpy as np
import PIL.Image
import pytest
from tests.infra import compose, engine
from tests.infra.engine import Engine

pytestmark = [pytest.mark.image, pytest.mark.timeout(3600)]

NAME = "images.example.org"
SECRET = {"S3_ACCESS_KEY": "rayscale:compose"}  # the stand-in's keys hold a colon
SMALL = "--set model.blocks=1 --set model.filters=4 --set data.patch=12 --set data.batch=2 --set optimizer.steps=20"


class Project:
    """What the README of ``infra/`` does with one machine."""

    def __init__(self, engine: Engine, file: Path) -> None:
        self.engine, self.file = engine, file
        self.variables = compose.read_env(file.with_name(".env"))
        self.services = compose.load(file, self.variables)["services"]

    def compose(self, *arguments: str) -> str:
        return self.engine.docker("compose", "--file", self.file, *arguments)

    def up(self, *options: str) -> None:
        self.compose(*options, "up", "--no-build", "--detach", "--wait", "--scale", "ray-worker=2")

    def containers(self, service: str) -> list[str]:
        return self.compose("ps", "--quiet", service).split()

    def inspect(self, container: str) -> dict[str, Any]:
        (found,) = json.loads(self.engine.docker("inspect", container))
        return dict(found)

    def submit(self, command: str) -> str:
        """As the README does, from this machine."""
        ray = Path(sys.executable).with_name("ray")
        done = subprocess.run(
            [ray, "job", "submit", "--", *command.split()],
            env={
                **os.environ,
                "RAY_AUTH_MODE": "token",
                "RAY_ADDRESS": "http://127.0.0.1:8265",
                "RAY_AUTH_TOKEN": self.variables["RAY_AUTH_TOKEN"],
            },
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    def s3(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url="http://127.0.0.1:8333",
            region_name="us-east-1",
            aws_access_key_id=self.variables["S3_ACCESS_KEY"],
            aws_secret_access_key=self.variables["S3_SECRET_KEY"],
        )

    def runs(self) -> list[str]:
        """The ids of the runs that MLflow keeps."""
        answer = httpx.post(
            "http://127.0.0.1:5000/api/2.0/mlflow/runs/search",
            auth=("rayscale", self.variables["MLFLOW_PASSWORD"]),
            json={"experiment_ids": [str(i) for i in range(8)], "max_results": 100},
        )
        answer.raise_for_status()
        return [each["info"]["run_id"] for each in answer.json().get("runs", [])]

    def nodes(self) -> int:
        """How many nodes of Ray are alive, as the head sees it."""
        said = self.compose("exec", "ray-head", "ray", "status")
        return len(re.findall(r"^ 1 node_", said, re.MULTILINE))


def wait_until(what: str, is_so: Callable[[], bool], timeout_s: float = 120) -> None:
    end = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end, f"not within {timeout_s:g} s: {what}"
        time.sleep(1)


def picture(seed: int) -> bytes:
    """A PNG of 96 x 96 pixels."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(coarse).resize((96, 96)).save(file, "png")
    return file.getvalue()


def size_of(body: bytes) -> tuple[int, int]:
    with PIL.Image.open(io.BytesIO(body)) as image:
        return image.size


@pytest.fixture(scope="module")
def project(root: Path, archives: list[Path]) -> Iterator[Project]:
    """Everything up and healthy, from a folder that has nothing but the files that the README names."""
    if engine.lacking():
        pytest.skip(engine.lacking())
    folder = Path(tempfile.mkdtemp(prefix="compose."))
    place = folder / "infra/docker"
    place.mkdir(parents=True)
    for name in ("docker/compose.yaml", "docker/create_buckets.py", "nginx/rayscale.conf"):
        target = folder / "infra" / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((root / "infra" / name).read_bytes())
    example = compose.read_env(root / "infra/docker/.env.example")
    filled = {name: value or os.urandom(24).hex() for name, value in example.items()} | SECRET
    filled["TLS_FOLDER"] = str(folder / "tls")
    (place / ".env").write_text("".join(f"{name}={value}\n" for name, value in filled.items()))
    certificate = folder / "tls/live" / NAME
    certificate.mkdir(parents=True)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={NAME}",
         "-addext", f"subjectAltName=DNS:{NAME}", "-keyout", certificate / "privkey.pem",
         "-out", certificate / "fullchain.pem"], check=True, capture_output=True,
    )  # fmt: skip
    try:
        with engine.running(folder / "engine") as running:
            project = Project(running, place / "compose.yaml")
            names = {name: project.services[name]["image"] for name in ("s3", "postgres", "proxy")}
            engine.load(running, names, archives, folder)
            try:
                project.up("--profile", "tls")
                yield project
            finally:
                project.compose("--profile", "tls", "down", "--volumes", "--timeout", "5")
    finally:
        shutil.rmtree(folder)


def test_the_engine_does_what_the_file_asks_for(project: Project) -> None:
    """Limits, rotation of logs, an init process, capabilities: in what runs, not in the file."""
    services = project.services
    seen = 0
    for name, service in services.items():
        for container in project.containers(name):
            host = project.inspect(container)["HostConfig"]
            assert host["Memory"] == compose.size(service["mem_limit"]), name
            assert host["LogConfig"]["Config"] == service["logging"]["options"], name
            assert host["Init"] is True, name
            assert host["RestartPolicy"]["Name"] == service["restart"], name
            assert host["CapDrop"] == service.get("cap_drop"), name
            seen += 1
    assert seen == 7  # two workers, and no bucket maker any more
    limit = "import ray; ray.init(); print(sum(n['Resources']['memory'] for n in ray.nodes()))"
    head = project.compose("exec", "ray-head", "python", "-c", limit).splitlines()[-1]
    assert 0 < float(head) < 3 * compose.size(project.variables["RAY_MEMORY"])
    for port, host_ip in ((8333, "127.0.0.1"), (5000, "127.0.0.1"), (8265, "127.0.0.1")):
        said = subprocess.run(
            ["ss", "-Hltn", f"sport = :{port}"], text=True, check=True, capture_output=True
        ).stdout
        assert {line.split()[3] for line in said.splitlines()} == {f"{host_ip}:{port}"}


def test_from_images_to_an_answer_of_the_service(project: Project) -> None:
    """What the demo does: prepare, train, register, upscale a bucket, serve, with and without TLS."""
    s3 = project.s3()
    for i in range(4):
        s3.put_object(Bucket="rayscale", Key=f"images/{i}.png", Body=picture(i))
    project.submit("python jobs/prepare_dataset.py s3://rayscale/images s3://rayscale/dataset")
    project.submit(f"python jobs/train_edsr.py {SMALL} --register small")
    assert len(project.runs()) >= 1
    kept = s3.list_objects_v2(Bucket="mlflow", Prefix="artifacts/")
    assert kept["KeyCount"] > 0
    places = "s3://rayscale/images s3://rayscale/larger"
    project.submit(f"python jobs/upscale_bucket.py {places} --model small/1")
    body = s3.get_object(Bucket="rayscale", Key="larger/0.png")["Body"].read()
    assert size_of(body) == (192, 192)

    deploy = 'sed "s/host: 127.0.0.1/host: 0.0.0.0/" serve/config.yaml > /tmp/serve.yaml && serve deploy /tmp/serve.yaml'
    project.compose("exec", "ray-head", "sh", "-c", deploy)
    key = project.variables["RAYSCALE_SERVE_API_KEYS"]
    prefix = project.variables["SERVE_PATH_PREFIX"]
    base = f"http://127.0.0.1:8000{prefix}"

    def ready() -> bool:
        try:
            return httpx.get(f"{base}/readyz", timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    wait_until("the service is ready", ready, 300)
    ask: Any = {"params": {"model": "bicubic", "scale": 2}, "content": picture(9), "timeout": 120}
    refused = httpx.post(f"{base}/v1/upscale", **ask)
    assert refused.status_code == 401
    known = {"Authorization": f"Bearer {key}", "Content-Type": "image/png"}
    plain = httpx.post(f"{base}/v1/upscale", headers=known, **ask)
    assert plain.status_code == 200, plain.text
    assert size_of(plain.content) == (192, 192)
    tls = httpx.Client(verify=False, headers={**known, "Host": NAME})
    assert tls.post(f"https://127.0.0.1:8443{prefix}/v1/upscale", **ask).content == plain.content


def test_a_killed_worker_comes_back(project: Project) -> None:
    """Ray's own process dies, the container with it, and the engine starts it again: the cluster is whole again."""
    assert project.nodes() == 3
    worker = project.containers("ray-worker")[0]
    kill = "import psutil; [p.kill() for p in psutil.process_iter() if p.name() == 'raylet']"
    project.engine.docker("exec", worker, "python", "-c", kill)

    def back() -> bool:
        state = project.inspect(worker)
        health: str = state["State"]["Health"]["Status"]
        return state["RestartCount"] >= 1 and health == "healthy"

    wait_until("the worker is healthy again", back, 180)
    wait_until("three nodes are alive", lambda: project.nodes() == 3)


def test_down_keeps_the_data(project: Project) -> None:
    before = project.runs()
    project.compose("--profile", "tls", "down")
    project.up()
    assert before
    assert project.runs() == before
    listed = project.s3().list_objects_v2(Bucket="rayscale", Prefix="larger/")
    assert listed["KeyCount"] >= 4
