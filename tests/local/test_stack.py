"""The local stack: it comes up, survives crashes and interruptions, and leaves no process behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import boto3
import psutil
import pytest

from rayscale import local
from rayscale.errors import ConfigError, RayscaleError
from rayscale.local import mlflow, processes, ray
from rayscale.local import stack as stacks
from rayscale.registry.client import RegistryError, asking
from rayscale.registry.client import connect as connect_mlflow
from rayscale.storage import connect

pytestmark = pytest.mark.slow

PROGRAM = """
import sys
from pathlib import Path
from rayscale import local
local.up(Path(sys.argv[1]), sys.argv[2].split(","), progress=lambda s: print(s, flush=True), fixed_ports=False)
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "home of 100%"
    yield home
    local.down(home)
    assert marked(home) == []


def marked(home: Path) -> list[psutil.Process]:
    """Every living process that was started for this home, found without the code under test."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("RAYSCALE_STACK") == str(home.resolve()):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


def run_up(home: Path, services: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(home), services],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        stdout=subprocess.PIPE,
        text=True,
    )


def up_s3(home: Path) -> local.Addresses:
    return local.up(home, services=("s3",), fixed_ports=False)


def client(home: Path) -> object:
    variables = local.environment(home)
    return boto3.session.Session().client(
        "s3",
        endpoint_url=variables["AWS_ENDPOINT_URL"],
        aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
        region_name=variables["AWS_REGION"],
    )


def test_up_again_changes_nothing_and_down_ends_all(home: Path) -> None:
    messages: list[str] = []
    addresses = local.up(home, ("s3",), messages.append, fixed_ports=False)
    [before] = local.status(home)
    assert before.running
    assert before.address == addresses.s3
    assert addresses.mlflow == addresses.ray == addresses.dashboard == ""
    buckets = client(home).list_buckets()["Buckets"]
    assert [bucket["Name"] for bucket in buckets] == ["mlflow", "rayscale"]
    assert any("ready" in message for message in messages)

    assert up_s3(home) == addresses
    assert local.status(home) == [before]
    local.down(home)
    assert marked(home) == []
    assert local.environment(home) == {}
    assert not any(service.running for service in local.status(home))
    local.down(home)  # nothing to do is fine

    assert up_s3(home) == addresses  # same port, same keys


def test_a_killed_server_is_replaced_and_keeps_its_data(home: Path) -> None:
    addresses = up_s3(home)
    client(home).put_object(Bucket="rayscale", Key="k", Body=b"kept")
    [service] = local.status(home)
    os.kill(service.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while local.status(home)[0].running and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not local.status(home)[0].running
    assert up_s3(home) == addresses
    assert client(home).get_object(Bucket="rayscale", Key="k")["Body"].read() == b"kept"


def test_what_only_its_owner_may_read(home: Path) -> None:
    addresses = up_s3(home)
    for name in ("stack.json", "stack.env", "s3/keys.json", "s3/proxy.conf"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600, name
    assert addresses.secret_key not in repr(addresses)
    assert addresses.secret_key not in (home / "stack.json").read_text()
    [service] = local.status(home)
    assert addresses.secret_key not in " ".join(psutil.Process(service.pid).cmdline())
    assert addresses.secret_key not in (home / "logs" / "s3.log").read_text()


def test_the_environment_file_is_for_a_shell(home: Path) -> None:
    up_s3(home)
    shown = subprocess.run(
        ["sh", "-c", f". '{home}/stack.env' && env"], capture_output=True, text=True, check=True
    ).stdout
    for name, value in local.environment(home).items():
        assert f"{name}={value}" in shown.splitlines()


def test_strangers_get_nothing_from_any_port(home: Path) -> None:
    """Neither the S3 port without keys nor the ports of Swift's inner servers, which know no keys."""
    up_s3(home)
    client(home).put_object(Bucket="rayscale", Key="k", Body=b"private")
    [service] = local.status(home)
    listening = [c for c in psutil.Process(service.pid).net_connections() if c.status == "LISTEN"]
    assert len(listening) == 4
    for connection in listening:
        assert connection.laddr.ip == "127.0.0.1"
        for path in ("/rayscale/k", "/recon/version", "/disk/0/AUTH_rayscale", "/v1/AUTH_rayscale"):
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(f"http://127.0.0.1:{connection.laddr.port}{path}", timeout=5)
            assert caught.value.code in {400, 401, 403, 404, 412}
            if connection.laddr.port != int(service.address.rsplit(":", 1)[1]):
                assert caught.value.code == 403


