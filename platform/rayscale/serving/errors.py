"""The errors of the service and the one table of all that it refuses: status, code, meaning, way out.

Endpoints raise and contain no handling of their own; ``refusals`` makes answers of errors. What is in no row of the table
is a defect and answers 500 without telling internals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rayscale.errors import (
    InputError,
    NonFiniteOutputError,
    NotFoundError,
    OutOfMemoryError,
    RayscaleError,
    TooLargeError,
    UnsupportedError,
)


class BadParameterError(RayscaleError):
    """A query parameter that cannot be honoured."""

    code = "bad_parameter"


class LengthRequiredError(RayscaleError):
    """A body whose length is not announced."""

    code = "length_required"


class BodyTimeoutError(RayscaleError):
    """A body that did not arrive in time."""

    code = "body_timeout"


class UnauthorizedError(RayscaleError):
    """No API key, or one that is not known."""

    code = "unauthorized"


class SourceNotAllowedError(RayscaleError):
    """A path or an address where only a name of the registry may stand."""

    code = "source_not_allowed"


class ForbiddenError(RayscaleError):
    """A model or a place that the key may not use."""

    code = "forbidden"


class ConflictError(RayscaleError):
    """What is asked does not go together with what there is."""

    code = "conflict"


class QuotaError(RayscaleError):
    """More in a minute than the key may ask for."""

    code = "quota_exceeded"

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message, retry_after_s)
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return str(self.args[0])


class OverloadedError(RayscaleError):
    """More work than the queues may hold; the same request will do later."""

    code = "overloaded"


class UnavailableError(RayscaleError):
    """A part of the service is gone for the moment."""

    code = "unavailable"


class DeadlineError(RayscaleError):
    """The answer took longer than the service may take."""

    code = "deadline_exceeded"


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        kind: the error that is answered so; None for what is refused before or beside the application.
        hint: what the client can do.
    """

    status: int
    code: str
    meaning: str
    hint: str
    kind: type[RayscaleError] | None = None


def _row(status: int, kind: type[RayscaleError], hint: str) -> Row:
    return Row(status, kind.code, " ".join((kind.__doc__ or "").split()), hint, kind)


# The first row whose class fits decides, so subclasses stand above their bases.
TABLE: tuple[Row, ...] = (
    Row(400, "bad_request", "Bytes that do not make an HTTP/1.1 request.", "Use an HTTP client."),
    _row(401, UnauthorizedError, "Send a key as 'Authorization: Bearer KEY'."),
    _row(403, SourceNotAllowedError, "Name a model as GET /v1/models lists it."),
    _row(403, ForbiddenError, "Use another key, or ask who runs the service."),
    _row(404, NotFoundError, "GET /v1/models lists the models, /docs the paths."),
    Row(405, "method_not_allowed", "A method that the path does not have.", "See /docs."),
    _row(408, BodyTimeoutError, "Send it again over a faster line, or a smaller file."),
    Row(408, "headers_timeout", "Headers that did not end in time.", "Send them at once."),
    _row(409, ConflictError, "Look at the batch with GET /v1/batches/ID, then decide."),
    _row(411, LengthRequiredError, "Send a file, whose length is known, not a stream."),
    _row(413, TooLargeError, "Send it in parts, or let a batch read it from a bucket."),
    _row(415, UnsupportedError, "Convert it to a container and pixel type that are read."),
    _row(422, InputError, "Check the file; `rayscale info FILE` reads it in the same way."),
    _row(422, BadParameterError, "/docs lists the parameters and their values."),
    _row(429, OverloadedError, "Send it again after the seconds in Retry-After."),
    _row(429, QuotaError, "Send it again after the seconds in Retry-After."),
    Row(431, "headers_too_large", "A request line and headers over their limit.", "Send less."),
    _row(500, NonFiniteOutputError, "Use another model, or another version of it."),
    Row(500, "internal", "A defect; the log of the service has it.", "Report the request id."),
    _row(503, UnavailableError, "Send it again after the seconds in Retry-After."),
    _row(504, DeadlineError, "Send a smaller image, or use a batch."),
    _row(507, OutOfMemoryError, "Send it in parts, or use a batch."),
)

STATUS: Mapping[type[RayscaleError], int] = {
    row.kind: row.status for row in TABLE if row.kind is not None
}


def row_of(error: RayscaleError) -> Row | None:
    """The row of the table for ``error``; None for a defect."""
    return next((row for row in TABLE if row.kind and isinstance(error, row.kind)), None)


def hint_of(status: int, code: str) -> str | None:
    """The way out of a refusal; of a code that no row has, that of its status."""
    rows = [row for row in TABLE if row.status == status]
    exact = [row for row in rows if row.code == code]
    return next((row.hint for row in exact or rows), None)
