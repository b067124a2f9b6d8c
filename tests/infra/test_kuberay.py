"""The Kubernetes manifests: valid against KubeRay's and Kubernetes' own schemas, pinned, authenticated, unprivileged."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from tests.infra import crds, kustomize

from rayscale import __version__

Resource = dict[str, Any]
DEFINITIONS = {
    "RayCluster": "ray.io_rayclusters.yaml",
    "RayJob": "ray.io_rayjobs.yaml",
    "RayService": "ray.io_rayservices.yaml",
}
OPERATORS = {"PodMonitor", "ScrapeConfig"}
"""Of the Prometheus operator, whose definitions are not at hand."""


@pytest.fixture(scope="session")
def definitions(shared_data: Path) -> Path:
    folder = shared_data / "kuberay"
    if not folder.is_dir():
        pytest.skip(f"KubeRay's definitions are not in {folder}")
    return folder


def clusters(manifests: list[Resource]) -> dict[str, Resource]:
    """The three cluster specs, by kind."""
    place = {"RayCluster": (), "RayJob": ("rayClusterSpec",), "RayService": ("rayClusterConfig",)}
    found = {}
    for resource in manifests:
        if resource["kind"] in place:
            spec = resource["spec"]
            for part in place[resource["kind"]]:
                spec = spec[part]
            found[resource["kind"]] = spec
    assert set(found) == set(DEFINITIONS)
    return found


def pod_templates(manifests: list[Resource]) -> Iterator[tuple[str, Resource]]:
    """Every pod template with a name for messages."""
    for kind, spec in clusters(manifests).items():
        yield f"{kind} head", spec["headGroupSpec"]["template"]
        for group in spec["workerGroupSpecs"]:
            yield f"{kind} {group['groupName']}", group["template"]
    for resource in manifests:
        if resource["kind"] == "RayJob":
            yield "RayJob submitter", resource["spec"]["submitterPodTemplate"]


def locked(root: Path, package: str) -> str:
    match = re.search(rf"^{package}==(\S+)", (root / "requirements.lock").read_text(), re.MULTILINE)
    assert match, f"{package} is not in requirements.lock"
    return match[1]


def test_custom_resources_fit_the_strict_definitions(
    manifests: list[Resource], definitions: Path
) -> None:
    for resource in manifests:
        if resource["kind"] in DEFINITIONS:
            found = crds.problems(resource, definitions / DEFINITIONS[resource["kind"]])
            assert not found, f"{resource['kind']}: {found}"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("spec", "autoscalerOption"), {}, "autoscalerOption"),
        (("spec", "authOptions", "token"), "x", "token"),
        (("spec", "authOptions", "mode"), "none", "none"),
        (("spec", "workerGroupSpecs", 0, "maxReplicas"), "eight", "eight"),
        (
            ("spec", "headGroupSpec", "template", "spec", "containers", 0, "evn"),
            [],
            "evn",
        ),
    ],
)
def test_a_mistake_does_not_pass(
    manifests: list[Resource],
    definitions: Path,
    path: tuple[str | int, ...],
    value: object,
    message: str,
) -> None:
    (cluster,) = (copy.deepcopy(r) for r in manifests if r["kind"] == "RayCluster")
    node: Any = cluster
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    found = crds.problems(cluster, definitions / DEFINITIONS["RayCluster"])
    assert any(message in problem for problem in found), found


def test_defaults_come_before_validation(manifests: list[Resource], definitions: Path) -> None:
    """minReplicas and maxReplicas are required and defaulted: leaving them out is valid on a server."""
    (cluster,) = (copy.deepcopy(r) for r in manifests if r["kind"] == "RayCluster")
    for group in cluster["spec"]["workerGroupSpecs"]:
        del group["minReplicas"], group["maxReplicas"]
    assert crds.problems(cluster, definitions / DEFINITIONS["RayCluster"]) == []


def test_core_resources_are_valid_kubernetes(manifests: list[Resource]) -> None:
    core = [r for r in manifests if r["kind"] not in {*DEFINITIONS, *OPERATORS}]
    kinds = {"Namespace", "ConfigMap", "NetworkPolicy", "PodDisruptionBudget"}
    assert kinds <= {r["kind"] for r in core} <= kinds | {"PriorityClass"}
    for resource in core:
        kubernetes_validate.validate(resource, "1.32", strict=True)


def test_pod_templates_are_valid_pods(manifests: list[Resource]) -> None:
    for name, template in pod_templates(manifests):
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "pod", **template["metadata"]},
            "spec": template["spec"],
        }
        kubernetes_validate.validate(pod, "1.32", strict=True)
        volumes = {volume["name"] for volume in template["spec"].get("volumes", [])}
        for container in template["spec"]["containers"]:
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert mounted <= volumes, name


def test_every_cluster_is_the_same_one(manifests: list[Resource]) -> None:
    manifests = copy.deepcopy(manifests)
    found = clusters(manifests)
    for spec in found.values():  # but for what comes first where machines are short
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            group["template"]["spec"] = {
                k: v for k, v in group["template"]["spec"].items() if k != "priorityClassName"
            }
    assert found["RayJob"] == found["RayCluster"] == found["RayService"]


def test_ray_version_is_the_pin(manifests: list[Resource], root: Path) -> None:
    for spec in clusters(manifests).values():
        assert spec["rayVersion"] == locked(root, "ray")


def test_every_cluster_demands_the_token(manifests: list[Resource]) -> None:
    for spec in clusters(manifests).values():
        assert spec["authOptions"] == {"mode": "token", "secretName": "rayscale-ray-token"}


def test_every_cluster_scales(manifests: list[Resource]) -> None:
    for spec in clusters(manifests).values():
        assert spec["enableInTreeAutoscaling"] is True
        assert spec["autoscalerOptions"]["version"] == "v2"
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        # Autoscaler v2 replaces pods; a restarted container would come back as another Ray node.
        assert spec["headGroupSpec"]["template"]["spec"]["restartPolicy"] == "Never"
        for group in spec["workerGroupSpecs"]:
            assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] < 100
            assert group["template"]["spec"]["restartPolicy"] == "Never"


def test_pods_keep_to_the_restricted_profile(manifests: list[Resource]) -> None:
    """The rules of Kubernetes' Pod Security Standards, profile "restricted", as far as these pods touch them."""
    for name, template in pod_templates(manifests):
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name
        assert all("hostPath" not in volume for volume in spec.get("volumes", [])), name
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, name
            assert security["capabilities"] == {"drop": ["ALL"]}, name
            assert "privileged" not in security, name


