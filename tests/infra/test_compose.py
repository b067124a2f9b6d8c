"""The compose file: valid, closed to the outside, started in order, without a secret of its own."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
import yaml
from botocore.exceptions import EndpointConnectionError
from tests.infra import compose, dockerfile

from rayscale.local import login

SECRETS = {
    "MLFLOW_PASSWORD",
    "RAYSCALE_SERVE_API_KEYS",
    "S3_ACCESS_KEY",
    "S3_SECRET_KEY",
    "RAY_AUTH_TOKEN",
    "POSTGRES_PASSWORD",
}
FILLED = {name: f"value-of-{name}" for name in SECRETS}


@pytest.fixture(scope="module")
def project(infra: Path) -> dict[str, Any]:
    return compose.load(infra / "docker/compose.yaml", FILLED)


def test_fits_the_schema(project: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(compose.SCHEMA)
    errors = jsonschema.Draft202012Validator(compose.SCHEMA).iter_errors(project)
    assert [f"{error.json_path}: {error.message[:200]}" for error in errors] == []


@pytest.mark.parametrize("key", ["enviroment", "depend_on", "health_check"])
def test_a_mistyped_key_does_not_pass(project: dict[str, Any], key: str) -> None:
    broken = {**project, "services": {"s3": {**project["services"]["s3"], key: {}}}}
    assert list(jsonschema.Draft202012Validator(compose.SCHEMA).iter_errors(broken))


@pytest.mark.parametrize("missing", sorted(SECRETS))
def test_a_secret_left_empty_stops_it(infra: Path, missing: str) -> None:
    with pytest.raises(KeyError, match=missing):
        compose.load(infra / "docker/compose.yaml", {**FILLED, missing: ""})


def test_example_names_every_variable_and_no_secret(infra: Path) -> None:
    example = compose.read_env(infra / "docker/.env.example")
    used = {
        match[1]
        for match in compose.REFERENCE.finditer((infra / "docker/compose.yaml").read_text())
    }
    assert set(example) == used
    assert {name for name, value in example.items() if not value} == SECRETS


def test_the_command_of_the_readme_fills_the_secrets(infra: Path, tmp_path: Path) -> None:
    """The README's loop, run as it stands on copies of the files it names."""
    readme = (infra / "README.md").read_text()
    (command,) = (
        block
        for block in re.findall(r"```bash\n(.*?)```", readme, re.DOTALL)
        if ".env.example" in block and "rand" in block
    )
    folder = tmp_path / "infra/docker"
    folder.mkdir(parents=True)
    (folder / ".env.example").write_text((infra / "docker/.env.example").read_text())
    subprocess.run(["bash", "-euc", command], cwd=tmp_path, check=True, capture_output=True)
    filled = compose.read_env(folder / ".env")
    values = [filled[name] for name in SECRETS]
    assert all(re.fullmatch(r"[0-9a-f]{32,}", value) for value in values)
    assert len(set(values)) == len(values)
    assert (folder / ".env").stat().st_mode & 0o077 == 0
    assert compose.load(infra / "docker/compose.yaml", filled)["services"]


def test_ports_are_bound_to_the_loopback(project: dict[str, Any]) -> None:
    published = [
        port for service in project["services"].values() for port in service.get("ports", [])
    ]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    hosts = [port.split(":")[1] for port in published]
    assert len(set(hosts)) == len(hosts)


def test_dependencies_can_be_met(project: dict[str, Any]) -> None:
    services = project["services"]
    for name, service in services.items():
        for other, dependency in service.get("depends_on", {}).items():
            if dependency["condition"] == "service_healthy":
                assert "healthcheck" in services[other], f"{name} waits for {other}"
            else:
                assert services[other]["restart"] == "no", f"{name} waits for {other} to end"


def test_services_that_stay_are_watched(project: dict[str, Any]) -> None:
    for name, service in project["services"].items():
        assert "no-new-privileges:true" in service["security_opt"], name
        assert service["restart"] == "no" or "healthcheck" in service, name


def test_no_service_takes_all_memory_or_the_disk_for_its_log(project: dict[str, Any]) -> None:
    for name, service in project["services"].items():
        assert service["mem_limit"], name
        assert set(service["logging"]["options"]) == {"max-size", "max-file"}, name


def test_volumes_are_declared_or_files_of_the_repository(
    project: dict[str, Any], infra: Path
) -> None:
    for service in project["services"].values():
        for volume in service.get("volumes", []):
            source, _, mode = volume.partition(":")
            if source.startswith("."):
                assert (infra / "docker" / source).is_file()
                assert mode.endswith(":ro")
            elif source.startswith("/"):  # of the machine, such as certificates
                assert mode.endswith(":ro")
            else:
                assert source in project["volumes"]


