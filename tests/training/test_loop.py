"""A whole run: what it leaves in storage, and that stopping anywhere changes nothing."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from rayscale.data import PrepareConfig, prepare
from rayscale.errors import ConfigError, NotFoundError, StorageError
from rayscale.models.systems import create_model
from rayscale.models.weights import load_model
from rayscale.resampling import degrade
from rayscale.storage.lease import BusyError
from rayscale.training.config import TrainConfig, load_config
from rayscale.training.loop import train
from rayscale.training.ray import fit
from rayscale.training.run import Run, describe, erase, read_result, record
from rayscale.tuning.trial import adopt

Make = Callable[..., TrainConfig]


class StopError(Exception):
    """Stands for a kill between two steps."""


def weights(uri: str) -> dict[str, torch.Tensor]:
    return load_model(Path(uri)).state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_leaves_a_model_and_its_result(make_config: Make, memory: Any) -> None:
    result = train(make_config(), device="cpu", metrics=memory)
    assert result.complete
    assert result.steps == 6
    folder = Path(result.uri)
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoints", "config.yaml", "lease", "model.safetensors", "result.json",
    ]  # fmt: skip
    assert read_result(result.uri) == result
    stored = json.loads((folder / "result.json").read_text())
    assert stored["dataset"]["digest"]
    assert stored["model"]["filters"] == 8
    assert load_config(folder / "config.yaml").digest == result.config_digest
    assert [step for step, _ in memory.points] == [2, 4, 6]
    assert set(memory.points[0][1]) - {"joules"} == {
        "loss", "grad_norm", "lr", "steps_per_s", "patches_per_s", "data_wait", "flops", "peak_share",
        "memory_bytes", "seconds_left", "work_seconds", "megapixels", "patch_bytes",
    }  # fmt: skip
    assert memory.params["optimizer.lr"] == 1e-3
    assert "steps/s" in describe(result)["speed"]
    assert same(
        weights(f"{result.uri}/model.safetensors"),
        weights(f"{result.uri}/checkpoints/step-00000006/weights.safetensors"),
    )


def test_a_run_on_pairs_learns_from_their_lr_images(
    make_config: Make, small_world: Path, tmp_path: Path
) -> None:
    """Pairs that differ from bicubic by 40 levels, which training takes away; validation reads them by the same layout."""
    for path in (small_world / "source").iterdir():
        hr = np.array(PIL.Image.open(path)) // 2 + 40
        for name, pixels in (("HR", hr), ("LR_camera/X2", degrade(hr, 2) + 40)):
            folder = tmp_path / "pairs" / name
            folder.mkdir(parents=True, exist_ok=True)
            stem = path.stem + ("x2" if "X2" in name else "")
            PIL.Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{stem}.png")
    config = PrepareConfig(size=96, step=96, minimum=48)
    manifest = prepare(tmp_path / "pairs", tmp_path / "set", config)
    assert (manifest.lr, manifest.scales) == ("pairs", (2,))
    options = [f"data.uri={tmp_path / 'set'}", f"validation.uri={tmp_path / 'pairs'}"]
    options += ["optimizer.steps=60", "checkpoint.every=60", "validation.every=60"]
    result = train(make_config(*options), device="cpu")
    assert result.complete
    assert (
        json.loads(Path(result.uri, "result.json").read_text())["dataset"]["digest"]
        == manifest.digest
    )
    # What learned from bicubic images leaves the 40 levels there, which is 16 dB.
    assert result.metrics["psnr"] > 20


MDSR = ("model.name=mdsr-baseline", "model.scales=[2, 4]")


@pytest.mark.parametrize(
    "extra",
    [(), ("optimizer.schedule=cosine", "optimizer.ema=0.9"), MDSR],
    ids=["step", "cosine", "mdsr"],
)
def test_an_interrupted_run_ends_bit_equal(make_config: Make, extra: tuple[str, ...]) -> None:
    whole = train(make_config("run.name=whole", *extra), device="cpu")
    halves = make_config("run.name=halves", "validation.every=5", *extra)

    def stop(figures: dict[str, float]) -> None:
        if figures["step"] == 5:  # one step after the checkpoint of step 4
            raise StopError

    with pytest.raises(StopError):
        train(halves, device="cpu", report=stop)
    assert Run(halves.identified()).checkpoints.steps()[-1] == 4
    result = train(halves, device="cpu")
    assert result.complete
    assert same(weights(str(whole.weights)), weights(str(result.weights)))
    assert whole.sha256 == result.sha256
    last = [
        Run(c.identified()).checkpoints.load(6).state
        for c in (halves, make_config("run.name=whole", *extra))
    ]
    for key, value in last[0]["optimizer"]["state"][0].items():
        assert torch.equal(
            torch.as_tensor(value), torch.as_tensor(last[1]["optimizer"]["state"][0][key])
        )


def test_training_longer_continues_the_same_curve(make_config: Make) -> None:
    train(make_config("run.name=a", "optimizer.steps=4"), device="cpu")
    longer = train(make_config("run.name=a"), device="cpu")
    at_once = train(make_config("run.name=b"), device="cpu")
    assert longer.steps == 6
    assert same(weights(str(longer.weights)), weights(str(at_once.weights)))


def test_a_run_that_adopts_a_checkpoint_goes_on_as_its_parent_would(make_config: Make) -> None:
    """Population based training: weights, moments and running mean come along, and the new rate holds from there."""
    options = ("optimizer.ema=0.9", "optimizer.steps=4")
    train(make_config("run.name=parent", *options), device="cpu")
    whole = train(make_config("run.name=whole", options[0]), device="cpu")
    for rate in (1e-3, 2e-3):
        child = make_config(f"run.name=child-{rate:g}", options[0], f"optimizer.lr={rate}")
        adopt(child, ("parent", 4))
        result = train(child, device="cpu")
        adopt(child, ("parent", 4))  # a second start finds its own
        assert same(weights(str(whole.weights)), weights(str(result.weights))) == (rate == 1e-3)
        assert Run(child.identified()).checkpoints.steps()[0] == 4
    with pytest.raises(NotFoundError):
        adopt(make_config("run.name=orphan"), ("nobody", 4))


def test_a_finished_run_is_not_repeated(make_config: Make, memory: Any) -> None:
    first = train(make_config(), device="cpu")
    assert train(make_config(), device="cpu", metrics=memory) == first
    assert memory.points == []


def test_a_result_is_json_whatever_its_figures(make_config: Make) -> None:
    result = train(make_config(), device="cpu")
    exact = replace(result, metrics=result.metrics | {"psnr": math.inf}, protocol="rgb")
    record(exact)
    path = Path(result.uri, "result.json")
    values = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert read_result(result.uri) == exact
    path.write_text(json.dumps(values | {"of_a_later_version": 1}))
    assert read_result(result.uri) == exact
    for damage in ("[]", "{", '{"name": "a"}'):
        path.write_text(damage)
        with pytest.raises(StorageError, match="is damaged"):
            read_result(result.uri)


def test_another_configuration_is_refused_under_the_same_name(make_config: Make) -> None:
    train(make_config("run.name=a"), device="cpu")
    with pytest.raises(
        ConfigError, match=r"optimizer\.lr \(0\.001 there, 0\.002 here\).*fresh=true"
    ):
        train(make_config("run.name=a", "optimizer.lr=2e-3"), device="cpu")
    erase(make_config("run.name=a").identified().uri)
    assert train(make_config("run.name=a", "optimizer.lr=2e-3"), device="cpu").complete


def test_the_digest_of_a_dataset_decides_and_not_its_address(
    make_config: Make, small_world: Path, tmp_path: Path
) -> None:
    first = train(make_config("optimizer.steps=4"), device="cpu")
    shutil.copytree(small_world / "dataset", tmp_path / "moved")
    moved = make_config(f"data.uri={tmp_path / 'moved'}")
    longer = train(moved, device="cpu")
    assert (longer.uri, longer.steps) == (first.uri, 6)
    assert longer.sha256 == train(make_config("run.name=whole"), device="cpu").sha256
    assert train(moved, device="cpu") == longer, "the result is known at both addresses"
    assert train(make_config(), device="cpu") == longer


def test_another_dataset_at_the_same_address_is_another_run(
    make_config: Make, small_world: Path, tmp_path: Path
) -> None:
    place = tmp_path / "dataset"
    shutil.copytree(small_world / "dataset", place)
    first = train(make_config(f"data.uri={place}", "run.name=a"), device="cpu")
    shutil.rmtree(place)
    config = PrepareConfig(scales=(2, 4), size=96, step=96, minimum=48, images_per_shard=2)
    manifest = prepare(str(small_world / "source"), str(place), config)
    with pytest.raises(
        ConfigError, match=rf"data\.digest \({first.dataset['digest']} there, {manifest.digest}"
    ):
        train(make_config(f"data.uri={place}", "run.name=a"), device="cpu")
    pinned = make_config(f"data.uri={place}", f"data.digest={first.dataset['digest']}")
    with pytest.raises(ConfigError, match=rf"has the digest {manifest.digest}.*data\.digest=null"):
        train(pinned, device="cpu")


@pytest.mark.slow
def test_a_second_start_of_a_run_is_refused_with_who_trains_it(make_config: Make) -> None:
    config = make_config()
    refused: list[BusyError] = []

    def start_again(figures: dict[str, float]) -> None:
        for second in (
            lambda: train(config, device="cpu"),
            lambda: fit(config),
            lambda: fit(config, fresh=True),
        ):
            with pytest.raises(
                BusyError, match=rf"since \d{{4}}-.*process {os.getpid()}"
            ) as caught:
                second()
            refused.append(caught.value)

    alone = train(make_config("run.name=alone"), device="cpu")
    result = train(config, device="cpu", report=start_again)
    assert len(refused) == 3
    assert result.sha256 == alone.sha256, "the first goes on undisturbed"
    assert fit(config) == result, "a finished run is read, whoever asks"


def test_a_run_that_another_process_took_over_writes_nothing_any_more(make_config: Make) -> None:
    config = make_config("validation.every=3", "run.name=a")
    run = Run(config.identified())

    def succeed(figures: dict[str, float]) -> None:
        run.store.write("lease/00000009.json", b'{"host": "other", "pid": 7}')

    with pytest.raises(BusyError, match="host other, process 7"):
        train(config, device="cpu", report=succeed)
    assert run.checkpoints.steps() == [2]


def test_fewer_checkpoints_are_kept_only_of_those_that_can_be_read(
    make_config: Make, caplog: pytest.LogCaptureFixture
) -> None:
    whole = train(make_config("run.name=whole", "optimizer.steps=8"), device="cpu")
    run = Run(make_config("run.name=a").identified())
    train(run.config, device="cpu")
    Path(run.config.uri, "checkpoints/step-00000006/weights.safetensors").write_bytes(b"")
    with caplog.at_level("INFO", "rayscale.training.loop"):
        last = make_config("run.name=a", "optimizer.steps=8", "checkpoint.keep=1")
        result = train(last, device="cpu")
    assert f"resumed {run.config.uri} from step 4" in caplog.text
    assert run.checkpoints.steps() == [8]
    assert result.sha256 == whole.sha256


def test_a_run_that_is_stopped_leaves_a_checkpoint_and_resumes(
    make_config: Make, memory: Any
) -> None:
    config = make_config("optimizer.steps=100", "checkpoint.every=100", "logging.every=3")
    stopped = train(config, device="cpu", metrics=memory, stop=lambda: bool(memory.points))
    assert not stopped.complete
    assert stopped.steps == 4, "it ends after the step that follows the third"
    assert Run(config.identified()).checkpoints.steps() == [stopped.steps]
    longer = make_config(f"optimizer.steps={stopped.steps + 2}")
    assert train(longer, device="cpu").steps == stopped.steps + 2


def test_a_notice_of_preemption_saves_once_and_goes_on(make_config: Make, memory: Any) -> None:
    """Ray Train wants every rank to ask the same number of times: at the steps whose figures are looked at."""
    config = make_config("optimizer.steps=12", "checkpoint.every=100", "logging.every=2")
    config = config.identified()
    saved: list[list[int]] = []

    def preempted() -> bool:
        saved.append(Run(config).checkpoints.steps())
        return 2 <= len(saved) < 5

    result = train(config, device="cpu", metrics=memory, preempted=preempted)
    assert result.complete
    assert [step for step, _ in memory.points] == [2, 4, 6, 8, 10, 12]
    assert len(saved) == 6
    assert Run(config).checkpoints.steps() == [4, 12]


def test_several_scales_train_together_and_are_scored_each(
    make_config: Make, memory: Any, small_world: Path
) -> None:
    reports: list[dict[str, float]] = []
    places = (f"validation.uri={small_world}/sets/x{{scale}}", "validation.every=3")
    result = train(make_config(*MDSR, *places), device="cpu", metrics=memory, report=reports.append)
    assert result.name.startswith("mdsr-baseline-")
    trained = weights(str(result.weights))
    torch.manual_seed(1)
    fresh = create_model("mdsr-baseline", blocks=2, filters=8).state_dict()
    for index, moved in enumerate((True, False, True)):  # x2, x3, x4
        key = f"upsample.{index}.0.weight"
        assert torch.equal(trained[key], fresh[key]) != moved
    last = result.metrics
    assert last["psnr"] == pytest.approx((last["psnr_x2"] + last["psnr_x4"]) / 2)
    assert last["psnr_x2"] != last["psnr_x4"]
    assert last["psnr_x4"] == reports[-1]["psnr_x4"] == result.history[-1]["psnr_x4"]
    scored = [point for _, point in memory.points if "edsr-paper-y/psnr" in point]
    assert scored[-1]["edsr-paper-y/ssim_x4"] == last["ssim_x4"]
    assert {name for name, _, _ in memory.images} == {"100_x2", "101_x2", "100_x4", "101_x4"}
    assert "PSNR x4 (edsr-paper-y)" in describe(result)


ZOO = {
    "srcnn": ["model.blocks=null", "optimizer.ema=0.9"],
    "srcnn-955": ["model.blocks=null"],
    "vdsr": ["model.scales=[2, 4]"],
    "srresnet": ["model.scale=2", "optimizer.ema=0.9"],
    "meta-edsr": ["model.scales=[1.5, 2, 2.5]"],
    "meta-srgan": ["model.scales=[1.5, 2, 2.5]", "adversarial.weight=0", "model.channels=3"],
}


@pytest.mark.parametrize("system", ZOO)
def test_every_network_trains_and_resumes_bit_equal(
    make_config: Make, small_world: Path, system: str
) -> None:
    shared = (f"model.name={system}", f"validation.uri={small_world}/sets/x{{scale}}", *ZOO[system])
    start = make_config(*shared, "run.name=parts", "optimizer.steps=4", "optimizer.decay=0.5")
    assert train(start, device="cpu").steps == 4
    parts = train(make_config(*shared, "run.name=parts", "optimizer.decay=0.5"), device="cpu")
    whole = train(make_config(*shared, "run.name=whole", "optimizer.decay=0.5"), device="cpu")
    assert parts.sha256 == whole.sha256
    assert whole.metrics["psnr"] > 5
    assert load_model(Path(str(whole.weights))).spec.system == system


def test_one_scale_may_name_it_in_the_address(make_config: Make, small_world: Path) -> None:
    result = train(make_config(f"validation.uri={small_world}/sets/x{{scale}}"), device="cpu")
    plain = train(
        make_config("run.name=plain", f"validation.uri={small_world}/validation"), device="cpu"
    )
    assert result.history == plain.history
    assert set(result.history[0]) == {"step", "psnr", "ssim"}


def test_a_warm_start_begins_with_the_given_weights(make_config: Make, memory: Any) -> None:
    source = train(make_config("run.name=source"), device="cpu")
    start = train(
        make_config(
            "run.name=target", f"model.warm_start={source.weights}", "optimizer.steps=1",
            "optimizer.lr=1e-12",
        ),
        device="cpu",
    )  # fmt: skip
    a, b = weights(str(source.weights)), weights(str(start.weights))
    assert all(torch.allclose(a[key], b[key], atol=1e-9) for key in a)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.channels=1", "the dataset has 3 channels"),
        ("model.name=bicubic", "takes no blocks"),
        ("model.name=mdsr-baseline", "prepared for the scales"),
        (
            "model.name=mdsr-baseline model.scales=[2,4] validation.uri=/a/x2",
            r"put \{scale\} where",
        ),
        ("model.scale=null model.scales=[2,4]", "built for one scale"),
        ("model.scale=3", "prepared for the scales"),
        ("data.patch=100", "smaller patch"),
    ],
)
def test_what_cannot_be_trained_is_explained(
    make_config: Make, override: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(make_config(*override.split()), device="cpu")
