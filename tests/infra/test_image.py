"""The image is built for real, step by step of the Dockerfile, and tried: `make image`, minutes and a network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

NEEDED = ("buildah", "mmdebstrap", "unshare", "ip")


def lacking() -> str:
    """Why no image can be built here, or nothing."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        return f"no {', '.join(missing)} (apt-get install buildah iproute2 mmdebstrap)"
    return "" if os.geteuid() == 0 else "base images are made as root"


@pytest.mark.image
@pytest.mark.timeout(3600)
@pytest.mark.skipif(bool(lacking()), reason=lacking() or "can be built")
def test_the_image_is_built_and_works(infra: Path, tmp_path: Path) -> None:
    """Its own trial runs in it: see ``infra/docker/trial.py``. The archive is what `docker load` reads."""
    archive = tmp_path / "image.tar"
    done = subprocess.run(
        [infra / "docker/build", archive],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stdout
    with tarfile.open(archive) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        (image,) = json.load(manifest)
        stored = tar.extractfile(image["Config"])
        assert stored is not None
        config = json.load(stored)["config"]
    assert config["User"] == "10001:10001"
    assert config["WorkingDir"] == "/opt/rayscale"
    assert "RAY_AUTH_MODE=token" in config["Env"]
    # What the build got from this machine is in no variable.
    assert not [each for each in config["Env"] if each.startswith(("PIP_", "HTTP"))]