def test_ray_demands_the_token(project: dict[str, Any]) -> None:
    ray = {n: s for n, s in project["services"].items() if s.get("command", [""])[0] == "ray"}
    assert set(ray) == {"ray-head", "ray-worker"}
    for service in ray.values():
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert service["environment"]["RAY_AUTH_TOKEN"] == FILLED["RAY_AUTH_TOKEN"]
        assert service["shm_size"]


def test_secrets_are_not_arguments(project: dict[str, Any]) -> None:
    for service in project["services"].values():
        line = " ".join(service.get("command", [])) + str(service.get("healthcheck", ""))
        assert not any(value in line for value in FILLED.values())


def test_images_are_pinned_and_built_from_stages_that_exist(
    project: dict[str, Any], infra: Path
) -> None:
    _, stages = dockerfile.parse(infra / "docker/Dockerfile")
    built = {}
    for name, service in project["services"].items():
        _, _, tag = service["image"].partition(":")
        assert tag, name
        assert tag != "latest", name
        if "build" in service:
            assert service["build"]["target"] in {stage.name for stage in stages}
            assert (infra / "docker" / service["build"]["context"]).resolve() == infra.parent
            built[service["image"]] = service["build"]["target"]
    assert built == {"rayscale:0.1.0": "rayscale", "rayscale-mlflow:0.1.0": "mlflow"}


def test_mlflow_accepts_the_names_it_is_called_by(project: dict[str, Any]) -> None:
    hosts = project["services"]["mlflow"]["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    address = project["services"]["ray-head"]["environment"]["MLFLOW_TRACKING_URI"]
    assert address.removeprefix("http://") in hosts
    (port,) = project["services"]["mlflow"]["ports"]
    assert port.rpartition(":")[0] in hosts


def test_the_proxy_is_there_when_it_is_asked_for_and_finds_the_service(
    project: dict[str, Any], infra: Path
) -> None:
    """The file says 127.0.0.1:8000 and /rayscale/; ``test_proxy`` runs it."""
    proxy = project["services"]["proxy"]
    assert proxy["profiles"] == ["tls"]
    assert proxy["network_mode"] == "service:ray-head"
    (file,) = (volume for volume in proxy["volumes"] if "nginx" in volume)
    text = (infra / "docker" / file.partition(":")[0]).resolve().read_text()
    assert "server 127.0.0.1:8000;" in text
    prefix = compose.read_env(infra / "docker/.env.example")["SERVE_PATH_PREFIX"]
    assert f"location {prefix}/ {{" in text
    assert "127.0.0.1:8443:443" in project["services"]["ray-head"]["ports"]


def test_mlflow_asks_for_the_password_that_its_clients_have(project: dict[str, Any]) -> None:
    server = project["services"]["mlflow"]
    assert server["command"][-1] == f"{login.__name__}:{login.create.__name__}"
    assert server["environment"][login.ARTIFACTS] == "s3://mlflow/artifacts"
    clients = project["services"]["ray-head"]["environment"]
    assert clients["MLFLOW_TRACKING_USERNAME"] == login.USER
    for each in (server["environment"], clients):
        assert each["MLFLOW_TRACKING_PASSWORD"] == FILLED["MLFLOW_PASSWORD"]


def load_script(infra: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "create_buckets", infra / "docker/create_buckets.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_buckets_are_made_once(infra: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3
    from moto import mock_aws

    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    script = load_script(infra)
    with mock_aws():
        for _ in range(2):
            script.create("rayscale")
            script.create("mlflow")
        buckets = boto3.client("s3").list_buckets()["Buckets"]
    assert sorted(bucket["Name"] for bucket in buckets) == ["mlflow", "rayscale"]


def test_a_server_that_never_comes_is_an_error(
    infra: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(EndpointConnectionError):
        load_script(infra).create("rayscale", patience_s=0.0)


def test_compose_and_kubernetes_agree(project: dict[str, Any], infra: Path) -> None:
    """The same addresses and regions under the same variables, so that a job moves between them unchanged."""
    config = yaml.safe_load((infra / "kuberay/base/environment.yaml").read_text())["data"]
    environment = project["services"]["ray-head"]["environment"]
    assert set(environment) - set(config) == {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_USERNAME",
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN",
        "RAYSCALE_SERVE_API_KEYS",
        "RAYSCALE_SERVE_PATH_PREFIX",
    }
