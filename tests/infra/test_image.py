"""The image is built for real, step by step of the Dockerfile, and tried: `make image`, minutes and a network."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest


@pytest.mark.image
@pytest.mark.timeout(3600)
def test_the_image_is_built_and_works(archives: list[Path]) -> None:
    """Its own trial runs in it: see ``infra/docker/trial.py``. The archive is what `docker load` reads."""
    with tarfile.open(archives[0]) as tar:
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
