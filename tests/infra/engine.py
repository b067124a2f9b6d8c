"""A Docker Engine of the test's own, with the images that the compose file names."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("docker", "dockerd", "docker-init", "mmdebstrap")
STANDINS = Path(__file__).parent / "standins"
_PACKAGES = "ca-certificates,curl,nginx-light,postgresql"


def lacking() -> str:
    """Why no engine can run here, or nothing."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"no {', '.join(missing)} (apt-get install docker.io mmdebstrap tini)"
    found = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    return "no Docker Compose 2 as a plugin of docker" if found.returncode else ""


class Engine:
    """Docker, by the socket of one engine."""

    def __init__(self, socket: Path) -> None:
        self._host = f"unix://{socket}"

    def docker(self, *arguments: str | Path, text: str | None = None) -> str:
        """The output of a docker command, which must succeed."""
        done = subprocess.run(
            ["docker", "--host", self._host, *map(str, arguments)],
            input=text, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"docker {' '.join(map(str, arguments))}\n{done.stdout}"
        return done.stdout.strip()


@contextmanager
def running(folder: Path) -> Iterator[Engine]:
    """An engine whose images, containers and volumes lie in ``folder`` and are gone at the end."""
    folder.mkdir()
    socket = folder / "docker.sock"
    command = ["dockerd", "--host", f"unix://{socket}", "--pidfile", folder / "pid"]
    command += ["--data-root", folder / "data", "--exec-root", folder / "exec"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log)
    try:
        end = time.monotonic() + 60
        while not socket.exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.2)
        assert socket.exists(), (folder / "log").read_text()[-3000:]
        yield Engine(socket)
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def load(engine: Engine, names: dict[str, str], archives: list[Path], folder: Path) -> None:
    """Load the archives of our images, and make those of other projects: ``names`` are theirs by service."""
    for archive in archives:
        engine.docker("load", "--quiet", "--input", archive)
    tree = folder / "debian.tar"
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=apt", f"--include={_PACKAGES}", "bookworm", str(tree)],
        check=True,
    )
    engine.docker("import", tree, "standin:debian")
    tree.unlink()
    files = {
        "s3": "FROM rayscale:0.1.0\nUSER root\nCOPY s3.py /\nENTRYPOINT [\"python\", \"/s3.py\"]\n",
        "postgres": "FROM standin:debian\nCOPY postgres.sh /\nENTRYPOINT [\"sh\", \"/postgres.sh\"]\n",
        "proxy": "FROM standin:debian\nRUN rm -f /etc/nginx/sites-enabled/default\n"
        "CMD [\"nginx\", \"-g\", \"daemon off;\"]\n",
    }  # fmt: skip
    for service, text in files.items():
        engine.docker("build", "--tag", names[service], "--file", "-", STANDINS, text=text)
