"""A signed list of the weights that may be used, for machines that must trust no place that weights come from.

The list has the form of ``sha256sum``; beside it, with ``.sig`` at the end, lies its Ed25519 signature (RFC 8032). Whoever
can change weights, model cards and registry cannot change what it says, as the private key is on none of these machines.
"""

from __future__ import annotations

import re
from pathlib import Path

from rayscale.errors import ConfigError, InputError
from rayscale.settings import get_settings

_LINE = re.compile(r"([0-9a-f]{64}) [ *]\S.*")


def require_signed(digest: str) -> None:
    """Raise InputError unless the signed list names the sha256 ``digest``; ConfigError where the list cannot be trusted.

    Without ``RAYSCALE_SIGNED_WEIGHTS`` and ``RAYSCALE_WEIGHTS_SIGNER`` all weights may be used. The list is read each time:
    one that is replaced holds from then on.
    """
    settings = get_settings()
    place, signer = settings.signed_weights, settings.weights_signer
    if place is None and signer is None:
        return
    if place is None or signer is None:
        raise ConfigError(
            "RAYSCALE_SIGNED_WEIGHTS and RAYSCALE_WEIGHTS_SIGNER belong together; set both, or neither"
        )
    if digest not in read_list(place, signer):
        raise InputError(
            f"the signed list {place} does not name these weights; they were changed or never approved: if they are "
            "right, add them and sign the list again"
        )


def read_list(place: Path, signer: Path) -> frozenset[str]:
    """The digests that a list names, whose signature was made by the key of ``signer`` (a public key in PEM)."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    signature = place.with_name(f"{place.name}.sig")
    try:
        content, proof, pem = (path.read_bytes() for path in (place, signature, signer))
    except OSError as error:
        raise ConfigError(
            f"weights cannot be checked: {error.filename}: {error.strerror}"
        ) from None
    try:
        key = load_pem_public_key(pem)
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{signer} is not an Ed25519 public key in PEM")
    try:
        key.verify(proof, content)
    except InvalidSignature:
        raise ConfigError(
            f"{signature} is not a signature of {place} by the key of {signer}; the list was changed, or sign it again"
        ) from None
    lines = [line for line in content.decode(errors="replace").splitlines() if line.strip()]
    found = [_LINE.fullmatch(line) for line in lines]
    for line, match in zip(lines, found, strict=True):
        if match is None:
            raise ConfigError(f"{place} has a line that is not one of sha256sum: {line[:80]!r}")
    return frozenset(match[1] for match in found if match)
