"""Renders the kustomizations of ``infra/kuberay`` without kustomize.

Only what they use: resources (files and folders), components, namespace, labels, images, JSON 6902 patches from files, and
replacements of whole fields. Anything else in a kustomization is an error, so that a new feature is not silently
ignored; ``test_kustomize.py`` compares the result with ``kubectl kustomize`` where that is installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

Resource = dict[str, Any]

FIELDS = {
    "apiVersion",
    "kind",
    "namespace",
    "resources",
    "components",
    "labels",
    "images",
    "patches",
    "replacements",
}
CLUSTER_SCOPED = {"Namespace", "PriorityClass"}


def render(folder: Path) -> list[Resource]:
    """The resources that ``kubectl kustomize folder`` prints, in no particular order."""
    config = yaml.safe_load((folder / "kustomization.yaml").read_text())
    unknown = set(config) - FIELDS
    if unknown:
        raise NotImplementedError(f"{folder}: this renderer does not know {sorted(unknown)}")
    resources: list[Resource] = []
    _gather(folder, config, resources)
    for resource in resources:
        if "namespace" in config and resource["kind"] not in CLUSTER_SCOPED:
            resource["metadata"]["namespace"] = config["namespace"]
        for entry in config.get("labels", []):
            resource["metadata"].setdefault("labels", {}).update(entry["pairs"])
        for image in config.get("images", []):
            _set_images(resource, image["name"], image["newTag"])
    for replacement in config.get("replacements", []):
        _replace(resources, replacement)
    return resources


def _gather(folder: Path, config: dict[str, Any], resources: list[Resource]) -> None:
    """Add what a kustomization or component has, and patch all there is."""
    for name in config.get("resources", []):
        path = folder / name
        if path.is_dir():
            resources += render(path)
        else:
            documents = yaml.safe_load_all(path.read_text())
            # A YAML anchor gives one object to several places: a patch of one must not change the others.
            resources += [_unshared(document) for document in documents if document]
    for name in config.get("components", []):
        component = yaml.safe_load((folder / name / "kustomization.yaml").read_text())
        if unknown := set(component) - {"apiVersion", "kind", "resources", "patches"}:
            raise NotImplementedError(f"{name}: this renderer does not know {sorted(unknown)}")
        _gather(folder / name, component, resources)
    for patch in config.get("patches", []):
        _patch(resources, patch["target"], yaml.safe_load((folder / patch["path"]).read_text()))


def _unshared(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unshared(item) for item in value]
    return value


def _select(resources: list[Resource], target: dict[str, str]) -> list[Resource]:
    return [
        resource
        for resource in resources
        if resource["kind"] == target["kind"] and resource["metadata"]["name"] == target["name"]
    ]


def _patch(
    resources: list[Resource], target: dict[str, str], operations: list[dict[str, Any]]
) -> None:
    matched = _select(resources, target)
    if not matched:
        raise ValueError(f"nothing matches the target {target}")
    for resource in matched:
        for operation in operations:
            _apply(resource, operation)


def _apply(resource: Resource, operation: dict[str, Any]) -> None:
    *parents, last = (
        part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]
    )
    node: Any = resource
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node[part]
    value = _unshared(operation["value"])
    if operation["op"] == "add" and isinstance(node, list):
        node.insert(len(node) if last == "-" else int(last), value)
    elif operation["op"] == "add" or (operation["op"] == "replace" and last in node):
        node[last] = value
    else:
        raise NotImplementedError(f"JSON patch {operation['op']} at {operation['path']}")


def _set_images(value: Any, name: str, tag: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if key in ("containers", "initContainers") and isinstance(item, list):
                for container in item:
                    if container.get("image", "").split(":")[0] == name:
                        container["image"] = f"{name}:{tag}"
            _set_images(item, name, tag)
    elif isinstance(value, list):
        for item in value:
            _set_images(item, name, tag)


def _replace(resources: list[Resource], replacement: dict[str, Any]) -> None:
    source = replacement["source"]
    (origin,) = _select(resources, source)
    value = origin
    for part in source["fieldPath"].split("."):
        value = value[part]
    for target in replacement["targets"]:
        (resource,) = _select(resources, target["select"])
        for path in target["fieldPaths"]:
            *parents, last = path.split(".")
            node = resource
            for part in parents:
                node = node[part]
            if last not in node:
                raise ValueError(f"{path} is not in {resource['kind']}: kustomize would refuse it")
            node[last] = _unshared(value)
