"""What a place in object storage allows, found by trying each call that rayscale makes, on objects of its own.

The objects are ``_rayscale/doctor/<random>``, and all are deleted again. Conditional writes keep two drivers from one target:
a server that answers them without heeding them is found here, not when two have written.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any

from rayscale.errors import NotFoundError, RayscaleError
from rayscale.operations.findings import Finding, failing, ok
from rayscale.storage import Store
from rayscale.storage.s3 import S3Store
from rayscale.storage.s3_client import get_client
from rayscale.storage.s3_errors import code_of, explain

FOLDER = "_rayscale/doctor/"

_DATA = b"rayscale doctor"
_SKEW_S = 5.0  # of clocks; AWS refuses requests from a quarter of an hour on
_REFUSED_SKEW_S = 900.0

_ACTIONS = {
    "list": "s3:ListBucket",
    "write": "s3:PutObject",
    "read": "s3:GetObject",
    "read a part": "s3:GetObject",
    "create only": "s3:PutObject",
    "replace only": "s3:PutObject",
    "write in parts": "s3:PutObject and s3:AbortMultipartUpload",
    "list unfinished uploads": "s3:ListBucketMultipartUploads",
    "delete": "s3:DeleteObject",
}


def try_rights(store: Store) -> list[Finding]:
    """Try every call below ``store``; a finding for each, and for the clock of an S3 server."""
    trial = _Trial(store)
    steps: dict[str, Callable[[], str]] = {
        "list": trial.list,
        "write": trial.write,
        "read": trial.read,
        "read a part": trial.read_part,
        "create only": trial.create,
        "replace only": trial.replace,
    }
    if isinstance(store, S3Store):
        steps |= {
            "write in parts": trial.write_parts,
            "list unfinished uploads": trial.list_uploads,
        }
    steps["delete"] = trial.delete
    for name, step in steps.items():
        advice = f"allow {_ACTIONS[name]} for this key on {store.uri}"
        if not isinstance(store, S3Store):
            advice = f"let this user read and write below {store.uri}"
        with failing(f"storage: {name}", advice, trial.findings.append):
            if problem := step():
                trial.findings.append(Finding(f"storage: {name}", "failed", problem, _SERVER))
            else:
                trial.findings.append(ok(f"storage: {name}", store.uri))
        if name == "list" and trial.findings[-1].state == "failed":
            return trial.findings  # the rest would say the same again
    trial.clean()
    if isinstance(store, S3Store):
        trial.findings.extend(compare_clock(store))
    return trial.findings


_SERVER = (
    "this server does not do what S3 does: use another one (docs/storage.md lists those that were tested), and never let "
    "two drivers work on one target of this one"
)


class _Trial:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.key = f"{FOLDER}{secrets.token_hex(8)}"
        self.findings: list[Finding] = []

    def list(self) -> str:
        next(iter(self.store.list(FOLDER)), None)
        return ""

    def write(self) -> str:
        self.store.write(self.key, _DATA)
        return ""

    def read(self) -> str:
        return "" if self.store.read(self.key) == _DATA else "other bytes came back"

    def read_part(self) -> str:
        part = self.store.read_range(self.key, 9, 3)
        return "" if part == _DATA[9:12] else f"asked for three bytes, {len(part)} came"

    def create(self) -> str:
        if self.store.write(self.key, b"another", if_absent=True) is not None:
            return (
                "a write that may only create an object has replaced one (If-None-Match is ignored)"
            )
        return ""

    def replace(self) -> str:
        before = self.store.stat(self.key).etag
        if self.store.write(self.key, _DATA + b"!", if_match=before) is None:
            return "the current version was not replaced (If-Match)"
        if self.store.write(self.key, b"late", if_match=before) is not None:
            return "a version that is gone was replaced (If-Match)"
        if isinstance(self.store, S3Store) and not self._heeds_match(before):
            self.findings.append(
                Finding(
                    "storage: replace only, by the server",
                    "warning",
                    "the server ignores or refuses If-Match, so versions are compared just before a write",
                    "two ingresses may change the record of one batch in the same moment; AWS and MinIO know the condition",
                )
            )
        return ""

    def _heeds_match(self, gone: str) -> bool:
        from botocore.exceptions import ClientError

        address = self._address()
        try:
            get_client().put_object(**address, Body=b"late", IfMatch=f'"{gone}"')
        except ClientError as error:
            return code_of(error) in {"PreconditionFailed", "412"}
        return False

    def write_parts(self) -> str:
        address, client = self._address(".parts"), get_client()
        assert isinstance(self.store, S3Store)
        with explain(self.store.locate(self.key), self.store.bucket):
            begun = client.create_multipart_upload(**address)
            upload = {**address, "UploadId": begun["UploadId"]}
            try:
                part = client.upload_part(**upload, PartNumber=1, Body=_DATA)
                parts = [{"PartNumber": 1, "ETag": part["ETag"]}]
                client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
            except BaseException:
                with suppress(Exception):
                    client.abort_multipart_upload(**upload)
                raise
        return "" if self.store.read(f"{self.key}.parts") == _DATA else "other bytes came back"

    def list_uploads(self) -> str:
        next(iter(self.store.child(FOLDER).list_unfinished()), None)
        return ""

    def delete(self) -> str:
        self.clean(strict=True)
        return "the object is still there" if self.store.exists(self.key) else ""

    def clean(self, *, strict: bool = False) -> None:
        """Delete what was written."""
        for key in (self.key, f"{self.key}.parts"):
            try:
                self.store.delete(key)
            except RayscaleError as error:
                if strict and not isinstance(error, NotFoundError):
                    raise

    def _address(self, suffix: str = "") -> dict[str, Any]:
        assert isinstance(self.store, S3Store)
        return {"Bucket": self.store.bucket, "Key": self.store.full(self.key + suffix)}


def compare_clock(store: S3Store) -> Iterator[Finding]:
    """How far the clocks of this machine and the server are apart; its answers tell whole seconds."""
    with suppress(Exception):  # not every server tells the time
        before = time.time()
        answer = get_client().head_bucket(Bucket=store.bucket)
        told = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()
        yield judge_clock("clock: storage", max(0.0, before - told - 1, told - time.time()))


def judge_clock(check: str, apart: float) -> Finding:
    """A finding of how many seconds two clocks are apart at least."""
    found = f"{apart:.1f} s apart" if apart else "they agree"
    if apart < _SKEW_S:
        return ok(check, found)
    state: Any = "failed" if apart >= _REFUSED_SKEW_S else "warning"
    return Finding(
        check,
        state,
        found,
        "synchronise the clocks (chrony or systemd-timesyncd); S3 refuses 15 minutes",
    )
