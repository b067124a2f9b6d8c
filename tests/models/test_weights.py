from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

import rayscale
from rayscale.errors import ConfigError, NotFoundError
from rayscale.files import sha256_of
from rayscale.models.systems import SYSTEMS, create_model
from rayscale.models.weights import (
    WeightsError,
    load_model,
    read_weights,
    save_model,
)

SMALL = {"filters": 8, "blocks": 2}


@pytest.fixture
def model():
    return create_model("edsr-baseline", scale=2, **SMALL)


def rewrite(path: Path, change) -> None:
    """Apply ``change(state, metadata)`` to a file and write it back with plain safetensors."""
    with safetensors.safe_open(path, "pt") as file:
        metadata = dict(file.metadata())
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    change(state, metadata)
    safetensors.torch.save_file(state, path, metadata)


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
def test_round_trip(tmp_path, system, random_weights):
    name, options = system.name, {key: SMALL[key] for key in SMALL if key in system.options}
    channels = 1 if system.channels == 1 else 4
    model = random_weights(create_model(name, scale=3, channels=channels, **options))
    digest = save_model(model, tmp_path / "new" / "model.safetensors", {"dataset": "abc"})
    path = tmp_path / "new" / "model.safetensors"
    assert digest == sha256_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    loaded = read_weights(path, name=name, scale=3)
    assert (loaded.sha256, loaded.layout) == (digest, "rayscale")
    assert loaded.metadata == {"dataset": "abc"}
    assert loaded.model.spec == model.spec
    assert not loaded.model.training
    x = torch.rand(1, channels, 6, 6) * model.spec.value_range
    assert torch.equal(loaded.model(x, 3), model(x, 3))
    assert os.listdir(path.parent) == [path.name]
    assert path.stat().st_mode & 0o044  # readable like any file, not a private temporary


def test_any_safetensors_reader_can_open_it(tmp_path, model):
    save_model(model, tmp_path / "m.safetensors", {"note": "ü"})
    with safetensors.safe_open(tmp_path / "m.safetensors", "pt") as file:
        assert file.metadata()["note"] == "ü"
        assert json.loads(file.metadata()["rayscale.spec"])["filters"] == 8
        assert torch.equal(file.get_tensor("head.0.weight"), model.head[0].weight)


def test_the_same_weights_give_the_same_bytes(tmp_path, model):
    extra = {key: key for key in "hgfedcba"}
    digest = save_model(model, tmp_path / "a.safetensors", extra)
    loaded = load_model(tmp_path / "a.safetensors").to(memory_format=torch.channels_last)
    assert save_model(loaded, tmp_path / "b.safetensors", dict(sorted(extra.items()))) == digest
    script = (
        "import sys; from rayscale.models.weights import *;"
        f"print(save_model(load_model(sys.argv[1]), sys.argv[2], {extra!r}));"
        "assert 'torch._dynamo' not in sys.modules"  # the compiler costs seconds of start-up
    )
    again = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "a.safetensors", tmp_path / "c.safetensors"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(rayscale.__file__).parents[1])},
    )
    assert again.stdout.strip() == digest


def test_a_loaded_model_trains(tmp_path, model):
    save_model(model, tmp_path / "m.safetensors")
    loaded = load_model(tmp_path / "m.safetensors")
    before = loaded.head[0].weight.detach().clone()
    optimizer = torch.optim.Adam(loaded.parameters())
    loaded(torch.rand(1, 3, 4, 4)).mean().backward()
    optimizer.step()
    assert not torch.equal(before, loaded.head[0].weight)


