from __future__ import annotations

import pytest
import safetensors.torch
import torch

from rayscale.errors import ConfigError
from rayscale.files import sha256_of
from rayscale.models.weights import WeightsError, read_weights, save_model


def image() -> torch.Tensor:
    return torch.rand(2, 3, 9, 13) * 255


def difference(model, x, expected, scale=None) -> float:
    with torch.no_grad():
        return float((model(x, scale) - expected).abs().max())


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("wrapped", ["flat", "module.", "model.", "module.model."])
def test_official(tmp_path, reference, scale, wrapped):
    plain = reference.OfficialEDSR(scale, blocks=3, filters=12)
    prefix = "" if wrapped == "flat" else wrapped
    state = {prefix + key: value for key, value in plain.state_dict().items()}
    torch.save(state, tmp_path / "edsr.pt")
    loaded = read_weights(tmp_path / "edsr.pt", name="edsr-baseline", scale=scale)
    assert loaded.layout == "official"
    assert loaded.sha256 == sha256_of(tmp_path / "edsr.pt")
    spec = loaded.model.spec
    assert (spec.scales, spec.blocks, spec.filters, spec.channels) == ((scale,), 3, 12, 3)
    assert spec.mean == reference.MEAN
    x = image()
    assert difference(loaded.model, x, plain(x)) <= 1e-3


def test_official_in_half_precision_and_safetensors(tmp_path, reference):
    plain = reference.OfficialEDSR(2, blocks=2, filters=8).half()
    torch.save(plain.state_dict(), tmp_path / "edsr.pth")
    # Half precision moves the mean by hundredths of a grey level, which is read as a mean of its own.
    from_half = read_weights(tmp_path / "edsr.pth").model
    assert from_half.head[0].weight.dtype == torch.float32
    assert from_half.spec.mean == pytest.approx(reference.MEAN, abs=1e-3)
    plain = plain.float()
    safetensors.torch.save_file(plain.state_dict(), tmp_path / "edsr.safetensors")
    x = image()
    assert difference(read_weights(tmp_path / "edsr.safetensors").model, x, plain(x)) <= 1e-3
    assert difference(from_half, x, plain(x)) <= 1e-3


@pytest.mark.parametrize(
    ("mean", "value_range"), [((0.1, 0.2, 0.3, 0.9), 255.0), ((0.4,), 255.0), ((0.0, 0.0), 255.0)]
)
def test_official_with_other_channels(tmp_path, reference, mean, value_range):
    plain = reference.OfficialEDSR(2, blocks=2, filters=8, mean=mean)
    torch.save(plain.state_dict(), tmp_path / "edsr.pt")
    model = read_weights(tmp_path / "edsr.pt").model
    assert model.spec.mean == pytest.approx(mean, abs=1e-6)
    assert model.spec.value_range == value_range
    x = torch.rand(1, len(mean), 7, 7) * 255
    assert difference(model, x, plain(x)) <= 1e-3


def test_official_trained_on_0_to_1(tmp_path, reference):
    plain = reference.OfficialEDSR(2, blocks=2, filters=8)
    plain.sub_mean, plain.add_mean = reference.mean_shift(-1, 1.0), reference.mean_shift(1, 1.0)
    torch.save(plain.state_dict(), tmp_path / "edsr.pt")
    model = read_weights(tmp_path / "edsr.pt").model
    assert (model.spec.value_range, model.spec.mean) == (1.0, reference.MEAN)
    x = torch.rand(1, 3, 7, 7)
    assert difference(model, x, plain(x)) <= 1e-5


def test_official_mdsr(tmp_path, reference):
    for scales in ((2, 3, 4), (2, 4)):
        plain = reference.OfficialMDSR(blocks=2, filters=8, scales=scales)
        torch.save(plain.state_dict(), tmp_path / "mdsr.pt")
        model = read_weights(tmp_path / "mdsr.pt", name="mdsr-baseline", scale=4).model
        assert model.scales == scales
        x = image()
        for scale in scales:
            assert difference(model, x, plain(x, scale), scale) <= 1e-3


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("holder", ["params", "params_ema"])
def test_basicsr(tmp_path, reference, scale, holder):
    plain = reference.BasicSREDSR(scale, blocks=3, filters=12)
    content = {holder: plain.state_dict()}
    if holder == "params_ema":  # the average is preferred to the last step
        content["params"] = reference.BasicSREDSR(scale, blocks=3, filters=12).state_dict()
    torch.save(content, tmp_path / "net_g_latest.pth")
    loaded = read_weights(tmp_path / "net_g_latest.pth")
    assert loaded.layout == "basicsr"
    x = image()
    assert difference(loaded.model, x, plain(x / 255) * 255) <= 1e-3


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_super_image(tmp_path, reference, scale):
    plain = reference.SuperImageEDSR(scale, blocks=3, filters=12)
    x = image() / 255
    for name, layout in (
        (f"pytorch_model_{scale}x.pt", "auto"),
        ("pytorch_model.bin", "auto"),
        ("weights.pt", "super-image"),
    ):
        torch.save(plain.state_dict(), tmp_path / name)
        loaded = read_weights(tmp_path / name, layout=layout)
        assert loaded.layout == "super-image"
        assert loaded.model.spec.value_range == 1.0
        assert loaded.model.spec.mean == (0.0, 0.0, 0.0)
        assert difference(loaded.model, x, plain(x)) <= 1e-3 / 255
    named = read_weights(tmp_path / "pytorch_model.bin", layout="official")
    assert named.model.spec.value_range == 255.0


