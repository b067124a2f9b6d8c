"""The Dockerfile and its context, read rather than built: there may be no container engine where the tests run."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from tests.infra import dockerfile
from tests.infra.dockerfile import Stage

IMAGE = re.compile(r"^(?:[a-z0-9_-]+/)?[a-z0-9_-]+:[A-Za-z0-9_.-]+$")


@pytest.fixture(scope="module")
def arguments(infra: Path) -> dict[str, str]:
    return dockerfile.parse(infra / "docker/Dockerfile")[0]


@pytest.fixture(scope="module")
def stages(infra: Path) -> dict[str, Stage]:
    return {stage.name: stage for stage in dockerfile.parse(infra / "docker/Dockerfile")[1]}


@pytest.fixture(scope="module")
def patterns(root: Path) -> list[str]:
    lines = (root / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_bases_are_pinned(arguments: dict[str, str], stages: dict[str, Stage]) -> None:
    for stage in stages.values():
        base = re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], stage.base)
        if base not in stages:
            assert IMAGE.match(base), base
            assert not base.endswith(":latest")
            assert re.search(r":\d+\.\d+\.\d+", base), f"{base}: a full version, please"


def test_python_is_the_one_of_the_lock(arguments: dict[str, str], root: Path) -> None:
    version = re.search(r"python:(\d+\.\d+)", arguments["PYTHON"])
    compiled = re.search(r"pip-compile with Python (\S+)", (root / "requirements.lock").read_text())
    assert version
    assert compiled
    assert version[1] == compiled[1]
    assert f">={version[1]}" in tomllib.loads((root / "pyproject.toml").read_text())["project"][
        "requires-python"
    ].replace(" ", "")


def test_default_base_and_interpreter_agree(arguments: dict[str, str]) -> None:
    assert arguments["BASE"] == arguments["PYTHON"]


def test_lock_is_installed_before_the_code(stages: dict[str, Stage]) -> None:
    """The slow layer must survive a change of the code."""
    steps = [f"{name} {rest}" for name, rest in stages["runtime"].instructions]
    lock = next(i for i, step in enumerate(steps) if "--requirement requirements.lock" in step)
    code = steps.index("COPY . .")
    package = next(i for i, step in enumerate(steps) if "--no-deps --editable ." in step)
    assert lock < code < package


def test_nothing_runs_as_root(stages: dict[str, Stage]) -> None:
    for name in ("runtime", "mlflow"):
        user = stages[name].all("USER")[-1]
        assert user == "10001:10001", name
    assert stages["rayscale"].instructions == [
        ("COPY", "--from=sbom /opt/rayscale/sbom.cdx.json ./")
    ]
    assert stages["rayscale"].base == "runtime"
    assert list(stages)[-1] == "rayscale"


def test_the_working_directory_is_the_repository(stages: dict[str, Stage]) -> None:
    assert stages["runtime"].all("WORKDIR") == ["/opt/rayscale"]
    assert stages["runtime"].all("COPY")[-1] == ". ."


def test_token_authentication_is_the_default(stages: dict[str, Stage]) -> None:
    assert "RAY_AUTH_MODE=token" in " ".join(stages["runtime"].all("ENV"))


def test_no_secret_becomes_part_of_a_layer(stages: dict[str, Stage]) -> None:
    for stage in stages.values():
        for instruction in ("ARG", "ENV"):
            for rest in stage.all(instruction):
                assert not re.search(r"(SECRET|PASSWORD|ACCESS_KEY|AUTH_TOKEN)", rest), rest
        # The only arguments are addresses of indexes, and they are empty here.
        assert all(rest.endswith("=") for rest in stage.all("ARG"))
        assert not stage.all("ADD")


def test_user_and_group_are_those_of_the_manifests(stages: dict[str, Stage], infra: Path) -> None:
    text = (infra / "kuberay/base/raycluster.yaml").read_text()
    user = stages["runtime"].all("USER")[-1].split(":")[0]
    assert re.findall(r"runAsUser: (\d+)", text) == [user]


@pytest.mark.parametrize(
    "path",
    [
        "README.md",
        "LICENSE",
        "NOTICE",
        "pyproject.toml",
        "requirements.lock",
        "requirements-hashed.lock",
        "platform/rayscale/__init__.py",
        "platform/rayscale/py.typed",
        "jobs/train_edsr.py",
        "serve/config.yaml",
    ],
)
def test_what_the_image_needs_reaches_it(root: Path, patterns: list[str], path: str) -> None:
    assert (root / path).is_file()
    assert not dockerfile.ignored(path, patterns)


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        ".rayscale/stack.env",
        ".env",
        "infra/docker/.env",
        "infra/kuberay/credentials.env",
        "jobs/.env",
        "tests/infra/test_docker.py",
        "platform/rayscale/__pycache__/errors.cpython-311.pyc",
        "notes.txt",
    ],
)
def test_what_it_must_not_carry_does_not(patterns: list[str], path: str) -> None:
    assert dockerfile.ignored(path, patterns)


def test_readme_and_commands_name_files_that_exist(root: Path, infra: Path) -> None:
    named = set()
    for file in [infra / "README.md", *infra.rglob("*.yaml"), infra / "docker/Dockerfile"]:
        named |= set(re.findall(r"(?<!/)infra/[\w./-]+[\w]", file.read_text()))
    made = {"infra/docker/.env", "infra/kuberay/credentials.env"}
    assert [path for path in sorted(named - made) if not (root / path).exists()] == []


def test_filled_secrets_are_never_committed(root: Path) -> None:
    for path in ("infra/docker/.env", "infra/kuberay/credentials.env"):
        result = subprocess.run(["git", "check-ignore", "-q", path], cwd=root, check=False)
        if result.returncode == 128:
            pytest.skip("not a git checkout")
        assert result.returncode == 0, path


def test_no_registry_is_named(infra: Path) -> None:
    """Images come from wherever the user's engine looks; an address would override that."""
    files = [infra / "docker/Dockerfile", infra / "docker/.env.example", *infra.rglob("*.yaml")]
    for file in files:
        for image in re.findall(
            r"(?:image|BASE|PYTHON|S3_IMAGE)[:=]\s*([\w./:-]+)", file.read_text()
        ):
            head, slash, _ = image.partition("/")
            assert not slash or not re.search(r"[.:]", head), f"{file.name}: {image}"
