"""Strict JSON Schemas from KubeRay's custom resource definitions.

The API server drops a field it does not know, silently; here such a field is an error. Defaults are applied first, as
the server does before it validates: fields can be both required and defaulted.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

Schema = dict[str, Any]


@cache
def schema(crd: Path, version: str = "v1") -> Schema:
    """The OpenAPI schema of one version of a definition, as a JSON Schema that refuses unknown fields."""
    # The C loader: these files have a megabyte, and the Python one takes ten seconds for each.
    definition = yaml.load(crd.read_text(), Loader=yaml.CSafeLoader)
    (found,) = (v for v in definition["spec"]["versions"] if v["name"] == version)
    result: Schema = _strict(found["schema"]["openAPIV3Schema"])
    return result


def _strict(node: Any) -> Any:
    if isinstance(node, list):
        return [_strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    result = {key: _strict(value) for key, value in node.items() if key != "properties"}
    if "properties" in node:
        result["properties"] = {name: _strict(item) for name, item in node["properties"].items()}
        if not node.get("x-kubernetes-preserve-unknown-fields"):
            result.setdefault("additionalProperties", False)
    if node.get("x-kubernetes-int-or-string"):
        result.pop("type", None)
        result["type"] = ["integer", "string"]
    if node.get("nullable") and isinstance(result.get("type"), str):
        result["type"] = [result["type"], "null"]
    return result


def with_defaults(value: Any, node: Schema) -> Any:
    """A copy of ``value`` with the defaults of the schema filled in where a field is absent."""
    if isinstance(value, dict):
        properties = node.get("properties", {})
        extra = node.get("additionalProperties")
        filled = {
            name: with_defaults(
                item, properties.get(name, extra if isinstance(extra, dict) else {})
            )
            for name, item in value.items()
        }
        for name, child in properties.items():
            if name not in filled and "default" in child:
                filled[name] = child["default"]
        return filled
    if isinstance(value, list):
        return [with_defaults(item, node.get("items", {})) for item in value]
    return value


def problems(resource: dict[str, Any], crd: Path) -> list[str]:
    """What the definition has against a resource, one line each; empty when it is valid."""
    strict = schema(crd)
    validator = jsonschema.Draft7Validator(strict)
    found = validator.iter_errors(with_defaults(resource, strict))
    return [f"{error.json_path}: {error.message[:200]}" for error in found]
