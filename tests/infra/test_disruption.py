"""What the manifests say of pods that go: their own drain, a state that outlives the head, disks that have limits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from tests.infra import kustomize
from tests.infra.test_kuberay import clusters, pod_templates


def test_nothing_ends_ray_before_it_has_drained(
    manifests: list[dict[str, Any]], root: Path
) -> None:
    serve = yaml.safe_load((root / "serve/config.yaml").read_text())
    drain = max(d["graceful_shutdown_timeout_s"] for d in serve["applications"][0]["deployments"])
    for spec in clusters(manifests).values():
        for group in spec["workerGroupSpecs"]:
            pod = group["template"]["spec"]
            assert pod["terminationGracePeriodSeconds"] > drain
            assert all("lifecycle" not in container for container in pod["containers"])


def test_the_state_of_a_cluster_outlives_its_head(manifests: list[dict[str, Any]]) -> None:
    for spec in clusters(manifests).values():
        options = spec["gcsFaultToleranceOptions"]
        assert (
            options["backend"] == "rocksdb"
        )  # with a volume of its own; Redis would be one more thing to run
        assert options["storage"]["size"]


def test_disks_have_limits_and_hold_their_volumes(manifests: list[dict[str, Any]]) -> None:
    for name, template in pod_templates(manifests):
        if "submitter" in name:
            continue
        (container,) = template["spec"]["containers"]
        limit = _gibibytes(container["resources"]["limits"]["ephemeral-storage"])
        volumes = {
            volume["name"]: volume["emptyDir"]["sizeLimit"]
            for volume in template["spec"]["volumes"]
        }
        assert sum(map(_gibibytes, volumes.values())) < limit, name
        mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert mounted["/tmp/ray"] == "ray"  # where Ray spills


def _gibibytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)Gi", text)
    assert match, text
    return int(match[1])


def test_workers_are_spread_and_drained_one_by_one(manifests: list[dict[str, Any]]) -> None:
    for spec in clusters(manifests).values():
        (rule,) = spec["workerGroupSpecs"][0]["template"]["spec"]["topologySpreadConstraints"]
        assert rule["topologyKey"] == "kubernetes.io/hostname"
    budgets = {
        r["metadata"]["name"]: r["spec"] for r in manifests if r["kind"] == "PodDisruptionBudget"
    }
    assert {name: spec["maxUnavailable"] for name, spec in budgets.items()} == {
        "rayscale-serve-workers": 1,
        "rayscale-heads": 0,
    }


def test_serving_comes_before_jobs(infra: Path) -> None:
    manifests = kustomize.render(infra / "kuberay/overlays/production")
    classes = {r["metadata"]["name"]: r for r in manifests if r["kind"] == "PriorityClass"}
    assert classes["rayscale-serving"]["value"] > classes["rayscale-jobs"]["value"]
    assert classes["rayscale-jobs"]["preemptionPolicy"] == "Never"
    wanted = {"RayService": "rayscale-serving", "RayJob": "rayscale-jobs", "RayCluster": None}
    for kind, spec in clusters(manifests).items():
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            assert group["template"]["spec"].get("priorityClassName") == wanted[kind]


def test_kueue_admits_the_training(infra: Path, tmp_path: Path) -> None:
    for name in ("resources", "components"):
        (tmp_path / name).symlink_to(
            infra / "kuberay" / ("base" if name == "resources" else "components/kueue")
        )
    (tmp_path / "kustomization.yaml").write_text(
        "resources: [resources]\ncomponents: [components]\n"
    )
    (job,) = (r for r in kustomize.render(tmp_path) if r["kind"] == "RayJob")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "rayscale"
    assert job["spec"]["suspend"] is True
    assert job["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] is False


def test_monitors_ask_the_ports_that_the_policy_opens(infra: Path) -> None:
    manifests = kustomize.render(infra / "kuberay/overlays/production")
    (pods,) = (r for r in manifests if r["kind"] == "PodMonitor")
    assert pods["spec"]["podMetricsEndpoints"][0]["port"] == "metrics"
    (service,) = (r for r in manifests if r["kind"] == "ScrapeConfig")
    assert service["spec"]["jobName"] == "rayscale-serve"  # which the alerts name
    assert service["spec"]["staticConfigs"][0]["targets"][0].endswith(".rayscale.svc:8000")


def test_examples_name_what_the_manifests_have(infra: Path) -> None:
    examples = {
        (r["kind"], r["metadata"]["name"]): r["spec"]
        for path in sorted((infra / "kuberay/examples").glob("*.yaml"))
        for r in yaml.safe_load_all(path.read_text())
    }
    ingress = yaml.safe_load((infra / "kuberay/ingress.yaml").read_text())["spec"]
    secret = examples["Certificate", "images-example-org"]["secretName"]
    assert ingress["tls"][0]["secretName"] == secret
    listener = examples["Gateway", "rayscale"]["listeners"][0]
    assert listener["tls"]["certificateRefs"] == [{"name": secret}]
    backend = examples["HTTPRoute", "rayscale"]["rules"][0]["backendRefs"][0]
    assert backend == {"name": "rayscale-serve-serve-svc", "port": 8000}
    names = {name for kind, name in examples if kind == "ExternalSecret"}
    assert names == {"rayscale-credentials", "rayscale-ray-token"}
    assert examples["BackendTrafficPolicy", "rayscale-bodies"]["requestBuffer"]["limit"] == "65Mi"
