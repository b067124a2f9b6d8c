"""What there is to know of a model: the entry of a list, and the card."""

from __future__ import annotations

from typing import Any

from rayscale.imaging import Header
from rayscale.inference.memory import working_bytes
from rayscale.models.builtin import bundled_names, read_card
from rayscale.models.facts import describe
from rayscale.models.systems import systems
from rayscale.registry.opening import Found


def entry(found: Found) -> dict[str, Any]:
    """A model in the list of ``GET /v1/models``."""
    version = found.version
    return {
        "reference": found.label,
        "name": found.label if version is None else version.name,
        "version": None if version is None else str(version.version),
        "aliases": [] if version is None else list(version.aliases),
        "weights_sha256": found.digest,
        **_facts(found),
    }


def card(found: Found) -> dict[str, Any]:
    """A model with its data, licence, scores and needs."""
    told = entry(found)
    return {
        **told,
        **_origin(found),
        "levels": None if found.spec is None else [0.0, found.spec.value_range],
        "memory_per_megapixel": _memory(told),
    }


def _origin(found: Found) -> dict[str, Any]:
    """Summary, licence, data and scores; None for what nobody wrote down."""
    if found.version is not None:
        scores = [
            {"set": name, **report}
            for name, report in (found.version.scores or {}).items()
            if isinstance(report, dict)
        ]
        return {
            "summary": found.version.description or None,
            "licence": None,
            "data": found.version.dataset_digest and f"dataset {found.version.dataset_digest}",
            "data_licence": None,
            "scores": scores,
        }
    if found.file is None and found.label in bundled_names():
        known = read_card(found.label)
        names = ("summary", "licence", "data", "data_licence")
        return {name: known.get(name) for name in names} | {"scores": known["figures"]}
    named = found.label in systems()
    return {
        "summary": None if not named else describe(found.label)["summary"],
        "licence": "Apache-2.0" if found.spec is None else None,
        "data": None,
        "data_licence": None,
        "scores": [],
    }


def _memory(told: dict[str, Any]) -> dict[str, int]:
    """Bytes that a replica takes for an 8-bit PNG of a megapixel, by scale."""
    picture = Header("png", 1000, 1000, channels=told["channels"] or 3, bits=8)
    return {str(scale): working_bytes(picture, scale) for scale in told["scales"]}


def _facts(found: Found) -> dict[str, Any]:
    """What the list says of a model besides its name: system, scales, channels."""
    spec, scale = found.spec, found.scale
    if spec is None:
        system = describe(found.label)
        return {
            "system": found.label,
            "scales": system["scales"],
            "scale_range": system["scale_range"],
            "channels": None,
        }
    known = systems().get(spec.system)  # None: registered by a later version
    any_channels = known is not None and known.network.any_channels
    ranged = None if known is None else known.network.scale_range
    scales = list(spec.scales)
    if scale is not None:  # of an exported network, which has this one alone
        scales, ranged = ([int(scale)], None) if scale == int(scale) else ([], (scale, scale))
    return {
        "system": spec.system,
        "scales": scales,
        "scale_range": ranged,
        "channels": None if any_channels else spec.channels,
    }
