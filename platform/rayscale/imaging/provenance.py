"""What made an image: travels inside the file, whatever its container."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rayscale import __version__, strictjson


@dataclass(frozen=True)
class Provenance:
    """The model and the parameters of an output. Holds no time, so that a rerun writes the same bytes.

    Attributes:
        model: name, or ``name/version`` of the registry.
        digest: sha256 of the weights, or ``built-in:NAME``.
        parameters: what determines the output besides source and weights (``Upscaler.describe``).
        software: program and version.
        measures: what was found out about this one output; no part of what identifies a series.
    """

    model: str
    digest: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    software: str = f"rayscale {__version__}"
    measures: Mapping[str, Any] = field(default_factory=dict)

    def with_parameters(self, **more: Any) -> Provenance:
        """The same with parameters added."""
        return replace(self, parameters={**self.parameters, **more})

    def with_measures(self, **more: Any) -> Provenance:
        """The same with measures added."""
        return replace(self, measures={**self.measures, **more})

    def to_json(self) -> str:
        """One line with sorted keys; the same text for equal values."""
        content = {
            "software": self.software,
            "model": self.model,
            "weights": self.digest,
            **self.parameters,
            **self.measures,
        }
        return strictjson.dumps(content, sort_keys=True, default=str)