def test_pods_state_their_resources_and_image(manifests: list[Resource], variant: str) -> None:
    tag = "rayscale:0.1.0-cuda" if variant == "overlays/gpu" else "rayscale:0.1.0"
    for name, template in pod_templates(manifests):
        for container in template["spec"]["containers"]:
            assert container["image"] == tag, name
            assert set(container["resources"]) == {"requests", "limits"}, name
            # Ray sizes its object store by the memory limit: a smaller request would be overcommitted.
            if "submitter" not in name:
                assert container["resources"]["requests"] == container["resources"]["limits"], name


def test_image_carries_the_version_of_the_project(manifests: list[Resource]) -> None:
    for _, template in pod_templates(manifests):
        for container in template["spec"]["containers"]:
            assert container["image"].split(":")[1].split("-")[0] == __version__


def test_network_policy_covers_the_pods(manifests: list[Resource]) -> None:
    deny, policy = (r for r in manifests if r["kind"] == "NetworkPolicy")
    assert deny["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    selector = policy["spec"]["podSelector"]["matchLabels"]
    for name, template in pod_templates(manifests):
        assert selector.items() <= template["metadata"]["labels"].items(), name
    open_to_all = [rule for rule in policy["spec"]["ingress"] if "from" not in rule]
    assert not open_to_all
    outside = [rule for rule in policy["spec"]["ingress"] if "ports" in rule]
    assert {port["port"] for rule in outside for port in rule["ports"]} == {8000, 8080, 8265}
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    everywhere = [rule for rule in policy["spec"]["egress"] if "to" not in rule]
    assert {port["port"] for rule in everywhere for port in rule["ports"]} == {
        443,
        6443,
        5000,
        8333,
    }


def test_gpu_overlay_adds_one_group(infra: Path) -> None:
    base = clusters(kustomize.render(infra / "kuberay/base"))["RayCluster"]
    gpu = clusters(kustomize.render(infra / "kuberay/overlays/gpu"))["RayCluster"]
    names = [group["groupName"] for group in gpu["workerGroupSpecs"]]
    assert names == [group["groupName"] for group in base["workerGroupSpecs"]] + ["gpu"]
    (container,) = gpu["workerGroupSpecs"][-1]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert gpu["workerGroupSpecs"][-1]["template"]["spec"]["tolerations"]


def test_rayjob_runs_the_job_of_the_repository(
    manifests: list[Resource], root: Path, variant: str
) -> None:
    (job,) = (r for r in manifests if r["kind"] == "RayJob")
    python, script, *_ = job["spec"]["entrypoint"].split()
    assert python == "python"
    assert (root / script).is_file()
    assert ("workers.gpu=true" in job["spec"]["entrypoint"]) == (variant == "overlays/gpu")
    assert job["spec"]["suspend"] is True
    assert job["spec"]["shutdownAfterJobFinishes"] is True


def test_rayservice_serves_what_serve_config_says(
    manifests: list[Resource], root: Path, variant: str
) -> None:
    """serve/config.yaml, but for the address in its pod and the GPU of each replica with models."""
    (service,) = (r for r in manifests if r["kind"] == "RayService")
    expected = yaml.safe_load((root / "serve/config.yaml").read_text())
    expected["http_options"]["host"] = "0.0.0.0"
    if variant == "overlays/gpu":
        (application,) = expected["applications"]
        (models,) = (d for d in application["deployments"] if d["name"] == "Upscaling")
        models["ray_actor_options"]["num_gpus"] = 1
    assert yaml.safe_load(service["spec"]["serveConfigV2"]) == expected


def test_no_secret_is_written_down(manifests: list[Resource], infra: Path) -> None:
    assert all(resource["kind"] != "Secret" for resource in manifests)
    example = (infra / "kuberay/credentials.env.example").read_text()
    for line in example.splitlines():
        assert line.startswith("#") or line.endswith("="), line
