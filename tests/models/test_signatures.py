"""The signed list of weights, made by the commands of the manual: sha256sum and openssl."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rayscale.errors import ConfigError
from rayscale.models.builtin import BUNDLED, open_builtin
from rayscale.models.weights import WeightsError, read_weights
from rayscale.settings import get_settings

NAME = "aplus-x2"

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


@pytest.fixture
def sign(checkout: Path, tmp_path: Path) -> Callable[[], None]:
    """What the manual says under "Only signed weights", run where ``models/`` holds the weights."""
    page = (checkout / "docs/operations.md").read_text()
    (commands,) = (
        block
        for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
        if "openssl pkeyutl" in block
    )
    make, _, sign = commands.partition("\n\n")
    subprocess.run(["sh", "-euc", make], cwd=tmp_path, check=True)

    def run() -> None:
        subprocess.run(["sh", "-euc", sign], cwd=tmp_path, check=True)

    return run


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of bundled weights; the settings name the list and the key, which are not there yet."""
    (tmp_path / "models").mkdir()
    copy = tmp_path / "models" / f"{NAME}.safetensors"
    shutil.copyfile(BUNDLED / copy.name, copy)
    monkeypatch.setenv("RAYSCALE_SIGNED_WEIGHTS", str(tmp_path / "weights.sha256"))
    monkeypatch.setenv("RAYSCALE_WEIGHTS_SIGNER", str(tmp_path / "signer.pem"))
    get_settings.cache_clear()
    yield copy
    get_settings.cache_clear()


def test_what_is_signed_is_used_and_a_changed_byte_is_not(
    weights: Path, sign: Callable[[], None]
) -> None:
    sign()
    assert read_weights(weights).sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert open_builtin(NAME).digest == read_weights(weights).sha256  # the same bytes elsewhere
    with pytest.raises(WeightsError, match=r"signed list .*weights\.sha256 does not name these"):
        open_builtin("edsr-baseline-x2")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(WeightsError, match="does not name these weights"):
        read_weights(weights)
    sign()  # a new list holds at once
    assert read_weights(weights).model.spec.scales


def test_what_needs_no_weights_needs_no_list(weights: Path) -> None:
    assert open_builtin("bicubic").digest == "built-in:bicubic"


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("weights.sha256", lambda data: data.replace(b"0", b"1", 1), "is not a signature of"),
        (
            "weights.sha256.sig",
            lambda data: data[:-1] + bytes([data[-1] ^ 1]),
            "is not a signature",
        ),
        ("weights.sha256.sig", lambda data: b"", "is not a signature"),
        ("signer.pem", lambda data: b"-----BEGIN", "is not an Ed25519 public key"),
        ("weights.sha256.sig", None, r"weights\.sha256\.sig: No such file"),
        ("weights.sha256", None, r"weights\.sha256: No such file"),
    ],
)
def test_a_list_that_cannot_be_trusted_lets_nothing_in(
    weights: Path,
    sign: Callable[[], None],
    file: str,
    change: Callable[[bytes], bytes] | None,
    message: str,
) -> None:
    sign()
    path = weights.parents[1] / file
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ConfigError, match=message):
        read_weights(weights)


def test_the_key_of_another_signer_is_refused(
    weights: Path, sign: Callable[[], None], tmp_path: Path
) -> None:
    sign()
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", "x.pem"], cwd=tmp_path, check=True)  # fmt: skip
    public = ["openssl", "pkey", "-in", "x.pem", "-pubout", "-out", "signer.pem"]
    subprocess.run(public, cwd=tmp_path, check=True)
    with pytest.raises(ConfigError, match="is not a signature"):
        read_weights(weights)


def test_a_list_without_its_signer_is_a_mistake(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAYSCALE_WEIGHTS_SIGNER")
    get_settings.cache_clear()
    with pytest.raises(ConfigError, match="belong together"):
        read_weights(weights)
