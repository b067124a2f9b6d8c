"""``rayscale doctor``: each check finds what is wrong, says what to do, and leaves nothing behind."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.plugins.stack import Bucket

from rayscale import local
from rayscale.cli import run
from rayscale.errors import StorageError
from rayscale.operations import doctor
from rayscale.operations.facts import gather
from rayscale.operations.findings import Finding
from rayscale.operations.rights import judge_clock, try_rights
from rayscale.storage import connect
from rayscale.storage.local import LocalStore


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return gather()


def states(findings: Any) -> dict[str, str]:
    return {each.check: each.state for each in findings}


def only(findings: Any, state: str) -> Finding:
    (found,) = (each for each in findings if each.state == state)
    assert found.advice
    return found


def test_a_node_like_this_one_is_sound(facts: dict[str, Any]) -> None:
    found = list(doctor.judge_node("10.0.0.2", facts, 0.0, facts))
    assert states(found[:2]) == {"versions: 10.0.0.2": "ok", "clock: 10.0.0.2": "ok"}


@pytest.mark.parametrize(
    ("package", "state"), [("ray", "failed"), ("python", "failed"), ("boto3", "warning")]
)
def test_other_versions_are_named(facts: dict[str, Any], package: str, state: str) -> None:
    other = copy.deepcopy(facts)
    other["versions"][package] = "0.0.1"
    found = next(doctor.judge_node("b", other, 0.0, facts))
    assert (found.state, found.found) == (
        state,
        f"{package} 0.0.1 (here {facts['versions'][package]})",
    )


def test_a_node_that_cannot_tell_is_a_failure(facts: dict[str, Any]) -> None:
    (found,) = doctor.judge_node("b", "No module named 'rayscale'", 0.0, facts)
    assert (found.state, found.found) == ("failed", "No module named 'rayscale'")


@pytest.mark.parametrize(
    ("apart", "state"), [(0, "ok"), (4, "ok"), (6, "warning"), (900, "failed")]
)
def test_clocks(apart: float, state: str) -> None:
    assert judge_clock("clock", apart).state == state


def test_what_a_machine_lacks(facts: dict[str, Any]) -> None:
    poor = copy.deepcopy(facts)
    disk = {"path": "/c", "free": 1 << 20, "total": 1 << 40, "writable": True}
    shm = {"path": "/dev/shm", "free": 64 << 20, "total": 64 << 20, "writable": True}
    poor |= {"names": {"minio": "Name or service not known"}, "open_files": 1024, "memory": 1 << 30}
    poor |= {"gpus": [], "driver": True, "disks": {"cache": disk, "shared memory": shm}}
    found = states(doctor.check_machine(poor, "b"))
    assert found == {
        "names: b": "failed",
        "disk: b: cache": "failed",
        "disk: b: shared memory": "warning",
        "open files: b": "warning",
        "memory: b": "warning",
        "GPU: b": "failed",
    }


def test_a_token_that_others_can_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    token.chmod(0o644)
    assert f"chmod 600 {token}" in only(doctor.check_token(), "warning").advice
    token.chmod(0o600)
    assert [each.state for each in doctor.check_token()] == ["ok"]
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "gone"))
    assert "cannot be read" in only(doctor.check_token(), "failed").found
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert "runs code" in only(doctor.check_token(), "warning").advice


def test_servers_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert "127.0.0.1:9" in only(doctor.check_storage("s3://bucket/x"), "failed").found
    assert "MLFLOW_TRACKING_URI" in only(doctor.check_mlflow(), "failed").advice
    assert [each.state for each in doctor.check_storage(None)] == ["skipped"]


def test_a_folder_allows_all_and_keeps_nothing(tmp_path: Path) -> None:
    found = try_rights(connect(tmp_path))
    assert {each.state for each in found} == {"ok"}
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


class Careless(LocalStore):
    """A server that takes every write, whatever its condition."""

    def write(self, key: str, data: bytes, **_: Any) -> str | None:
        return super().write(key, data)


class ReadOnly(LocalStore):
    def write(self, key: str, data: bytes, **_: Any) -> str | None:
        raise StorageError("s3 denies access")


def test_a_server_that_ignores_conditions_is_found(tmp_path: Path) -> None:
    found = try_rights(Careless(tmp_path))
    failed = [each for each in found if each.state == "failed"]
    assert [each.check for each in failed] == ["storage: create only", "storage: replace only"]
    assert all("two drivers" in each.advice for each in failed)


def test_a_right_that_is_missing_keeps_the_others_from_nothing(tmp_path: Path) -> None:
    found = states(try_rights(ReadOnly(tmp_path)))
    assert found["storage: write"] == "failed"
    assert found["storage: list"] == found["storage: delete"] == "ok"


def test_the_command_tells_in_json_and_by_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    code = run("doctor", str(tmp_path), "--json")
    told = json.loads(capsys.readouterr().out)
    assert code == (0 if told["healthy"] else 1)
    assert {each["check"]: each["state"] for each in told["findings"]}["storage: read"] == "ok"
    assert told["nodes"][0]["versions"]["rayscale"]


def test_a_real_server_is_tried_and_left_as_it_was(s3: Bucket) -> None:
    store = connect(f"{s3.uri}/place")
    found = try_rights(store)
    assert not [each for each in found if each.state == "failed"], found
    assert {"storage: write in parts", "clock: storage"} <= set(states(found))
    assert list(store.list()) == []
    assert list(store.list_unfinished()) == []
    denied = try_rights(connect("s3://no-such-bucket/x"))
    assert states(denied) == {"storage: list": "failed"}


def test_a_whole_stack_is_examined(stack: local.Addresses) -> None:
    examination = doctor.examine("s3://rayscale/doctor")
    found = {each.check: each for each in examination.findings}
    assert examination.healthy, [each for each in examination.findings if each.state == "failed"]
    assert found["MLflow"].state == found["cluster"].state == found["Ray token"].state == "ok"
    assert len(examination.nodes) == 2  # this machine, and the one node
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    assert secret not in json.dumps(examination.to_dict())
