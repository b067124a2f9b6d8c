"""Several images in one body: ``multipart/form-data`` read without a copy, within its limits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from rayscale.errors import InputError, TooLargeError, quantity
from rayscale.serving.errors import BadParameterError

_MOST_HEAD = 4096
_PARAMETER = re.compile(r';\s*([A-Za-z*]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;"\s]+))')


@dataclass(frozen=True)
class Part:
    """One file of a form: the name of its field, its file name without folders ("" without one), and its bytes."""

    field: str
    name: str
    data: memoryview


def is_form(content_type: str) -> bool:
    """Whether a body of this ``Content-Type`` holds several parts."""
    return content_type.lower().startswith("multipart/")


def read_form(body: bytes, content_type: str, *, most: int, max_bytes: int) -> list[Part]:
    """The files of a form, in their order; each a view of ``body``.

    Args:
        most: files (RAYSCALE_SERVE_MAX_PARTS).
        max_bytes: of one file (RAYSCALE_MAX_INPUT_BYTES).

    Raises:
        InputError: not a form as RFC 7578 has it, or one without a file.
        BadParameterError: a part that is not a file: options stand in the query.
        TooLargeError: too many files, or one that is too large.
    """
    boundary = _parameters(content_type).get("boundary", "")
    if not 1 <= len(boundary) <= 70:
        raise InputError("the Content-Type of the form names no boundary of 1 to 70 characters")
    mark = b"--" + boundary.encode("latin-1", "replace")
    view = memoryview(body)
    parts: list[Part] = []
    start = _begin(body, mark)
    while body[start : start + 2] != b"--":
        head_end = body.find(b"\r\n\r\n", start, start + _MOST_HEAD)
        end = body.find(b"\r\n" + mark, max(head_end + 2, start))
        if body[start : start + 2] != b"\r\n" or head_end < 0 or end < 0:
            raise InputError(f"part {len(parts) + 1} of the form is cut short or has no header")
        if len(parts) == most:
            raise TooLargeError(
                f"the form has more than {quantity(most, 'file')} (RAYSCALE_SERVE_MAX_PARTS); send several, or use a batch"
            )
        part = _part(body[start + 2 : head_end + 2], view[head_end + 4 : end], len(parts) + 1)
        if len(part.data) > max_bytes:
            raise TooLargeError(
                f"file {len(parts) + 1} of the form has {len(part.data)} bytes, over the limit of {max_bytes} "
                "(RAYSCALE_MAX_INPUT_BYTES)"
            )
        parts.append(part)
        start = end + 2 + len(mark)
    if not parts:
        raise InputError("the form holds no file; send each as a part (curl -F image=@FILE)")
    return parts


def _begin(body: bytes, mark: bytes) -> int:
    """Where the first part begins, behind its boundary; a preamble is passed over."""
    if body.startswith(mark):
        return len(mark)
    found = body.find(b"\r\n" + mark, 0, _MOST_HEAD)
    if found < 0:
        raise InputError("the body does not begin with the boundary that its Content-Type names")
    return found + 2 + len(mark)


def _part(head: bytes, data: memoryview, number: int) -> Part:
    for line in head.decode("utf-8", "replace").split("\r\n"):
        header, _, value = line.partition(":")
        if header.strip().lower() == "content-disposition":
            parameters = _parameters(value)
            break
    else:
        raise InputError(f"part {number} of the form has no Content-Disposition")
    field = parameters.get("name", "")
    encoded = parameters.get("filename*", "").rpartition("'")[2]
    name: str | None = unquote(encoded) if encoded else parameters.get("filename")
    if name is None:
        raise BadParameterError(
            f"{field[:80]!r} is a field of the form, which takes files only; options stand in the query: "
            "/v1/upscale?scale=2"
        )
    return Part(field, re.split(r"[/\\]", name)[-1], data)


def _parameters(value: str) -> dict[str, str]:
    found = {}
    for name, quoted, bare in _PARAMETER.findall(value):
        found[name.lower()] = re.sub(r"\\(.)", r"\1", quoted) if quoted else bare
    return found
