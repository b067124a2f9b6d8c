"""Metrics, parameters and pictures of a run, sent to MLflow by a thread in the background.

The caller only appends to a buffer: a server that is slow, gone or restarting never delays training.
Points keep the time of their measurement. What a run could not deliver before it ended is kept in
``RAYSCALE_CACHE_DIR`` and sent by the next logger of the same run on this machine.
"""

from __future__ import annotations

import hashlib
import logging
import re
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rayscale import correlation, strictjson
from rayscale.errors import without_passwords
from rayscale.files import replacing
from rayscale.registry.client import connect, ensure_experiment, is_permanent, tracking_uri
from rayscale.settings import get_settings

logger = logging.getLogger(__name__)

RUN_TAG = "rayscale.run"
ID_TAG = "rayscale.id"
"""Of what the run came of, see ``rayscale.correlation``."""

_BATCH = 500  # points of one request; MLflow takes 1000
_PARAMS = 100  # MLflow's limit of one request
_PARAM_LENGTH = 6000
_MOST_POINTS = 200_000  # kept while the server is gone: some 40 MB
_MOST_IMAGES = 64
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0
_PAUSE_FOR_NOTHING_S = 5.0  # that closing waits for a server although there is nothing to deliver
_QUOTABLE = re.compile(r"[^'\"`\\]*")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_. :/-]")

Point = tuple[str, float, int, int]  # name, value, milliseconds since 1970, step


