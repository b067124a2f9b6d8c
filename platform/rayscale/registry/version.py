"""A published model: what the registry keeps of it, read back from the tags of its version."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rayscale import strictjson
from rayscale.errors import InputError, UnsupportedError
from rayscale.models.spec import SPEC_KEY
from rayscale.registry.flavor import FILES, WEIGHTS

if TYPE_CHECKING:
    from rayscale.models.spec import ModelSpec

SCORES = "rayscale.scores"
"""The tag of a version with the figures of its benchmarks, as JSON."""

FORMAT = "1"
"""Of what the tags of a version say; versions without a number are of format 1."""

FORMAT_KEY = "rayscale.format"

FILE_KEY, SCALE_KEY = "rayscale.file", "rayscale.scale"
"""Tags of exported models alone: the name of the file, and its only scale."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ModelVersion:
    """One published model.

    Attributes:
        digest: sha256 of the weights file, hexadecimal.
        file: its name in the folder, which tells what it is: weights, or a network for another library.
        scale: the only one, of a network for another library; None for weights, whose specification tells.
        scores: benchmark name to ``{"protocol", "scale", "psnr", "ssim", ...}``.
        dataset_digest: the digest in the manifest of the training data, if known.
        run_id: the MLflow run that holds the files.
        uri: the folder of the files in MLflow's artifact store.
        created: milliseconds since 1970, as the registry says.
    """

    name: str
    version: int
    digest: str
    spec: ModelSpec
    uri: str
    aliases: tuple[str, ...] = ()
    scores: Mapping[str, Any] | None = None
    dataset_digest: str | None = None
    run_id: str | None = None
    description: str = ""
    created: int = 0
    file: str = WEIGHTS
    scale: float | None = None

    @property
    def ref(self) -> str:
        """``name/version``: the reference that means the same forever."""
        return f"{self.name}/{self.version}"

    def to_dict(self) -> dict[str, Any]:
        """The version as JSON would show it."""
        return {
            "name": self.name,
            "version": self.version,
            "aliases": list(self.aliases),
            "digest": self.digest,
            "spec": json.loads(self.spec.to_json()),
            "scores": dict(self.scores or {}),
            "dataset_digest": self.dataset_digest,
            "run_id": self.run_id,
            "uri": self.uri,
            "description": self.description,
            "created": self.created,
            "file": self.file,
            "scale": self.scale,
        }


def read_version(found: Any, aliases: Mapping[str, str]) -> ModelVersion:
    from rayscale.models.spec import ModelSpec

    tags = found.tags
    if (format := tags.get(FORMAT_KEY, FORMAT)) != FORMAT:
        raise UnsupportedError(
            f"{found.name}/{found.version} was registered in format {format}, this version reads {FORMAT}; use rayscale "
            f"{tags.get('rayscale.version', 'as it was registered with')} or later, or register its weights again"
        )
    digest = tags.get("rayscale.sha256", "")
    # The digest becomes a file name, and tags are free text that anyone with the registry may write.
    if not _SHA256.fullmatch(digest) or SPEC_KEY not in tags:
        raise InputError(
            f"{found.name}/{found.version} was not published by rayscale (no weights digest or specification "
            "in its tags); publish its weights with `rayscale register`"
        )
    file = tags.get(FILE_KEY, WEIGHTS)
    if file not in FILES:
        raise UnsupportedError(
            f"{found.name}/{found.version} holds {file!r}; this version reads {', '.join(FILES)}"
        )
    scale = tags.get(SCALE_KEY)
    return ModelVersion(
        name=found.name,
        version=int(found.version),
        digest=digest,
        spec=ModelSpec.from_json(tags[SPEC_KEY]),
        uri=found.source,
        aliases=tuple(sorted(key for key, at in aliases.items() if str(at) == str(found.version))),
        scores=strictjson.loads(tags.get(SCORES, "{}")),
        dataset_digest=tags.get("rayscale.dataset"),
        run_id=found.run_id or None,
        description=found.description or "",
        created=int(found.creation_timestamp or 0),
        file=file,
        scale=None if scale is None else float(scale),
    )
