"""What made an image: travels inside the file, whatever its container."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rayscale import __version__


@dataclass(frozen=True)
class Provenance:
    """The model and the parameters of an output. Holds no time, so that a rerun writes the same bytes.

    Attributes:
        model: name, or ``name/version`` of the registry.
        digest: sha256 of the weights, or ``built-in:NAME``.
        parameters: what determines the output besides source and weights (``Upscaler.describe``).
        software: program and version.
    """

    model: str
    digest: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    software: str = f"rayscale {__version__}"

    def with_parameters(self, **more: Any) -> Provenance:
        """The same with parameters added."""
        return Provenance(self.model, self.digest, {**self.parameters, **more}, self.software)

    def to_json(self) -> str:
        """One line with sorted keys; the same text for equal values."""
        content = {
            "software": self.software,
            "model": self.model,
            "weights": self.digest,
            **self.parameters,
        }
        return json.dumps(content, sort_keys=True, default=str)