def test_sizes_name_the_system(tmp_path, reference):
    def read(filters, blocks, name=None):
        with torch.device("meta"):
            plain = reference.OfficialEDSR(2, blocks=blocks, filters=filters)
        state = {key: torch.zeros(value.shape) for key, value in plain.state_dict().items()}
        for key in ("sub_mean", "add_mean"):
            state[f"{key}.weight"] = torch.eye(3).view(3, 3, 1, 1)
        torch.save(state, tmp_path / "edsr.pt")
        spec = read_weights(tmp_path / "edsr.pt", name=name).model.spec
        return spec.system, spec.residual_scaling

    assert read(64, 16) == ("edsr-baseline", 1.0)
    assert read(256, 2) == ("edsr", 0.1)
    assert read(16, 2) == ("edsr-baseline", 1.0)
    assert read(16, 2, "edsr") == ("edsr", 0.1)
    with pytest.raises(ConfigError, match="16 blocks of 64 filters are edsr-baseline, not edsr"):
        read(64, 16, "edsr")
    with pytest.raises(ConfigError, match="not mdsr; ask for edsr-baseline or edsr"):
        read(16, 2, "mdsr")
    with pytest.raises(ConfigError, match="not bicubic"):
        read(16, 2, "bicubic")


def test_a_converted_model_is_saved_as_our_own(tmp_path, reference):
    plain = reference.BasicSREDSR(2, blocks=2, filters=8)
    torch.save({"params": plain.state_dict()}, tmp_path / "net.pth")
    save_model(read_weights(tmp_path / "net.pth").model, tmp_path / "own.safetensors")
    x = image()
    own = read_weights(tmp_path / "own.safetensors")
    assert own.layout == "rayscale"
    assert difference(own.model, x, plain(x / 255) * 255) <= 1e-3


def test_the_hash_in_the_name_is_verified(tmp_path, reference):
    torch.save(reference.OfficialEDSR(2, blocks=1, filters=4).state_dict(), tmp_path / "x.pt")
    digest = sha256_of(tmp_path / "x.pt")
    data = (tmp_path / "x.pt").read_bytes()
    good = tmp_path / f"edsr_x2-{digest[:8]}.pt"
    good.write_bytes(data)
    assert read_weights(good).sha256 == digest
    bad = tmp_path / "edsr_x2-0edfb8a3.pt"
    bad.write_bytes(data)
    with pytest.raises(WeightsError, match=f"sha256 {digest}, but its name promises 0edfb8a3"):
        read_weights(bad)
    dated = tmp_path / "edsr-20240131.pt"
    dated.write_bytes(data)
    assert read_weights(dated).sha256 == digest


def state_of(reference, **changes):
    state = dict(reference.OfficialEDSR(2, blocks=1, filters=4).state_dict())
    for key, value in changes.items():
        state[key.replace("__", ".")] = value
    return {key: value for key, value in state.items() if value is not None}


def test_content_that_is_no_known_network(tmp_path, reference):
    path = tmp_path / "x.pt"
    cases = {
        "list, not a state dict": [1, 2],
        "not a state dict": {},
        "'epoch' is int": {"epoch": 3},
        "'n' is torch.int64": {"n": torch.zeros(2, dtype=torch.int64)},
        "neither those of EDSR-PyTorch nor of BasicSR": {"fc.weight": torch.zeros(2, 2)},
        r"tail\.1\.bias is missing": state_of(reference, tail__1__bias=None),
        r"bn\.weight is unexpected": state_of(reference, bn__weight=torch.zeros(4)),
        r"not the weight of a convolution": state_of(reference, head__0__weight=torch.zeros(4)),
        r"is not one of x2, x3, x4": state_of(
            reference, tail__0__0__weight=torch.zeros(20, 4, 3, 3)
        ),
        "0 closing convolutions": state_of(reference, body__1__weight=None),
        "not finite": state_of(reference, head__0__bias=torch.full((4,), float("nan"))),
        r"sub_mean\.bias has 2 values": state_of(reference, sub_mean__bias=torch.zeros(2)),
    }
    for message, content in cases.items():
        torch.save(content, path)
        with pytest.raises(WeightsError, match=message):
            read_weights(path)


def test_a_deviation_other_than_one_is_refused(tmp_path, reference):
    weight = torch.eye(3).view(3, 3, 1, 1) / 0.225
    torch.save(state_of(reference, sub_mean__weight=weight), tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r"sub_mean\.weight differs"):
        read_weights(tmp_path / "x.pt")


def test_an_explicit_layout_has_to_fit(tmp_path, reference):
    torch.save(state_of(reference), tmp_path / "x.pt")
    with pytest.raises(ConfigError, match="official or super-image, not basicsr"):
        read_weights(tmp_path / "x.pt", layout="basicsr")
    with pytest.raises(WeightsError, match="not written by rayscale"):
        read_weights(tmp_path / "x.pt", layout="rayscale")
    with pytest.raises(ConfigError, match="serves the scale 2, not 3"):
        read_weights(tmp_path / "x.pt", scale=3)
