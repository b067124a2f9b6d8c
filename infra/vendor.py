#!/usr/bin/env python3
"""Fetch the libraries of the page by npm, pinned by version and checksum, with their licences: `python infra/vendor.py`.

npm knows where its packages come from; this says only which.
"""

from __future__ import annotations

import base64
import hashlib
import io
import subprocess
import tarfile
import tempfile
from pathlib import Path

TARGET = Path(__file__).parents[1] / "platform/rayscale/serving/page/vendor"

# Name, version, integrity (as npm and its lock files write it), and file of the package to file here.
PACKAGES = [
    (
        "openseadragon",
        "5.0.1",
        "sha512-a/hjouW9i3UfWxRADVYN2MyRhXMGnE7x9VVL7/4jXCcDLFyO4UM5o4RStYtqa5BfaHw/wMNAaD2WbxQF8f1pJg==",
        {
            "build/openseadragon/openseadragon.min.js": "openseadragon.min.js",
            "LICENSE.txt": "openseadragon.LICENSE.txt",
        },
    ),
]


def fetch(name: str, version: str) -> bytes:
    """The package as its registry has it."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", "--pack-destination", folder, f"{name}@{version}"]
        subprocess.run(command, check=True)
        (package,) = Path(folder).iterdir()
        return package.read_bytes()


def main() -> None:
    for name, version, integrity, files in PACKAGES:
        data = fetch(name, version)
        found = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
        if found != integrity:
            raise SystemExit(f"{name} {version} is {found}, not {integrity}")
        with tarfile.open(fileobj=io.BytesIO(data)) as package:
            for source, target in files.items():
                member = package.extractfile(f"package/{source}")
                assert member is not None, source
                text = member.read().decode()
                # The map is not here, and browsers would ask for it.
                lines = [line for line in text.splitlines() if not line.startswith("//# source")]
                TARGET.mkdir(parents=True, exist_ok=True)
                (TARGET / target).write_text("\n".join(lines) + "\n", encoding="utf-8")
                print(TARGET / target)


if __name__ == "__main__":
    main()