def test_two_stacks_run_side_by_side(
    home: Path, s3_server: local.Addresses, stack_home: Path
) -> None:
    other = up_s3(home)
    assert other.s3 != s3_server.s3
    assert other.secret_key != s3_server.secret_key
    local.down(home)
    assert marked(home) == []
    assert local.status(stack_home)[0].running
    assert len(marked(stack_home)) >= 1


def test_a_port_taken_meanwhile_is_left_to_its_owner(home: Path) -> None:
    first = up_s3(home)
    local.down(home)
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", int(first.s3.rsplit(":", 1)[1])))
        stranger.listen()
        second = up_s3(home)
        assert second.s3 != first.s3
        assert second.secret_key == first.secret_key


def run_command(home: Path, command: str) -> subprocess.Popen[str]:
    """``rayscale COMMAND`` as a shell with job control runs it: what runs in the background of others ignores Ctrl-C."""
    heedful = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from rayscale.cli.app import main; main()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", heedful, command],
        env={
            **os.environ,
            "RAYSCALE_HOME": str(home),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_up_leaves_no_process(home: Path, number: signal.Signals, code: int) -> None:
    program = run_command(home, "up")
    assert program.stderr is not None
    for line in program.stderr:
        if line.startswith("starting ray"):
            break
    while len(marked(home)) < 3:  # Ray's own children are being born
        assert program.poll() is None
        time.sleep(0.02)
    program.send_signal(number)
    said = program.communicate(timeout=60)[1]
    assert program.returncode == code
    assert said.splitlines()[-2:] == [
        "stopping what was started",
        "interrupted: what this command started is stopped; run it again to start it",
    ]
    assert marked(home) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_down_leaves_no_process(
    home: Path, number: signal.Signals, code: int
) -> None:
    up_s3(home)
    (server,) = marked(home)
    server.suspend()  # it ends when it is killed, seconds after it was asked to
    program = run_command(home, "down")
    try:
        while not asked_to_end(server):
            assert program.poll() is None
            time.sleep(0.02)
        program.send_signal(number)
        assert program.communicate(timeout=60)[1] == (
            "interrupted: the local stack is down all the same\n"
        )
    finally:
        program.kill()
    assert program.returncode == code
    assert marked(home) == []


def asked_to_end(process: psutil.Process) -> bool:
    """Whether SIGTERM waits for a process that is suspended."""
    (pending,) = re.findall(r"ShdPnd:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())
    return bool(int(pending, 16) & 1 << signal.SIGTERM - 1)


def test_an_interrupted_up_keeps_what_ran_before(home: Path) -> None:
    addresses = up_s3(home)
    program = run_up(home, "mlflow")
    assert program.stdout is not None
    for line in program.stdout:
        if line.startswith("starting mlflow"):
            break
    program.send_signal(signal.SIGINT)
    program.communicate(timeout=60)
    assert [service.name for service in local.status(home) if service.running] == ["s3"]
    assert up_s3(home) == addresses


def test_a_killed_up_is_cleaned_by_the_next(home: Path) -> None:
    program = run_up(home, "s3,mlflow")
    assert program.stdout is not None
    for line in program.stdout:
        if line.startswith("starting mlflow"):
            break
    program.kill()
    program.communicate(timeout=10)
    stray = {process.pid for process in marked(home)}
    assert stray
    local.down(home)
    assert marked(home) == []


def test_a_service_that_fails_shows_its_last_words(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good: Callable[..., processes.Service] = mlflow.service

    def bad(*arguments: object) -> processes.Service:
        command = [sys.executable, "-c", "raise SystemExit('the database is on fire')"]
        return replace(good(*arguments), command=command)

    monkeypatch.setattr(mlflow, "service", bad)
    with pytest.raises(RayscaleError, match="the database is on fire"):
        local.up(home, ("s3", "mlflow"), fixed_ports=False)
    assert marked(home) == []


def test_a_port_that_another_stack_took_meanwhile(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two stacks that start at once choose the same ports; each gets a server of its own all the same."""
    first = up_s3(home)
    port = int(first.s3.rsplit(":", 1)[1])
    other, messages = tmp_path / "other", []
    pick, picked = processes.pick_port, iter([port])
    monkeypatch.setattr(processes, "pick_port", lambda *a: next(picked, None) or pick(*a))
    try:
        second = local.up(other, ("s3",), messages.append, fixed_ports=False)
        assert any("was faster to one of the ports" in message for message in messages)
        assert second.s3 != first.s3
        client(other).put_object(Bucket="rayscale", Key="k", Body=b"other")
        assert "Contents" not in client(home).list_objects_v2(Bucket="rayscale")
    finally:
        local.down(other)


def test_two_commands_at_once_take_turns(home: Path) -> None:
    programs = [run_up(home, "s3") for _ in range(2)]
    outputs = [program.communicate(timeout=60)[0] for program in programs]
    assert [program.returncode for program in programs] == [0, 0]
    assert sum("starting s3" in output for output in outputs) == 1
    assert len(marked(home)) == 1


def test_an_unknown_service_is_refused(home: Path) -> None:
    with pytest.raises(ConfigError, match=r"redis.*s3, mlflow, ray"):
        local.up(home, ("redis",))
    assert not home.exists()


def test_status_and_environment_of_nothing(tmp_path: Path) -> None:
    assert local.status(tmp_path / "none") == []
    assert local.environment(tmp_path / "none") == {}
    local.down(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_the_whole_stack(
    stack: local.Addresses, stack_home: Path, checkout: Path, tmp_path: Path
) -> None:
    """S3, MLflow and Ray work together, keep to loopback, and Ray asks for its token."""
    assert [service.running for service in local.status(stack_home)] == [True, True, True]
    with urllib.request.urlopen(f"{stack.mlflow}/health", timeout=10) as answer:
        assert answer.status == 200
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{stack.dashboard}/api/jobs/", timeout=10)
    for process in marked(stack_home):
        try:
            connections = process.net_connections()
        except psutil.Error:
            continue
        for connection in connections:
            if connection.status == "LISTEN":
                ip = connection.laddr.ip.removeprefix("::ffff:")
                assert ip in {"127.0.0.1", "::1"}, (process.cmdline(), connection.laddr)

    script = tmp_path / "job.py"
    script.write_text(
        "import json, os, shutil, sys, ray\n"
        "ray.init()\n"
        "@ray.remote\n"
        "def there():\n"
        "    import rayscale\n"
        "    from rayscale.storage import connect\n"
        "    connect('s3://rayscale/jobs').write('seen', b'yes')\n"
        "    return rayscale.__file__\n"
        "print('FOUND', json.dumps([os.getcwd(), sys.executable, ray.get(there.remote())]))\n"
    )
    program = Path(sys.executable).with_name("ray")
    done = subprocess.run(
        [program, "job", "submit", "--", "python", str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = next(line for line in done.stdout.splitlines() if "FOUND" in line)
    folder, python, package = json.loads(found.split("FOUND ")[1])
    assert folder == str(checkout)
    assert Path(python).parent == Path(sys.executable).parent
    assert Path(package).is_relative_to(checkout / "platform")
    assert connect("s3://rayscale/jobs").read("seen") == b"yes"
    require_secrecy(stack_home, stack.dashboard)


def require_secrecy(home: Path, dashboard: str) -> None:
    """No secret of the stack is an argument, in a log, or in what Ray shows of jobs and their runtime environments."""
    variables = local.environment(home)
    secrets = [variables["AWS_SECRET_ACCESS_KEY"], variables["MLFLOW_TRACKING_PASSWORD"]]
    secrets.append(Path(variables["RAY_AUTH_TOKEN_PATH"]).read_text())
    assert all(len(secret) >= 32 for secret in secrets)
    texts = {f"process {process.pid}": " ".join(process.cmdline()) for process in marked(home)}
    request = urllib.request.Request(
        f"{dashboard}/api/jobs/", headers={"Authorization": f"Bearer {secrets[-1]}"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        texts["jobs"] = answer.read().decode()
    assert "entrypoint" in texts["jobs"]
    logs = [home / "logs", ray.temporary_folder(home) / "session_latest/logs"]
    files = [file for folder in logs for file in folder.rglob("*") if file.is_file()]
    assert {"mlflow.log", "raylet.out"} <= {file.name for file in files}
    texts |= {file.name: file.read_text(errors="replace") for file in files}
    assert not [name for name, text in texts.items() if any(secret in text for secret in secrets)]


def test_who_has_no_password_can_publish_nothing(
    stack: local.Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another user of the machine, who can reach MLflow on loopback."""
    with asking("publish"):
        connect_mlflow().create_registered_model("ours")
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    with pytest.raises(RegistryError, match=r"denied access .*mlflow/password"), asking("publish"):
        connect_mlflow().create_registered_model("theirs")
    with pytest.raises(RegistryError, match="denied access"), asking("read"):
        connect_mlflow().search_registered_models()


def test_a_folder_that_somebody_else_has_made_first_is_not_used(tmp_path: Path) -> None:
    """Names below a folder for all users can be guessed: a link that another one put there would lead Ray to his files."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "kept").touch()
    guessed = tmp_path / "ray"
    guessed.symlink_to(tmp_path / "theirs")
    with pytest.raises(RayscaleError, match="another user may own it"):
        stacks._own_folder(guessed)
    assert (tmp_path / "theirs" / "kept").exists()
    guessed.unlink()
    stacks._own_folder(guessed)
    assert stat.S_IMODE(guessed.stat().st_mode) == 0o700
