"""Reads ``compose.yaml`` as compose does, and a strict schema of the part of the Compose Specification it uses.

The schema is written from the specification's reference; a key that is not in it is an error, so a key that is new here
has to be looked up and added.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

STRINGS = {"type": "array", "items": {"type": "string"}}
COMMAND = {"anyOf": [{"type": "string"}, STRINGS, {"type": "null"}]}
SCALAR = {"type": ["string", "number", "boolean", "null"]}
ENVIRONMENT = {"type": "object", "additionalProperties": SCALAR}
DURATION = {"type": "string", "pattern": r"^([0-9]+(\.[0-9]+)?(us|ms|s|m|h))+$"}
SIZE = {"type": "string", "pattern": r"^[0-9]+(b|k|kb|m|mb|g|gb)$"}
NAMED = "^[a-zA-Z0-9._-]+$"


def _object(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "patternProperties": {"^x-": {}},
        "additionalProperties": False,
        **more,
    }


def _map(value: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "patternProperties": {NAMED: value}, "additionalProperties": False}


HEALTHCHECK = _object(
    {
        "disable": {"type": "boolean"},
        "test": {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "prefixItems": [{"enum": ["NONE", "CMD", "CMD-SHELL"]}]},
            ]
        },
        "interval": DURATION,
        "timeout": DURATION,
        "retries": {"type": "number"},
        "start_period": DURATION,
        "start_interval": DURATION,
    }
)
BUILD = _object(
    {
        "context": {"type": "string"},
        "dockerfile": {"type": "string"},
        "target": {"type": "string"},
        "args": ENVIRONMENT,
    }
)
DEPENDENCY = _object(
    {
        "condition": {
            "enum": ["service_started", "service_healthy", "service_completed_successfully"]
        },
        "required": {"type": "boolean"},
        "restart": {"type": ["boolean", "string"]},
    },
    required=["condition"],
)
SERVICE = _object(
    {
        "build": BUILD,
        "cap_add": {**STRINGS, "uniqueItems": True},
        "cap_drop": {**STRINGS, "uniqueItems": True},
        "command": COMMAND,
        "depends_on": _map(DEPENDENCY),
        "entrypoint": COMMAND,
        "environment": ENVIRONMENT,
        "healthcheck": HEALTHCHECK,
        "image": {"type": "string"},
        "init": {"type": "boolean"},
        "logging": _object({"driver": {"type": "string"}, "options": ENVIRONMENT}),
        "network_mode": {"type": "string", "pattern": "^service:[a-z0-9-]+$"},
        "mem_limit": SIZE,
        "ports": {**STRINGS, "uniqueItems": True},
        "profiles": STRINGS,
        "restart": {
            "type": "string",
            "pattern": "^(no|always|unless-stopped|on-failure(:[0-9]+)?)$",
        },
        "security_opt": {**STRINGS, "uniqueItems": True},
        "shm_size": SIZE,
        "stop_grace_period": DURATION,
        "volumes": {**STRINGS, "uniqueItems": True},
    }
)
SCHEMA = _object(
    {
        "name": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]*$"},
        "services": _map(SERVICE),
        "volumes": _map({"anyOf": [{"type": "null"}, _object({"name": {"type": "string"}})]}),
    },
    required=["services"],
)

REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::([-?])([^}]*))?\}")


def load(file: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """The file with its variables put in; KeyError for a required variable that is missing or empty."""

    def value(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        if environment.get(name):
            return environment[name]
        if kind == "-":
            return rest or ""
        raise KeyError(name)

    # Comments go first: compose never looks for variables in them.
    lines = [line for line in file.read_text().splitlines() if not line.lstrip().startswith("#")]
    result: dict[str, Any] = yaml.safe_load(REFERENCE.sub(value, "\n".join(lines)))
    return result


def size(text: str) -> int:
    """The bytes of such as ``512mb``."""
    units = {"mb": 1 << 20, "gb": 1 << 30}
    return int(text[:-2]) * units[text[-2:]]


def read_env(file: Path) -> dict[str, str]:
    """The ``NAME=value`` lines of an environment file."""
    lines = file.read_text().splitlines()
    return dict(
        line.split("=", 1) for line in lines if line and not line.startswith("#") and "=" in line
    )
