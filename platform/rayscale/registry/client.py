"""The connection to the MLflow server of ``MLFLOW_TRACKING_URI``, with bounded waits and errors that help."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar
from urllib.parse import unquote

from rayscale.errors import ConfigError, RayscaleError, without_passwords

# MLflow's own defaults (120 s, 7 retries) keep a user waiting for minutes on a server that is gone.
_WAITS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds without a byte
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}

PAGE = 200
"""Rows of an answer that lists."""

# "View run at ..." would get between the JSON that commands print on standard output.
_QUIET = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}

_REFUSED = range(400, 500)
_WAIT_AND_RETRY = {401, 403, 408, 429}  # may pass without a change of the request itself


class RegistryError(RayscaleError):
    """The MLflow server cannot be reached, or refused a request that should have worked."""

    code: ClassVar[str] = "registry"


class NoRegistryError(ConfigError):
    """``MLFLOW_TRACKING_URI`` is not set: there is no registry to ask."""


def tracking_uri() -> str:
    """The server that ``MLFLOW_TRACKING_URI`` names, without a password in it.

    Name and password in the URI go to MLflow by the variables that it has for them, so that no message, log or setting of a
    cluster repeats them. Raises NoRegistryError when it is unset: MLflow would silently write to a folder of the present directory.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not uri:
        raise NoRegistryError(
            "MLFLOW_TRACKING_URI is not set, so there is no model registry; set it to the MLflow server, as in "
            "`export MLFLOW_TRACKING_URI=http://127.0.0.1:5000` (`rayscale up` starts one and prints it)"
        )
    bare, user, password = split_password(uri)
    if user:
        os.environ.setdefault("MLFLOW_TRACKING_USERNAME", user)
        os.environ.setdefault("MLFLOW_TRACKING_PASSWORD", password)
    return bare


def split_password(uri: str) -> tuple[str, str, str]:
    """A URI without user and password, and the two.

    >>> split_password("https://ann:p%40ss@mlflow.example.org/x")
    ('https://mlflow.example.org/x', 'ann', 'p@ss')
    """
    scheme, slashes, rest = uri.partition("://")
    place, slash, path = rest.partition("/")
    login, at, host = place.rpartition("@")
    if not at or not scheme.startswith("http"):  # of a database, MLflow has no variables for them
        return uri, "", ""
    user, _, password = login.partition(":")
    return f"{scheme}{slashes}{host}{slash}{path}", unquote(user), unquote(password)


def connect() -> Any:
    """An ``MlflowClient`` of the server; nothing is sent yet. The first call imports MLflow (seconds)."""
    uri = tracking_uri()
    for name, value in (_WAITS | _QUIET).items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri, registry_uri=os.environ.get("MLFLOW_REGISTRY_URI") or uri)


def status_of(error: BaseException) -> int:
    """The HTTP status behind an MLflow error; 503 where no answer came."""
    from mlflow.exceptions import RestException

    if isinstance(error, RestException):
        return int(error.get_http_status_code())
    response = getattr(
        error, "response", None
    )  # requests.HTTPError, from the transfer of artifacts
    return int(getattr(response, "status_code", None) or 503)


def is_permanent(error: BaseException) -> bool:
    """Whether sending the same request again can only fail again."""
    status = status_of(error)
    return status in _REFUSED and status not in _WAIT_AND_RETRY


def is_missing(error: BaseException) -> bool:
    """Whether the server said that what was asked for does not exist."""
    return status_of(error) == 404


@contextmanager
def asking(what: str) -> Iterator[None]:
    """Turn MLflow's errors in the block into RegistryError, which names the server and the way out."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException

    try:
        yield
    except (MlflowException, RequestException, OSError) as error:
        detail = without_passwords(str(error).strip().partition("\n")[0])[:160]
        place = f"MLFLOW_TRACKING_URI={without_passwords(tracking_uri())}"
        status = status_of(error)
        if status in {401, 403}:
            raise RegistryError(
                f"cannot {what}: {place} denied access ({detail}); check MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, and that the server allows this host (mlflow server --allowed-hosts)"
            ) from error
        if status in _REFUSED:
            raise RegistryError(f"cannot {what}: {place} refused: {detail}") from error
        raise RegistryError(
            f"cannot {what}: {place} does not answer as an MLflow server ({detail}); start it "
            "(`rayscale up` on one machine) or set MLFLOW_TRACKING_URI to the one to use"
        ) from error


def ensure_experiment(client: Any, name: str) -> str:
    """The id of the experiment ``name``, made when it is not there."""
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except Exception as error:
            found = client.get_experiment_by_name(name)  # another process was first
            if found is None:
                raise error
    return str(found.experiment_id)


def pages(search: Any) -> Iterator[Any]:
    """What a search of the client finds, over all pages of its answer."""
    token = None
    while True:
        page = search(max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