class MlflowLogger:
    """Sends to one MLflow run; implements the ``MetricLogger`` of ``rayscale.training``.

    Args:
        experiment: MLflow experiment, made when it is not there.
        run: name of the run. A later logger of the same experiment and name (a resumed training) goes on in
            the same MLflow run, found by its tag ``rayscale.run``.
        tags: further tags of the run.
        interval_s: seconds between two requests.

    Raises ConfigError at once when ``MLFLOW_TRACKING_URI`` is unset; never anything after that.
    """

    def __init__(
        self,
        experiment: str,
        run: str,
        *,
        tags: Mapping[str, str] | None = None,
        interval_s: float = 2.0,
    ) -> None:
        self.experiment, self.run = experiment, run
        self.run_id: str | None = None
        """The id of the MLflow run, once the server has answered for the first time."""
        self._server = tracking_uri()
        self._place = without_passwords(self._server)  # what messages call it
        self._tags = dict(tags or {})
        self._interval_s = interval_s
        self._points: deque[Point] = deque()
        self._params: dict[str, str] = {}
        self._images: deque[tuple[str, npt.NDArray[Any], int]] = deque(maxlen=_MOST_IMAGES)
        self._dropped = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()  # someone waits for the buffer to be empty
        self._closing = threading.Event()
        self._idle = threading.Event()  # set while the run is there and has all that was logged
        self._recover()
        self._thread = threading.Thread(target=self._send_for_ever, name="mlflow", daemon=True)
        self._thread.start()

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Add one point per metric at ``step``."""
        now = int(time.time() * 1000)
        points = [(metric_name(key), float(value), now, step) for key, value in metrics.items()]
        with self._lock:
            self._points.extend(points)
            while len(self._points) > _MOST_POINTS:
                self._points.popleft()
                self._dropped += 1
            self._idle.clear()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Add parameters of the run; nested mappings become dotted names."""
        with self._lock:
            self._params.update(_flat(params))
            self._idle.clear()

    def log_image(self, name: str, pixels: npt.NDArray[Any], step: int) -> None:
        """Add a picture, ``(H, W)`` or ``(H, W, C)`` uint8 or uint16, as the artifact ``images/<name>/<step>.png``."""
        with self._lock:
            self._images.append((name, np.array(pixels), step))
            self._idle.clear()

    def flush(self, timeout_s: float = 30.0) -> bool:
        """Wait until the run exists and has all that was logged; False when not after ``timeout_s`` seconds."""
        end = time.monotonic() + timeout_s
        while not self._idle.is_set() and time.monotonic() < end and self._thread.is_alive():
            self._wake.set()  # again and again: a server that is just back should not wait for a pause
            self._idle.wait(0.5)
        return self._idle.is_set()

    def close(self, status: str = "FINISHED", timeout_s: float = 30.0) -> None:
        """Deliver the rest, end the MLflow run with ``status``; after ``timeout_s`` seconds keep the rest on disk."""
        if self._closing.is_set():
            return
        with self._lock:
            empty = not (self._points or self._params or self._images)
        delivered = (
            self.flush(min(timeout_s, _PAUSE_FOR_NOTHING_S) if empty else timeout_s) or empty
        )
        self._closing.set()
        self._wake.set()
        self._thread.join(5.0)
        if not delivered:
            kept = self._keep()
            logger.warning(
                "MLflow at %s did not take the last %d points of run %r; they are kept in %s and sent when the "
                "run is resumed here",
                self._place, len(self._points), self.run, kept,
            )  # fmt: skip
        elif self.run_id is not None:
            with suppress(Exception):  # the figures are there: the state of the run is cosmetics
                connect().set_terminated(self.run_id, status)
        if self._dropped:
            logger.warning(
                "%d of the oldest points were dropped while MLflow was gone", self._dropped
            )

    def _send_for_ever(self) -> None:
        client: Any = None
        pause = 0.0
        while not self._closing.is_set():
            self._wake.wait(pause or self._interval_s)
            self._wake.clear()
            if self._idle.is_set():
                continue
            try:
                if client is None:
                    client = connect()
                if self.run_id is None:
                    self.run_id = self._open(client)
                self._send(client, self.run_id)
            except Exception as error:  # whatever it is, training goes on
                if not pause:
                    logger.warning(
                        "MLflow at %s does not take metrics (%s); they are kept and sent later",
                        self._place, without_passwords(str(error).partition("\n")[0])[:200],
                    )  # fmt: skip
                pause = min(_LONGEST_PAUSE_S, (pause * 2) or _FIRST_PAUSE_S)
            else:
                if pause:
                    logger.warning("MLflow at %s is back", self._place)
                pause = 0.0
                self._spool().unlink(missing_ok=True)

    def _open(self, client: Any) -> str:
        experiment = ensure_experiment(client, self.experiment)
        found = _search(client, experiment, self.run)
        if found:
            run_id = str(found[0].info.run_id)
            client.update_run(run_id, status="RUNNING")
        else:
            run = client.create_run(
                experiment,
                run_name=self.run,
                tags={RUN_TAG: _mark(self.run), ID_TAG: correlation.current(), **self._tags},
            )
            run_id = str(run.info.run_id)
        return run_id

    def _send(self, client: Any, run_id: str) -> None:
        """Deliver what is buffered; what was not confirmed stays buffered."""
        from mlflow.entities import Metric

        self._send_params(client, run_id)
        while self._points:
            with self._lock:
                batch = [self._points[i] for i in range(min(_BATCH, len(self._points)))]
            with _Dropping("points"):
                client.log_batch(run_id, metrics=[Metric(*point) for point in batch])
            with self._lock:
                for point in batch:  # the oldest may have been dropped while they were sent
                    if self._points and self._points[0] is point:
                        self._points.popleft()
        while self._images:
            with self._lock:
                name, pixels, step = image = self._images[0]
            with _Dropping(f"picture {name!r}"):
                self._send_image(client, run_id, name, pixels, step)
            with self._lock:
                if self._images and self._images[0] is image:
                    self._images.popleft()
        with self._lock:
            if not (self._points or self._params or self._images):
                self._idle.set()

    def _send_params(self, client: Any, run_id: str) -> None:
        with self._lock:
            params = dict(self._params)
        if not params:
            return
        # A parameter cannot change in MLflow; a resumed run may well differ (more steps, another machine).
        old = client.get_run(run_id).data.params
        from mlflow.entities import Param

        new = [Param(key, value) for key, value in params.items() if key not in old]
        for start in range(0, len(new), _PARAMS):
            with _Dropping("parameters"):
                client.log_batch(run_id, params=new[start : start + _PARAMS])
        for key, value in params.items():
            if old.get(key, value) != value:
                with _Dropping(f"parameter {key!r}"):
                    client.set_tag(run_id, f"resumed.{key}", value)
        with self._lock:
            for key, value in params.items():
                if self._params.get(key) == value:
                    del self._params[key]

    def _send_image(
        self, client: Any, run_id: str, name: str, pixels: npt.NDArray[Any], step: int
    ) -> None:
        import PIL.Image

        if pixels.dtype == np.uint16:
            pixels = (pixels >> 8).astype(np.uint8)  # a picture to look at, not data
        if pixels.ndim == 3 and pixels.shape[2] == 1:
            pixels = pixels[:, :, 0]
        safe = _NOT_IN_NAMES.sub("_", name).replace("/", "_")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"{step:08d}.png")
            try:
                PIL.Image.fromarray(pixels).save(path)
            except (TypeError, ValueError) as error:
                logger.warning("%r of shape %s is not a picture: %s", name, pixels.shape, error)
                return
            client.log_artifact(run_id, str(path), f"images/{safe}")

    def _spool(self) -> Path:
        where = f"{self._server}\n{self.experiment}\n{self.run}".encode()
        return (
            get_settings().cache_dir / "mlflow" / f"{hashlib.sha256(where).hexdigest()[:32]}.json"
        )

    def _keep(self) -> Path:
        path = self._spool()
        with self._lock:
            kept = {"points": list(self._points), "params": self._params}
        with replacing(path) as file:
            file.write(strictjson.dumps(kept).encode())
        return path

    def _recover(self) -> None:
        try:
            kept = strictjson.loads(self._spool().read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        self._points.extend((str(n), float(v), int(t), int(s)) for n, v, t, s in kept["points"])
        self._params.update(kept["params"])
        self._idle.clear()


class _Dropping:
    """Give up what the server will never take, with a warning; every other error passes."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if isinstance(error, Exception) and is_permanent(error):
            said = without_passwords(str(error).partition("\n")[0])[:200]
            logger.warning("MLflow refused %s: %s", self.what, said)
            return True
        return False


def metric_name(name: str) -> str:
    """The name as MLflow accepts it: one wrong name would have the whole request refused."""
    return _NOT_IN_NAMES.sub("_", name)[:250]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[metric_name(f"{prefix}{key}")] = str(value)[:_PARAM_LENGTH]
    return flat


def find_run(experiment: str, run: str) -> str | None:
    """The id of the MLflow run that a ``MlflowLogger`` of these names has made, or None."""
    client = connect()
    found = _search(client, ensure_experiment(client, experiment), run)
    return str(found[0].info.run_id) if found else None


def conclude(experiment: str, run: str, status: str, tags: Mapping[str, str]) -> None:
    """End the MLflow run of a process that could not, with tags that say why; a server that is gone is a warning."""
    try:
        run_id = find_run(experiment, run)
        if run_id is not None:
            client = connect()
            for key, value in tags.items():
                client.set_tag(run_id, key, value[:_PARAM_LENGTH])
            client.set_terminated(run_id, status)
    except Exception as error:  # the trial is kept in storage: its state here is for those who look
        logger.warning("MLflow was not told how %s ended: %s", run, _brief(error))


def add_files(experiment: str, run: str, files: Mapping[str, bytes]) -> None:
    """Put files, by their names, among the artifacts of a run; a server that is gone is a warning."""
    try:
        run_id = find_run(experiment, run)
        with tempfile.TemporaryDirectory(prefix="rayscale-") as folder:
            for name, content in files.items():
                Path(folder, name).write_bytes(content)
            if run_id is not None:
                connect().log_artifacts(run_id, folder)
    except Exception as error:  # they are in storage too
        logger.warning("MLflow did not take the files of %s: %s", run, _brief(error))


def _search(client: Any, experiment: str, run: str) -> Any:
    """The newest MLflow run of a name, as a list of at most one."""
    return client.search_runs(
        [experiment],
        f"tags.`{RUN_TAG}` = '{_mark(run)}'",
        max_results=1,
        order_by=["start_time DESC"],
    )


def _mark(run: str) -> str:
    """The value of the tag that finds a run: MLflow's filters have no escape for quotes."""
    return run if _QUOTABLE.fullmatch(run) else hashlib.sha256(run.encode()).hexdigest()


def _brief(error: Exception) -> str:
    return without_passwords(str(error).partition("\n")[0])[:200]
