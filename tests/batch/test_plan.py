"""What is left to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rayscale.batch.actors import start_row
from rayscale.batch.plan import Plan, Recipe, check_apart, make_plan
from rayscale.batch.run import _open_model
from rayscale.errors import ConfigError, NotFoundError
from rayscale.storage import Store, connect

RECIPE = Recipe("m/1", "d" * 64, 2)


def keys(plan: Plan) -> list[str]:
    return [entry.key for entry in plan.todo]


@pytest.fixture
def places(tmp_path: Path) -> tuple[Store, Store]:
    source, target = connect(tmp_path / "in"), connect(tmp_path / "out")
    for key in ("a.png", "b.png", "c/d.tif", ".DS_Store", "c/.x/y.png", "_rayscale/manifest/1"):
        source.write(key, key.encode())
    return source, target


def test_only_what_is_whole_and_told_is_done(places: tuple[Store, Store]) -> None:
    source, target = places
    plan = make_plan(source, target, {}, RECIPE)
    assert keys(plan) == ["a.png", "b.png", "c/d.tif"]
    assert plan.ignored == 3
    rows = {}
    for entry in plan.todo:
        etag = target.write(entry.key, b"out") or ""
        rows[entry.key] = replace(start_row(entry, RECIPE), output_etag=etag)
    assert (
        make_plan(source, target, rows, RECIPE).done,
        keys(make_plan(source, target, rows, RECIPE)),
    ) == (3, [])
    renamed = replace(RECIPE, model="m@production")  # another name of the same weights
    assert make_plan(source, target, rows, renamed).done == 3

    for other in (
        replace(RECIPE, digest="e" * 64),
        replace(RECIPE, scale=3),
        replace(RECIPE, ensemble=True),
        replace(RECIPE, consistency=True),
    ):
        assert make_plan(source, target, rows, other).done == 0
    source.write("a.png", b"new content")
    target.delete("b.png")
    target.write("c/d.tif", b"by somebody else")
    assert keys(make_plan(source, target, rows, RECIPE)) == ["a.png", "b.png", "c/d.tif"]
    del rows["a.png"]
    assert "a.png" in keys(make_plan(source, target, rows, RECIPE))


def test_failures_limit_and_pattern(places: tuple[Store, Store]) -> None:
    source, target = places
    rows = {e.key: replace(start_row(e, RECIPE), error="bad_image") for e in source.list("a")}
    assert "a.png" in keys(make_plan(source, target, rows, RECIPE))
    kept = make_plan(source, target, rows, RECIPE, retry_failed=False)
    assert [row.key for row in kept.kept] == ["a.png"]
    assert keys(kept) == ["b.png", "c/d.tif"]
    limited = make_plan(source, target, {}, RECIPE, limit=1)
    assert (keys(limited), limited.left, limited.total) == (["a.png"], 2, 3)
    assert keys(make_plan(source, target, {}, RECIPE, only="*.tif")) == ["c/d.tif"]
    with pytest.raises(NotFoundError, match=r"no input in .* matches"):
        make_plan(source, target, {}, RECIPE, only="*.gif")
    with pytest.raises(NotFoundError, match="no input"):
        make_plan(target, source, {}, RECIPE)


@pytest.mark.parametrize(
    ("source", "target", "apart"),
    [
        ("s3://a/in", "s3://a/out", True),
        ("s3://a/in", "s3://a/in-2", True),
        ("s3://a", "s3://b", True),
        ("s3://a/in", "s3://a/in/", False),
        ("s3://a", "s3://a/out", False),
        ("s3://a/in/x", "s3://a/in", False),
        ("pictures", "pictures/out", False),
        ("pictures/../x", "x", False),
        ("s3://a", "a", True),
    ],
)
def test_outputs_never_become_inputs(source: str, target: str, apart: bool) -> None:
    if apart:
        check_apart(connect(source), connect(target))
    else:
        with pytest.raises(ConfigError, match="overlap"):
            check_apart(connect(source), connect(target))


def test_a_link_does_not_hide_the_overlap(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to("in")
    with pytest.raises(ConfigError, match="overlap"):
        check_apart(connect(tmp_path / "in"), connect(tmp_path / "link/out"))


def test_a_whole_scale_is_one_recipe_however_it_is_given() -> None:
    assert RECIPE.id == "1f8a6ac5656df7ae"  # of outputs that exist
    network, recipe = _open_model("bicubic", 2.0, None, False, "auto")
    assert recipe == Recipe("bicubic", "built-in:bicubic", 2)
    assert recipe.id == Recipe("bicubic", "built-in:bicubic", 2).id
    assert _open_model("bicubic", 2.5, None, False, "auto")[1].scale == 2.5
    with pytest.raises(ConfigError, match="--scale"):
        _open_model("bicubic", None, None, False, "auto")
    assert network.scales == (2, 3, 4)
