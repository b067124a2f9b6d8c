"""Queries and places that clients may ask for, most of them wrong."""

from __future__ import annotations

from urllib.parse import quote

from hypothesis import strategies as st

from rayscale.fields import choices_of
from rayscale.options import Options

QUERIES = st.dictionaries(
    st.sampled_from(["model", "x\0", *(each.name for each in choices_of(Options))]),
    st.one_of(
        st.sampled_from(["bicubic", "roofs/1", "2", "1.5", "true", "0..255", "nearest", "strip"]),
        st.text(max_size=30),
        st.floats().map(str),
    ),
    max_size=4,
)
PLACES = st.one_of(
    st.sampled_from(["/v1/upscale", "/v1/models", "/healthz", "/readyz", "/v1/", "/v1/upscale/x"]),
    st.text(st.characters(codec="utf-8"), max_size=30).map(lambda text: "/" + quote(text)),
)
