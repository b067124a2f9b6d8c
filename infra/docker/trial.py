"""What must work in a new image: what ``infra/docker/build`` runs in it, in a network of its own."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

JOB = "import ray, rayscale; ray.init(); print('task', ray.get(ray.remote(lambda: rayscale.__version__).remote()))"


def run(*command: str) -> str:
    """The output of a command, which must succeed."""
    print("$", *command[:6], flush=True)
    done = subprocess.run(
        command, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode != 0:
        sys.exit(done.stdout + f"{command[0]} ended with {done.returncode}")
    return done.stdout.strip()


def main() -> None:
    """Exits with what went wrong."""
    assert os.getuid() == os.getgid() == 10001
    version = run("rayscale", "--version")
    print(version)
    print(run("pip", "check"))
    parts = json.loads(Path("sbom.cdx.json").read_text())
    assert parts["bomFormat"] == "CycloneDX"
    assert "torch" in {part["name"] for part in parts["components"]}
    print("CycloneDX", parts["specVersion"], len(parts["components"]), "components")
    picture = Path.home() / "picture.png"
    make = f"from PIL import Image; Image.new('RGB', (32, 24)).save('{picture}')"
    run("python", "-c", make)
    run("rayscale", "upscale", str(picture), str(picture.with_name("larger.png")))
    run("python", "-c", "import mlflow.server.fastapi_app, rayscale.local.login")

    refused = subprocess.run(
        ["ray", "start", "--head"], check=False, capture_output=True, text=True, timeout=60
    )
    assert refused.returncode != 0, "a head started without a token"
    os.environ |= {"RAY_AUTH_TOKEN": secrets.token_hex(24)}
    head = ("--head", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--num-cpus=1")
    run("ray", "start", *head, "--object-store-memory=100000000", "--disable-usage-stats")
    submit = ("ray", "job", "submit", "--address=http://127.0.0.1:8265", "--")
    said = run(*submit, "python", "-c", JOB)
    assert f"task {version.split()[-1]}" in said, said
    print("a Ray head ran a job")


if __name__ == "__main__":
    main()
