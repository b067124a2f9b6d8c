"""Which objects of a source are inputs."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from tests.plugins.stack import Bucket

from rayscale.batch.inputs import (
    find_inputs,
    find_object,
    inner_prefix,
    matcher,
    read_keys,
    split_pattern,
)
from rayscale.batch.plan import Method, make_plan
from rayscale.errors import ConfigError, InputError, NotFoundError
from rayscale.options import Options
from rayscale.storage import Store, connect
from rayscale.storage.s3_client import get_client


@pytest.mark.parametrize(
    ("source", "root", "pattern"),
    [
        ("s3://b/2024/**/*.tif", "s3://b/2024", "**/*.tif"),
        ("s3://b/*.png", "s3://b", "*.png"),
        ("s3://b/a", "s3://b/a", None),
        ("dir/*.png", "dir", "*.png"),
        ("*.png", ".", "*.png"),
        ("/tmp/x?/a", "/tmp", "x?/a"),
        ("/*.png", "/", "*.png"),
    ],
)
def test_a_source_is_cut_at_its_first_wildcard(source: str, root: str, pattern: str | None) -> None:
    assert split_pattern(source) == (root, pattern)


def test_a_bucket_is_no_pattern_and_a_folder_of_that_name_neither(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="bucket"):
        split_pattern("s3://b*/a")
    (tmp_path / "what [1]?").mkdir()
    assert split_pattern(tmp_path / "what [1]?") == (str(tmp_path / "what [1]?"), None)


@pytest.mark.parametrize(
    ("pattern", "matches", "others"),
    [
        ("*.png", ["a.png", ".png", "a b%.png"], ["a/b.png", "a.PNG", "a.png.txt"]),
        ("**/*.tif", ["a.tif", "x/a.tif", "x/y/a.tif"], ["a.tiff", "x/a.png"]),
        ("x/**", ["x/a", "x/y/a"], ["x", "xy/a", "x/"]),
        ("x/**/a.tif", ["x/a.tif", "x/y/z/a.tif"], ["xa.tif", "x/ya.tif"]),
        ("tile_??.png", ["tile_01.png"], ["tile_1.png", "tile_/1.png"]),
        ("[ab][!0-9].png", ["ax.png"], ["cx.png", "a1.png", "a/.png"]),
        ("[[]1].png", ["[1].png"], ["1.png"]),
        ("[]].png", ["].png"], ["[.png"]),
        ("a[.png", ["a[.png"], ["a.png"]),
        ("a+(1)^$.png", ["a+(1)^$.png"], ["aa1.png"]),
        ("*\n*", ["a\nb"], ["ab"]),
    ],
)
def test_what_a_pattern_matches(pattern: str, matches: list[str], others: list[str]) -> None:
    expression = matcher(pattern)
    assert [key for key in matches + others if expression.fullmatch(key)] == matches


@pytest.fixture
def source(tmp_path: Path) -> Store:
    store = connect(tmp_path / "in")
    for key in (
        "a.png",
        "sub/b.png",
        "sub/c.tif",
        ".DS_Store",
        "sub/.x/y.png",
        "sub/._b.png",
        "__MACOSX/sub/b.png",
        "sub/Thumbs.db",
        "desktop.ini",
        "_rayscale/manifest/1",
    ):
        store.write(key, key.encode())
    return store


def keys(source: Store, target: Store, **options: object) -> list[str]:
    return [e.key for e in find_inputs(source, target, **options).entries]  # type: ignore[arg-type]


def test_hidden_objects_and_state_are_passed_over(source: Store, tmp_path: Path) -> None:
    target = connect(tmp_path / "out")
    found = find_inputs(source, target)
    assert [entry.key for entry in found.entries] == ["a.png", "sub/b.png", "sub/c.tif"]
    assert (found.ignored, found.covers("anything")) == (7, True)
    some = find_inputs(source, target, pattern="**/*.png")
    assert [entry.key for entry in some.entries] == ["a.png", "sub/b.png"]
    assert (some.covers("q/r.png"), some.covers("c.tif")) == (True, False)
    assert keys(source, target, pattern="sub/*") == ["sub/b.png", "sub/c.tif"]


def test_outputs_inside_the_source_are_no_inputs(source: Store) -> None:
    source.write("out/a.png", b"an output")
    source.write("out-2/a.png", b"an input")
    source.write("B/_rayscale/lease/1.json", b"another batch")
    source.write("B/deep/a.png", b"its output")
    target = source.child("out")
    assert keys(source, target) == ["a.png", "out-2/a.png", "sub/b.png", "sub/c.tif"]
    assert keys(source, target, pattern="**/a.png") == ["a.png", "out-2/a.png"]


def test_listed_keys_are_taken_as_they_are(source: Store) -> None:
    wanted = ["sub/.x/y.png", "a.png", "nothing.png", "../a", "out/a.png", "_rayscale/manifest/1"]
    found = find_inputs(source, source.child("out"), keys=wanted)
    assert [entry.key for entry in found.entries] == ["a.png", "sub/.x/y.png"]
    assert {key: error.code for key, error in found.missing.items()} == {
        "nothing.png": "not_found",
        "../a": "bad_configuration",
        "out/a.png": "bad_configuration",
        "_rayscale/manifest/1": "bad_configuration",
    }


@pytest.mark.parametrize(
    ("source", "target", "inside"),
    [
        ("s3://a/in", "s3://a/out", ""),
        ("s3://a/in", "s3://a/in-2", ""),
        ("s3://a", "s3://b", ""),
        ("s3://a", "a", ""),
        ("s3://a", "s3://a/out", "out/"),
        ("pictures", "pictures/out", "out/"),
        ("s3://a/in", "s3://a/in/", None),
        ("s3://a/in/x", "s3://a/in", None),
        ("pictures/../x", "x", None),
    ],
)
def test_outputs_never_take_the_place_of_inputs(
    source: str, target: str, inside: str | None
) -> None:
    if inside is not None:
        assert inner_prefix(connect(source), connect(target)) == inside
    else:
        with pytest.raises(ConfigError, match="overlap"):
            inner_prefix(connect(source), connect(target))


def test_a_link_does_not_hide_the_overlap(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to("in")
    with pytest.raises(ConfigError, match="overlap"):
        inner_prefix(connect(tmp_path / "in"), connect(tmp_path / "link"))
    assert inner_prefix(connect(tmp_path / "in"), connect(tmp_path / "link/out")) == "out/"


def test_lists_of_keys(tmp_path: Path) -> None:
    wanted = ["a b.png", "#ü.png", " led.png"]
    (tmp_path / "keys.txt").write_text("\r\n".join([*wanted, "", wanted[0]]), "utf-8", newline="")
    lines = [json.dumps({"size": 1, "key": key}) for key in wanted]
    (tmp_path / "keys.JSONL").write_text("\n".join(lines) + "\n")
    table = pyarrow.table({"key": wanted, "other": [1, 2, 3]})
    pyarrow.parquet.write_table(table, tmp_path / "keys.parquet")
    for name in ("keys.txt", "keys.JSONL", "keys.parquet"):
        assert read_keys(tmp_path / name) == wanted


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("k.jsonl", b'{"name": "a"}'),
        ("k.jsonl", b'["key"]'),
        ("k.jsonl", b'{"key": 3}'),
        ("k.jsonl", b"{"),
        ("k.parquet", b"PAR1"),
        ("k.txt", b"\xff\xfe"),
    ],
)
def test_what_is_no_list_of_keys(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match="not a list of keys"):
        read_keys(tmp_path / name)


def test_a_parquet_without_keys(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"name": ["a"]}), tmp_path / "k.parquet")
    with pytest.raises(InputError, match="not a list of keys"):
        read_keys(tmp_path / "k.parquet")
    (tmp_path / "empty.txt").write_bytes(b"\n")
    with pytest.raises(NotFoundError, match="lists no keys"):
        read_keys(tmp_path / "empty.txt")


def test_a_mask_beside_a_raster_is_not_lost_in_silence(tmp_path: Path) -> None:
    store = connect(tmp_path / "in")
    for key in ("a.tif", "a.tif.msk", "b.tif", "c.msk"):
        store.write(key, b"x")
    for pattern in (None, "*"):
        found = find_inputs(store, connect(tmp_path / "out"), pattern=pattern)
        assert [entry.key for entry in found.entries] == ["b.tif", "c.msk"]
        assert found.ignored == 1
        assert found.missing["a.tif"].code == "unsupported_media"
    found = find_inputs(store, connect(tmp_path / "out"), pattern="*.tif")
    assert ([entry.key for entry in found.entries], list(found.missing)) == (["b.tif"], ["a.tif"])


@pytest.mark.parametrize("where", ["folder", "s3"])
def test_one_object_is_a_source(where: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    uri = str(tmp_path) if where == "folder" else f"{request.getfixturevalue('s3').uri}/one"
    store = connect(uri)
    for key in ("in/a[1].png", "in/a1.png", "in/b/c.png"):
        store.write(key, b"x")
    assert find_object(f"{uri}/in/a[1].png") == (f"{uri}/in", "a[1].png")
    for other in ("in", "in/", "in/b", "in/none.png"):
        assert find_object(f"{uri}/{other}") is None
    assert find_object("s3://no-such-bucket") is None
    assert find_object("no such file.png") is None


def test_keys_that_no_output_can_have_are_failures_and_folders_are_counted(s3: Bucket) -> None:
    """A folder made in a console is an empty object with a slash at its end, whatever its name."""
    image = {"/lead.png": b"1", "img.png/": b"1", "in/a.png": b"1"}
    client = get_client()
    for key, data in {**image, "folder/": b"", "folder.png/": b"", "in/": b""}.items():
        client.put_object(Bucket=s3.name, Key=key, Body=data)
    target = connect(f"{s3.uri}/out")
    found = find_inputs(connect(s3.uri), target)
    assert [entry.key for entry in found.entries] == ["in/a.png"]
    assert sorted(found.missing) == ["/lead.png", "img.png/"]
    assert found.ignored == 1  # the folder that one may have taken for an image
    plan = make_plan(found, {}, {}, Method("bicubic", "d", Options(scale=2)))
    assert [(row.key, row.error) for row in plan.missing] == [
        ("/lead.png", "bad_configuration"),
        ("img.png/", "bad_configuration"),
    ]
    assert all(row.key in row.message and "another key" in row.message for row in plan.missing)
    listed = find_inputs(connect(s3.uri), target, keys=["/lead.png", "img.png/", "in/a.png"])
    assert sorted(listed.missing) == ["/lead.png", "img.png/"]
