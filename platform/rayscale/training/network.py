"""How the workers of Ray Train find each other and their cluster, and how its metrics know of them."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rayscale import correlation
from rayscale.cluster.gauges import Gauges


@contextmanager
def named_cluster() -> Iterator[None]:
    """Tell Ray Train's cleaner which cluster it is in.

    It gives back what the workers had reserved when their controller was killed, as Ray Tune does to a trial that it
    stops early. It looks its own cluster up by RAY_ADDRESS, finds none or several on a machine with more than one, and
    dies (Ray 2.60): what was reserved stays so.
    """
    import ray
    from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE

    before = os.environ.get("RAY_ADDRESS")
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    os.environ.update(correlation.variables())
    ENV_VARS_TO_PROPAGATE.update({"RAY_ADDRESS", correlation.VARIABLE})
    try:
        yield
    finally:
        if before is None:
            del os.environ["RAY_ADDRESS"]
        else:
            os.environ["RAY_ADDRESS"] = before


def trainer_class() -> Any:
    """``TorchTrainer``; without its cleaner where there is no dashboard to ask, of which it would complain every second."""
    from ray._private.worker import get_dashboard_url
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.placement_group_callback import (
        PlacementGroupCleanerCallback,
    )

    class Trainer(TorchTrainer):  # type: ignore[misc]
        def _create_default_callbacks(self) -> list[Any]:
            callbacks = super()._create_default_callbacks()
            if get_dashboard_url():
                return list(callbacks)
            return [c for c in callbacks if not isinstance(c, PlacementGroupCleanerCallback)]

    return Trainer


def torch_config() -> Any:
    """How the workers find each other: gloo would ask the host name for an address, which often has none or a loopback's.

    Workers of one node talk over loopback, others over the interface by which Ray knows their nodes.
    """
    import ray
    from ray.train.torch import TorchConfig
    from ray.train.torch.config import _TorchBackend

    class Backend(_TorchBackend):  # type: ignore[misc]
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            addresses = worker_group.execute(ray.util.get_node_ip_address)
            alone = len(set(addresses)) == 1
            for rank, address in enumerate(addresses):
                worker_group.execute_single(rank, _bind_gloo, "127.0.0.1" if alone else address)
            super().on_start(worker_group, backend_config)

    class Config(TorchConfig):  # type: ignore[misc]
        @property
        def backend_cls(self) -> type[Backend]:
            return Backend

    return Config()


def _bind_gloo(address: str) -> None:
    """In a worker: gloo takes the interface of ``address``, unless the node says another."""
    name = interface_of(address)
    if name:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def interface_of(address: str) -> str | None:
    """The network interface of this machine that has ``address``, or None; every loopback address is the loopback's."""
    import psutil

    wanted = ipaddress.ip_address(address)
    for name, entries in psutil.net_if_addrs().items():
        for entry in entries:
            if entry.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            found = ipaddress.ip_address(entry.address.partition("%")[0])
            if found == wanted or (found.is_loopback and wanted.is_loopback):
                return str(name)
    return None


class PrometheusLogger:
    """A metric logger for Ray's own metrics: every figure as the gauge ``rayscale_train_NAME``, labelled with the run."""

    def __init__(self, run: str) -> None:
        self._gauges = Gauges("rayscale_train", run)
        self._step = 0

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self._step = max(step, self._step)  # the scores of a step come later
        self._gauges.set({**metrics, "step": float(self._step)})

    def log_image(self, name: str, pixels: Any, step: int) -> None:
        """Prometheus takes numbers only."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """The run is the label."""

    def close(self) -> None:
        """Ray collects by itself."""
