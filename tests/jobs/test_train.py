"""``jobs/train.py --system aplus`` on a Ray of its own and on the stack of the tests."""

from __future__ import annotations

import itertools
import signal
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from tests.plugins.signals import interrupt, own_lines, start

from rayscale import registry
from rayscale.cli import run
from rayscale.evaluation import evaluate, read_pairs
from rayscale.inference import Upscaler
from rayscale.local import Addresses
from rayscale.models.weights import load_model
from rayscale.options import Options
from rayscale.resampling import degrade
from rayscale.training.run import lease_of, read_result


def main(arguments: list[str]) -> int:
    """The command of the script with ``--system aplus``, in this process."""
    return run("train", "--system", "aplus", *arguments)


@pytest.mark.parametrize(
    ("arguments", "taught"),
    [
        ((), "rayscale prepare SOURCE TARGET"),
        (("--set", "model.atom=1"), "did you mean model.atoms"),
        (("--set", "data.uri=/nowhere", "--register", "x"), "MLFLOW_TRACKING_URI"),
        (("--workers", "2"), "--set workers.cpus=2"),
    ],
)
def test_wrong_usage_is_explained_with_exit_code_2(
    arguments: tuple[str, ...], taught: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAYSCALE_DATASET", raising=False)
    assert main(list(arguments)) == 2
    assert taught in capsys.readouterr().err


def test_every_option_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list-options", "--set", "model.scale=3"]) == 0
    shown = capsys.readouterr().out
    assert "regressors.neighbours=2048" in shown
    assert "half a million" in shown
    assert "model.scale=3 " in shown


def test_it_trains_registers_and_tells_what_is_wrong(
    stack: Addresses, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--set", f"data.uri={dataset}", "--set", "run.name=tiny"]
    for small in (
        "model.atoms=4", "model.features=4", "data.sizes=1", "dictionary.samples=500",
        "dictionary.iterations=1", "regressors.neighbours=50", "data.samples=1000",
    ):  # fmt: skip
        arguments += ["--set", small]
    assert main([*arguments, "--set", "regressors.neighbours=100000"]) == 1
    assert "fewer than the 100000 neighbours" in capsys.readouterr().err

    assert main([*arguments, "--register", "aplus-tiny", "--alias", "default"]) == 0
    result = read_result(str(dataset.parent / "runs" / "tiny"))
    assert str(result.weights) in capsys.readouterr().out
    version = registry.resolve("aplus-tiny")
    assert version.digest == result.sha256
    assert version.spec.system == "aplus"
    assert version.dataset_digest == result.dataset["digest"]

    # The version has the figures of the images that are there, and says of which.
    pixels = np.asarray(PIL.Image.open(dataset.parent / "source/0.png"))
    for side in (48, 96):
        (dataset.parent / "set").mkdir(exist_ok=True)
        for kind, image in (("HR", pixels[:side]), ("LR", degrade(pixels[:side], 2))):
            PIL.Image.fromarray(image).save(dataset.parent / "set" / f"a_{kind}.png")
        scored = [*arguments, "--set", f"validation.uri={dataset.parent / 'set'}"]
        assert main([*scored, "--register", "aplus-tiny"]) == 0
        upscaler = Upscaler(
            load_model(Path(str(result.weights))), Options(scale=2, precision="float32")
        )
        report = evaluate(upscaler, read_pairs(dataset.parent / "set", 2))
        again = registry.resolve("aplus-tiny")
        assert (again.version, again.digest) == (version.version, version.digest)
        figures = (again.scores or {})["validation"]
        assert figures["benchmark"] == report.benchmark
        assert figures["psnr"] == pytest.approx(report.psnr, abs=0.01)

    other = [*arguments, "--set", "run.seed=2"]
    assert main(other) == 2
    assert "fresh=true" in capsys.readouterr().err
    assert main([*other, "--fresh"]) == 0
    assert read_result(result.uri).sha256 != result.sha256


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_task_too(
    checkout: Path, dataset: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """Nothing is saved on the way; the run is free for the next start at once, and no process is left."""
    keys = [f"data.uri={dataset}", "run.name=a", "model.atoms=64", "dictionary.iterations=100000"]
    command = [sys.executable, str(checkout / "jobs/train.py"), "--system", "aplus"]
    command += [word for key in keys for word in ("--set", key)]
    with start(command) as process:
        assert process.stdout is not None
        said = list(itertools.takewhile(lambda line: "dictionary 2/" not in line, process.stdout))
        rest = interrupt(process, number, 120)
    own = own_lines([*said, *rest.splitlines()])
    assert process.returncode == code, own
    assert own[-1] == "interrupted: the same command starts over"
    assert "Traceback" not in "".join(own)
    assert "*** SIG" not in rest
    with lease_of(str(tmp_path / "runs/a")):
        pass
