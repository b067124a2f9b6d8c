"""What is left to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rayscale.batch.inputs import Inputs
from rayscale.batch.job import open_method
from rayscale.batch.plan import Method, Plan, Task, make_plan, start_row
from rayscale.errors import ConfigError, NotFoundError
from rayscale.options import Options
from rayscale.storage import Entry

METHOD = Method("m/1", "d" * 64, Options(scale=2))
INPUTS = Inputs([Entry(key, 3, f"{key}-1") for key in ("a.png", "b.png", "c/d.tif")], ignored=3)
ROWS = {
    entry.key: replace(start_row(entry, METHOD), output_etag=f"out-{entry.key}")
    for entry in INPUTS.entries
}
OUTPUTS = {key: row.output_etag for key, row in ROWS.items()}


def keys(plan: Plan) -> list[str]:
    return [task.entry.key for task in plan.todo]


def test_all_is_to_do_at_first() -> None:
    plan = make_plan(INPUTS, {}, {}, METHOD)
    assert plan.todo == [Task(entry) for entry in INPUTS.entries]
    assert (plan.total, plan.done, plan.ignored, plan.occupied) == (3, 0, 3, 0)


def test_what_is_whole_and_told_is_done() -> None:
    plan = make_plan(INPUTS, OUTPUTS, ROWS, METHOD)
    assert (plan.done, plan.todo) == (3, [])
    renamed = replace(METHOD, model="m@production")  # another name of the same weights
    assert make_plan(INPUTS, OUTPUTS, ROWS, renamed).done == 3


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "e" * 64},
        {"options": Options(scale=3)},
        {"options": Options(scale=2, ensemble=True)},
        {"options": Options(scale=2, consistency=True)},
    ],
)
def test_another_recipe_does_all_again_over_our_own_outputs(change: dict[str, object]) -> None:
    plan = make_plan(INPUTS, OUTPUTS, ROWS, replace(METHOD, **change))
    assert [(task.found, task.ours) for task in plan.todo] == [(e, True) for e in OUTPUTS.values()]
    assert plan.occupied == 0


def test_a_changed_source_a_lost_output_and_a_foreign_one() -> None:
    inputs = Inputs([replace(INPUTS.entries[0], etag="new"), *INPUTS.entries[1:]])
    outputs = {"a.png": OUTPUTS["a.png"], "c/d.tif": "by somebody else"}
    plan = make_plan(inputs, outputs, ROWS, METHOD)
    assert plan.todo == [
        Task(inputs.entries[0], OUTPUTS["a.png"], ours=True),
        Task(inputs.entries[1]),
        Task(inputs.entries[2], "by somebody else"),
    ]
    assert plan.occupied == 1
    without_row = make_plan(INPUTS, OUTPUTS, {}, METHOD)
    assert (without_row.done, without_row.occupied) == (0, 3)


def test_failures_are_tried_again_or_kept() -> None:
    rows = {"a.png": replace(ROWS["a.png"], output_etag="", error="bad_image")}
    assert "a.png" in keys(make_plan(INPUTS, {}, rows, METHOD))
    kept = make_plan(INPUTS, {}, rows, METHOD, retry_failed=False)
    assert kept.kept == list(rows.values())
    assert keys(kept) == ["b.png", "c/d.tif"]
    newer = Inputs([replace(INPUTS.entries[0], etag="new")])  # another file may do better
    assert keys(make_plan(newer, {}, rows, METHOD, retry_failed=False)) == ["a.png"]


def test_a_limit_leaves_the_rest() -> None:
    plan = make_plan(INPUTS, {}, {}, METHOD, limit=1)
    assert (keys(plan), plan.left, plan.total) == (["a.png"], 2, 3)


def test_a_missing_key_is_a_failure() -> None:
    inputs = Inputs(missing={"x.png": NotFoundError("x.png does not exist")})
    (row,) = make_plan(inputs, {}, {}, METHOD).missing
    assert (row.key, row.error, row.message) == ("x.png", "not_found", "x.png does not exist")


def test_a_task_travels_as_text() -> None:
    task = Task(Entry("ü \udcff\n.png", 3, "e"), "f", ours=True)
    assert Task.from_json(task.to_json()) == task


def test_a_whole_scale_is_one_recipe_however_it_is_given() -> None:
    assert METHOD.id == "c92d573c8021dc1b"  # of outputs that exist
    network, method = open_method("bicubic", Options(scale=2.0))
    assert method == Method("bicubic", "built-in:bicubic", Options(scale=2))
    assert method.id == Method("bicubic", "built-in:bicubic", Options(scale=2)).id
    assert open_method("bicubic", Options(scale=2.5))[1].scale == 2.5
    assert open_method("bicubic", Options())[1] == method
    for options in (Options(uncertainty=True), Options(format="png")):
        with pytest.raises(ConfigError, match="a batch writes one output for each input"):
            open_method("bicubic", options)
    assert network.scales == (2, 3, 4)


def test_what_the_user_decides_about_files_makes_another_recipe() -> None:
    others = [{"levels": (0, 10000)}, {"labels": "nearest"}, {"metadata": "strip"}]
    ids = {replace(METHOD, options=Options(scale=2, **other)).id for other in others}
    assert len(ids | {METHOD.id}) == 4