def test_a_failed_write_leaves_the_old_file(tmp_path, model, monkeypatch):
    path = tmp_path / "m.safetensors"
    digest = save_model(model, path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_model(create_model("edsr-baseline", scale=2, **SMALL), path)
    assert sha256_of(path) == digest
    assert os.listdir(tmp_path) == [path.name]


def test_weights_that_diverged_are_not_written(tmp_path, model):
    model.head[0].weight.data[0] = float("nan")
    with pytest.raises(WeightsError, match=r"head\.0\.weight has values that are not finite"):
        save_model(model, tmp_path / "m.safetensors")
    assert os.listdir(tmp_path) == []


def test_huge_but_finite_weights_are_kept(tmp_path, model):
    model.head[0].weight.data.fill_(3e38)  # their sum overflows
    save_model(model, tmp_path / "m.safetensors")
    assert load_model(tmp_path / "m.safetensors").head[0].weight.max() > 2e38


def test_reserved_metadata(tmp_path, model):
    with pytest.raises(ConfigError, match=r"rayscale\.spec is reserved"):
        save_model(model, tmp_path / "m.safetensors", {"rayscale.spec": "{}"})


CHANGES = {
    "unknown keys dropout": lambda s, m: m.update(
        {"rayscale.spec": json.dumps({**json.loads(m["rayscale.spec"]), "dropout": 1})}
    ),
    "no model 'edsr-9'": lambda s, m: m.update(
        {"rayscale.spec": m["rayscale.spec"].replace("edsr-baseline", "edsr-9")}
    ),
    "format is '9'": lambda s, m: m.update({"rayscale.format": "9"}),
    r"tail\.1\.bias is missing": lambda s, m: s.pop("tail.1.bias"),
    "extra is unexpected": lambda s, m: s.update(extra=torch.zeros(1)),
    r"head\.0\.bias has shape \(9,\), not \(8,\)": lambda s, m: s.update(
        {"head.0.bias": torch.zeros(9)}
    ),
    "not finite": lambda s, m: s["body.0.body.2.bias"].fill_(float("inf")),
    "dense float": lambda s, m: s.update({"head.0.bias": torch.zeros(8, dtype=torch.int64)}),
    r"sub_mean\.weight differs": lambda s, m: s["sub_mean.weight"].mul_(2),
    "blocks must be": lambda s, m: m.update(
        {"rayscale.spec": m["rayscale.spec"].replace('"blocks": 2', '"blocks": 2000000000')}
    ),
}


@pytest.mark.parametrize("message", CHANGES)
def test_files_that_do_not_fit_are_refused(tmp_path, model, message):
    path = tmp_path / "m.safetensors"
    save_model(model, path)
    rewrite(path, CHANGES[message])
    digest = sha256_of(path)[:16]
    with pytest.raises(WeightsError, match=message) as caught:
        load_model(path)
    assert str(path) in str(caught.value)
    assert digest in str(caught.value)


def test_truncated_and_foreign_files(tmp_path, model):
    path = tmp_path / "m.safetensors"
    save_model(model, path)
    data = path.read_bytes()
    for length in (0, 4, 9, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(WeightsError, match=r"truncated|not a weight file"):
            load_model(path)
    torch.save(model.state_dict(), tmp_path / "m.pt")
    data = (tmp_path / "m.pt").read_bytes()
    for length in (1, 100, len(data) // 2, len(data) - 1):
        (tmp_path / "m.pt").write_bytes(data[:length])
        with pytest.raises(WeightsError, match=r"truncated|not a weight file"):
            read_weights(tmp_path / "m.pt")
    (tmp_path / "picture.pt").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(WeightsError, match="not a weight file"):
        read_weights(tmp_path / "picture.pt")
    with pytest.raises(WeightsError, match="cannot be read"):
        read_weights(tmp_path)
    with pytest.raises(NotFoundError, match="absent"):
        read_weights(tmp_path / "absent.pt")
    with pytest.raises(NotFoundError, match="absent"):
        sha256_of(tmp_path / "absent.pt")


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


def test_code_in_a_pickle_is_not_run(tmp_path):
    for name, write in (("zip.pt", torch.save), ("raw.pt", _raw_pickle)):
        write({"head.0.weight": Malicious(tmp_path / "owned")}, tmp_path / name)
        with pytest.raises(WeightsError, match="could run code"):
            read_weights(tmp_path / name)
        assert not (tmp_path / "owned").exists()


def _raw_pickle(value, path):
    path.write_bytes(pickle.dumps(value, protocol=2))


def test_a_pickled_module_is_refused(tmp_path, model):
    torch.save(model, tmp_path / "module.pt")
    with pytest.raises(WeightsError, match=r"Python objects .*save model.state_dict\(\)"):
        read_weights(tmp_path / "module.pt")


def test_other_systems_and_scales_than_asked_for(tmp_path, model):
    path = tmp_path / "m.safetensors"
    save_model(model, path)
    with pytest.raises(ConfigError, match="holds edsr-baseline, not edsr"):
        read_weights(path, name="edsr")
    with pytest.raises(ConfigError, match="serves the scale 2, not 4"):
        read_weights(path, scale=4)
    with pytest.raises(ConfigError, match="no layout 'keras'"):
        read_weights(path, layout="keras")


def test_a_scale_of_the_range_is_served(tmp_path):
    path = tmp_path / "m.safetensors"
    save_model(create_model("srcnn", scale=2, filters=4), path)
    assert read_weights(path, scale=2.5).model.scales == (2,)
    with pytest.raises(ConfigError, match="any above 1 up to 4, not 5"):
        read_weights(path, scale=5)


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float16, 16), (torch.int8, 8)])
def test_large_tensors_may_be_stored_narrow(tmp_path, random_weights, dtype, bits):
    model = random_weights(create_model("edsr-baseline", scale=2, filters=96, blocks=1))
    path = tmp_path / "m.safetensors"
    save_model(model, path, dtype=dtype)
    loaded = read_weights(path).model.state_dict()
    for key, value in model.state_dict().items():
        if value.numel() < 32768:
            assert torch.equal(loaded[key], value), key
            continue
        assert loaded[key].dtype == torch.float32
        top = value.flatten(1).abs().amax(dim=1)[:, None, None, None]
        error = top / 254 if bits == 8 else value.abs() * 2**-11 + 1e-7
        assert ((loaded[key] - value).abs() <= error * 1.001).all(), key
    large = sum(v.numel() for v in model.state_dict().values() if v.numel() >= 32768)
    small = sum(v.numel() for v in model.state_dict().values() if v.numel() < 32768)
    assert path.stat().st_size <= large * bits // 8 + 4 * small + 8192


def test_integers_without_their_steps_are_refused(tmp_path, random_weights):
    model = random_weights(create_model("edsr-baseline", scale=2, filters=96, blocks=1))
    path = tmp_path / "m.safetensors"
    save_model(model, path, dtype=torch.int8)
    rewrite(path, lambda s, m: s.pop("body.0.body.0.weight.step"))
    with pytest.raises(WeightsError, match=r"body\.0\.body\.0\.weight has integers without"):
        read_weights(path)


def test_a_row_of_zeros_stays_zero_as_integers(tmp_path):
    model = create_model("edsr-baseline", scale=2, filters=96, blocks=1)
    with torch.no_grad():
        model.body[0].body[0].weight[3] = 0
    save_model(model, tmp_path / "m.safetensors", dtype=torch.int8)
    assert not read_weights(tmp_path / "m.safetensors").model.body[0].body[0].weight[3].any()
