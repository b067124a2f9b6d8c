"""A sweep that is killed and started again: what ended stays ended, rungs and samplers remember, the rest goes on."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import PIL.Image
import pytest

from rayscale.errors import ConfigError, StorageError
from rayscale.storage import connect
from rayscale.training.config import load_config
from rayscale.tuning.course import Course, follow
from rayscale.tuning.pictures import draw_all, importance
from rayscale.tuning.search import Crew, Tracker
from rayscale.tuning.sweep import Sweep, plan, rank, room
from rayscale.tuning.trials import Journal, Trial
from rayscale.tuning.tune import make_rungs

DATA = ["data.uri=s3://b/d"]


def start(sweep: Sweep, folder: Path, benchmark: dict[str, str] | None = None) -> tuple[Course, Any]:  # fmt: skip
    journal = Journal(connect(str(folder)), benchmark or {})
    journal.load()
    rungs = make_rungs(sweep)
    return follow(sweep, journal, rungs, lambda trial: None), rungs


def is_stopped(rungs: Any, name: str, step: int, loss: float) -> bool:
    """Whether ASHA stops a trial at this report."""
    trial = SimpleNamespace(trial_id=name)
    rungs.on_trial_add(None, trial)
    return bool(rungs.on_trial_result(None, trial, {"step": step, "loss": loss}) == "STOP")


def train_some(course: Course) -> None:
    """Two trials are complete, one is stopped, one diverges, one loses its machine, and one is at work."""
    for name in "abcdef":
        course.take(name)
        course.report(name, {"step": 1, "loss": 4.0, "lr": 1.0})
    for name in "ab":
        course.report(name, {"step": 8, "loss": 1.0})
        course.end(name, "complete")
        course.end(name, "stopped")  # Tune says afterwards that it is done
    course.end("c", "stopped")
    course.end("d", "failed", "the loss is not finite", final=True)
    course.end("e", "failed", "the machine is gone")


@pytest.mark.parametrize("sampler", ["random", "tpe", "gp"])
def test_what_ended_stays_ended_and_the_rest_goes_on(tmp_path: Path, sampler: str) -> None:
    sweep = plan(None, DATA, sampler=sampler, samples=7, steps=8)
    course, _ = start(sweep, tmp_path)
    train_some(course)
    kept = course.journal.listed()
    again, _ = start(sweep, tmp_path)
    assert [trial.state for trial in again.journal.listed()] == [
        "complete", "complete", "stopped", "failed", "running", "running"
    ]  # fmt: skip
    taken = [again.take(name) for name in "wxy"]
    assert [trial.number for trial in taken if trial] == [4, 5, 6]
    assert [trial.values for trial in taken[:2] if trial] == [kept[4].values, kept[5].values]
    last, other = taken[2], course.take("g")
    assert last
    assert other
    # Optuna has learned of one failure less, as that trial is tried again.
    assert (last.values == other.values) == (sampler == "random")
    assert again.take("z") is None
    # More samples are the same sweep, gone on with.
    more, _ = start(plan(None, DATA, sampler=sampler, samples=9, steps=8), tmp_path)
    assert plan(None, DATA, sampler=sampler, samples=9, steps=8).name == sweep.name
    assert len([trial for trial in iter(lambda: more.take("v"), None) if trial]) == 5


def test_the_rungs_of_asha_remember_the_trials_before_a_kill(tmp_path: Path) -> None:
    sweep = plan(None, DATA, samples=8, steps=8)
    course, rungs = start(sweep, tmp_path)
    for name, loss in zip("abcd", (1.0, 2.0, 3.0, 4.0), strict=True):
        course.take(name)
        course.report(name, {"step": 1, "loss": loss})
        is_stopped(rungs, name, 1, loss)
        course.end(name, "complete" if loss < 3 else "stopped")
    forgotten = make_rungs(sweep)
    again, remembered = start(sweep, tmp_path)
    for loss, stops in ((1.5, False), (3.5, True), (2.2, False)):
        assert is_stopped(remembered, f"new {loss}", 1, loss) == stops
        assert is_stopped(rungs, f"new {loss}", 1, loss) == stops
    assert not is_stopped(forgotten, "new", 1, 3.5)
    assert again.take("e").number == 4  # type: ignore[union-attr]


def test_figures_of_other_images_are_forgotten(tmp_path: Path) -> None:
    sweep = plan(None, DATA, samples=6, steps=8)
    train_some(start(sweep, tmp_path)[0])
    course, _ = start(sweep, tmp_path, {"x2": "other"})
    assert {trial.state for trial in course.journal.listed()} == {"running"}
    assert not any(trial.reports for trial in course.journal.listed())


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    train_some(start(plan(None, DATA, samples=6, steps=8), tmp_path)[0])
    (tmp_path / "trials" / "00002.json").write_text("{")
    with pytest.raises(StorageError, match=r"00002.json is damaged.*delete it"):
        start(plan(None, DATA, steps=8), tmp_path)


class Pretending(Crew):
    """Trials whose loss is that of their learning rate; the third start of all is killed."""

    starts = 0

    def _fit(self, course: Course, count: int, rungs: Any) -> None:
        for index in range(count):
            Pretending.starts += 1
            if Pretending.starts == 3:
                raise KeyboardInterrupt
            trial = course.take(str(index))
            assert trial is not None
            loss = trial.values["optimizer.lr"]
            course.report(str(index), {"step": trial.steps, "loss": loss})
            course.end(str(index), "complete")


def test_a_population_that_is_killed_comes_to_the_same_generations(tmp_path: Path) -> None:
    sweep = plan(None, DATA, scheduler="pbt", samples=4, steps=12, generations=3)

    def train(folder: str) -> list[Trial]:
        journal = Journal(connect(str(tmp_path / folder)), {})
        journal.load()
        return Pretending(sweep, journal, None, None, 1, Tracker(sweep)).run_population()

    Pretending.starts = 3
    whole = train("whole")
    assert [trial.steps for trial in whole] == [12] * 4
    assert all(trial.parent and trial.parent[1] == 8 for trial in whole)
    assert len({trial.name for trial in whole}) == 4
    Pretending.starts = 0
    with pytest.raises(KeyboardInterrupt):
        train("killed")
    assert train("killed") == whole
    assert Pretending.starts == 3 + 10, "nothing is trained twice"


def test_trials_share_a_gpu() -> None:
    sweep = plan(None, [*DATA, "workers.gpu_share=0.25"], samples=16)
    concurrent, shares = room(sweep, {"CPU": 16.0, "GPU": 2.0})
    assert (concurrent, shares["workers.gpu"]) == (8, True)
    with pytest.raises(ConfigError, match=r"gpu_share 0.25: 2 workers.*workers.count=1"):
        load_config(None, ["workers.gpu_share=0.25", "workers.count=2"])


def test_the_pictures_show_what_matters() -> None:
    ranges = ["optimizer.lr=log:1e-4:1e-1:5", "data.batch=int:2:6:2"]
    sweep = plan(None, DATA, ranges=ranges, sampler="grid")
    assert sweep.samples == 15
    course = follow(sweep, Journal(connect("/tmp"), {}), None, lambda trial: None)
    trials = list(course.following)
    for trial in trials:
        lr = trial.values["optimizer.lr"]
        trial.state = "failed" if lr > 0.05 else "complete"
        trial.error = "the loss is not finite" if lr > 0.05 else ""
        trial.reports = [{"step": 8.0, "loss": lr + trial.values["data.batch"] * 1e-5}]
    rows = rank(sweep, trials)
    shares = importance(sweep, rows)
    assert shares["optimizer.lr"] > 0.9
    files = draw_all(sweep, rows)
    pictures = {"trials.png", "importance.png", "parallel.png", "surface.png"}
    assert set(files) == {"trials.csv", *pictures}
    for name in pictures:
        PIL.Image.open(io.BytesIO(files[name])).load()
    assert files == draw_all(sweep, rows)
    header, *lines = csv.reader(io.StringIO(files["trials.csv"].decode()))
    assert header == ["optimizer.lr", "data.batch", "step", "loss", "status", "error"]
    assert lines[0][:2] == ["0.0001", "2"]
    assert lines[-1][-2:] == ["failed", "the loss is not finite"]
    failed = [row for row in rows if row["error"]]
    assert set(draw_all(sweep, failed)) == {"trials.csv", "trials.png", "parallel.png"}
