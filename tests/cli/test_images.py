"""The commands as a program sees them: exit codes, files, and nothing but JSON on standard output."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from rayscale import batch
from rayscale.errors import NotFoundError
from rayscale.models.systems import create_model
from rayscale.models.weights import save_model
from rayscale.options import Options
from rayscale.resampling import degrade, enlarge


def _read(path):
    return np.asarray(Image.open(path))


def test_upscale_writes_the_bicubic_image(rayscale, photo, tmp_path):
    code, out, _ = rayscale("upscale", photo, tmp_path / "big.png", "-m", "bicubic", "-s", 3)
    assert (code, out) == (0, "")
    expected = enlarge(_read(photo), 3)
    assert np.abs(_read(tmp_path / "big.png").astype(int) - expected).max() <= 1


def test_levels_are_named_in_the_output(rayscale, tmp_path):
    for size in (16, 20):  # a whole image and a scene by windows take them alike
        path = tmp_path / "scene.tif"
        pixels = np.arange(size * size, dtype=np.uint16).reshape(size, size)
        scene = {"extratags": [(33550, "d", 3, (10.0, 10.0, 0.0)), (33922, "d", 6, (0.0,) * 6)]}
        tifffile.imwrite(path, pixels, **(scene if size == 20 else {}))
        out = tmp_path / "big.tif"
        code, _, err = rayscale("upscale", path, out, "-m", "bicubic", "--levels", "-5..10000")
        assert code == 0, err
        assert b"-5 to 10000, as set" in out.read_bytes()
        code, _, err = rayscale("upscale", path, out, "-m", "bicubic")
        assert code == 0, err
        assert b"0.1% to 99.9% of the values" in out.read_bytes()
    code, _, err = rayscale("upscale", path, out, "-m", "bicubic", "--levels", "9")
    assert code == 2
    assert "BLACK..WHITE" in err


def test_upscale_by_a_fraction(rayscale, photo, tmp_path):
    code, _, err = rayscale("upscale", photo, tmp_path / "big.png", "-m", "bicubic", "-s", 2.25)
    assert code == 0, err
    assert _read(tmp_path / "big.png").shape == (45, 67, 3)
    code, _, err = rayscale("upscale", photo, tmp_path / "x.png", "-m", "bicubic", "-s", 17)
    assert code == 2
    assert "up to 16, not 17" in err
    assert rayscale("degrade", photo, tmp_path / "x.png", "-s", 2.5)[0] == 2


def test_consistency_tells_what_is_left(rayscale, photo, tmp_path):
    command = ("upscale", photo, tmp_path / "big.png", "-m", "bilinear", "--consistency", "--json")
    code, out, err = rayscale(*command)
    assert code == 0, err
    told = json.loads(out)["done"][0]["residual"]
    assert f"residual max {told['max']:g}, RMS {told['rms']:g}" in err
    shrunk = degrade(_read(tmp_path / "big.png"), 2).astype(int)
    assert np.abs(shrunk - _read(photo)).max() <= told["max"] + 1
    assert told["rms"] < 20
    remark = json.loads(Image.open(tmp_path / "big.png").text["rayscale"])
    assert (remark["residual"], remark["consistency"]) == (told, "10 back-projections")


def test_uncertainty_lies_beside_the_output(rayscale, photo, tmp_path):
    command = ("upscale", photo, tmp_path / "big.png", "--uncertainty", "--json")
    code, out, err = rayscale(*command)
    assert code == 0, err
    beside = tmp_path / "big.uncertainty.tif"
    assert json.loads(out)["done"][0]["uncertainty"] == str(beside)
    with tifffile.TiffFile(beside) as file:
        values = file.asarray()
        assert "standard deviation over the eight" in file.pages[0].description
    assert (values.shape, values.dtype) == ((40, 60, 3), np.float32)
    assert 0 < values.mean() < 20
    assert rayscale("upscale", photo, tmp_path / "plus.png", "--ensemble")[0] == 0
    assert np.abs(_read(tmp_path / "big.png").astype(int) - _read(tmp_path / "plus.png")).max() <= 1


def test_two_outputs_never_share_an_uncertainty(rayscale, photo, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "a.webp"):
        Image.fromarray(_read(photo)).save(folder / name)
    command = ("upscale", folder, tmp_path / "out", "-m", "bicubic")
    code, _, err = rayscale(*command, "--uncertainty")
    assert code == 2
    assert "a.png and a.webp" in err
    assert not (tmp_path / "out").exists()
    assert rayscale(*command)[0] == 0
    assert Image.open(tmp_path / "out" / "a.webp").format == "WEBP"


def test_upscale_converts_to_the_ending_of_the_output(rayscale, photo, tmp_path):
    assert rayscale("upscale", photo, tmp_path / "big.jpg")[0] == 0
    assert Image.open(tmp_path / "big.jpg").format == "JPEG"


def test_a_folder_keeps_names_and_lists_what_failed(rayscale, photo, tmp_path):
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    photo.rename(folder / "deep" / "ünïcode näme (1).png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (folder / "notes.txt").write_text("not an image")
    code, out, err = rayscale("upscale", folder, tmp_path / "out", "-m", "bilinear", "--json")
    assert code == 3
    result = json.loads(out)
    assert [item["input"] for item in result["failed"]] == [str(folder / "broken.png")]
    assert result["passed_over"] == [str(folder / "notes.txt")]
    assert "skipped, not an image format that is read: notes.txt" in err
    assert len(result["done"]) == 1
    assert _read(tmp_path / "out" / "deep" / "ünïcode näme (1).png").shape == (40, 60, 3)
    assert "broken.png" in err
    assert sorted(p.name for p in (tmp_path / "out").rglob("*") if p.is_file()) == [
        "ünïcode näme (1).png"
    ]


def test_a_name_without_ending_is_looked_into(rayscale, photo, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("IM0001", "IM.0002", "CT.IMA", ".hidden.png"):
        (folder / name).write_bytes(photo.read_bytes())
    for litter in ("._IM0001", "__MACOSX/IM0001", "Thumbs.db", "desktop.ini"):
        (folder / litter).parent.mkdir(exist_ok=True)
        (folder / litter).write_bytes(photo.read_bytes())
    (folder / "moving.gif").write_bytes(b"GIF89a")
    (folder / "photo.png~").write_bytes(photo.read_bytes())  # a format of its own, for all we know
    code, out, _ = rayscale("upscale", folder, tmp_path / "out", "-m", "bicubic", "--json")
    assert code == 0
    assert json.loads(out)["passed_over"] == [
        str(folder / "moving.gif"), str(folder / "photo.png~"),
    ]  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "CT.IMA", "IM.0002", "IM0001",
    ]  # fmt: skip
    assert Image.open(tmp_path / "out" / "IM0001").size == (60, 40)
    assert rayscale("upscale", folder / "IM0001", tmp_path / "none", "-m", "bicubic")[0] == 1
    assert not (tmp_path / "none").exists()  # it was to be a folder
    assert rayscale("upscale", folder / "IM0001", tmp_path / "a.webp", "-m", "bicubic")[0] == 0
    assert Image.open(tmp_path / "a.webp").format == "WEBP"
    (folder / "deep").mkdir()
    (folder / "deep" / "a.txt").write_text("none")
    code, _, err = rayscale("upscale", folder / "deep", tmp_path / "out", "-m", "bicubic")
    assert code == 1
    assert "1 file of another format passed over" in err


def test_a_file_is_never_its_own_output(rayscale, photo, tmp_path):
    before = photo.read_bytes()
    (tmp_path / "link.png").symlink_to(photo)
    for target in (photo, tmp_path / "link.png", photo.parent):
        code, _, err = rayscale("upscale", photo, target, "-m", "bicubic")
        assert code == 2
        assert "input and output are the same file" in err
    assert photo.read_bytes() == before
    assert (tmp_path / "link.png").is_symlink()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_what_lies_beside_a_raster_is_not_lost_in_silence(rayscale, tmp_path, dtype):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb")
    (tmp_path / "a.tfw").write_text("10\n0\n0\n-10\n500000\n4600000\n")
    code, _, err = rayscale("upscale", tmp_path / "a.tif", tmp_path / "b.tif", "-m", "bicubic")
    assert code == 0
    assert "a.tfw is not read" in err
    (tmp_path / "a.tif.msk").write_bytes(b"a mask")
    code, _, err = rayscale("upscale", tmp_path / "a.tif", tmp_path / "c.tif", "-m", "bicubic")
    assert code == 1
    assert "mask of a.tif lies in a.tif.msk, which is not read" in err
    assert rayscale("degrade", tmp_path / "a.tif", tmp_path / "c.tif")[0] == 1
    assert not (tmp_path / "c.tif").exists()


def test_a_name_that_is_no_model_hears_which_there_are(rayscale, photo, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    code, _, err = rayscale("upscale", photo, tmp_path / "b.png", "-m", "nosuch")
    assert code == 2
    assert "'nosuch' is not a built-in model (bilinear, bicubic, " in err


def test_a_fault_of_one_file_leaves_the_others(rayscale, photo, tmp_path, monkeypatch):
    """Even one that nobody foresaw: a library that raises what it should not."""
    from rayscale.inference import Upscaler

    (photo.parent / "a.png").write_bytes(photo.read_bytes())
    run, calls = Upscaler.run, []

    def faulty(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("not foreseen")
        return run(self, *arguments, **options)

    monkeypatch.setattr(Upscaler, "run", faulty)
    code, out, _ = rayscale("upscale", photo.parent, tmp_path / "out", "-m", "bicubic", "--json")
    assert code == 3
    result = json.loads(out)
    assert [item["error"] for item in result["failed"]] == ["ValueError: not foreseen"]
    assert [item["input"] for item in result["done"]] == [str(photo)]


def test_an_output_folder_inside_the_input_is_not_upscaled_again(rayscale, photo):
    folder = photo.parent
    for _ in range(2):
        assert rayscale("upscale", folder, folder / "out")[0] == 0
    assert [p.name for p in (folder / "out").rglob("*")] == ["photo.png"]


def test_exit_codes_of_failure_and_usage(rayscale, photo, tmp_path):
    (tmp_path / "empty").mkdir()
    assert rayscale("upscale", tmp_path / "missing.png", tmp_path / "o.png")[0] == 1
    assert rayscale("upscale", tmp_path / "empty", tmp_path / "o")[0] == 1
    assert rayscale("upscale", photo, tmp_path / "o.gif")[0] == 1
    assert rayscale("upscale", photo)[0] == 2
    assert rayscale("upscale", photo, tmp_path / "o.png", "-s", 5)[0] == 2
    assert rayscale("upscale", photo, tmp_path / "o.png", "-m", "edsr")[0] == 2
    assert rayscale("upscale", photo.parent, photo.parent)[0] == 2


def test_a_system_without_weights_says_how_to_give_them(rayscale, photo, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    _, out, err = rayscale("upscale", photo, tmp_path / "o.png", "-m", "edsr")
    assert "give a file of weights" in err
    assert out == ""


def test_the_default_model_depends_on_the_channels(rayscale, photo, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(_read(photo)[..., 0]).save(folder / "grey.png")
    photo.rename(folder / "photo.png")
    code, _, err = rayscale("upscale", folder, tmp_path / "out", "--precision", "float32")
    assert code == 0, err
    for name, model in (("grey.png", "aplus-x2"), ("photo.png", "edsr-baseline-x2")):
        source, target = folder / name, tmp_path / name
        assert rayscale("upscale", source, target, "-m", model, "--precision", "float32")[0] == 0
        np.testing.assert_array_equal(_read(target), _read(tmp_path / "out" / name))


def test_without_a_default_the_models_of_the_scale_are_named(rayscale, photo, tmp_path):
    code, _, err = rayscale("upscale", photo, tmp_path / "o.png", "-s", 2.5)
    assert code == 2
    assert "x2.5; name a model: bilinear, bicubic" in err


def test_a_bucket_gets_every_option_or_a_refusal(rayscale, tmp_path, monkeypatch):
    handed = []

    def upscale_bucket(*places, **given):
        handed.append((places, given))
        raise NotFoundError("no such bucket")

    monkeypatch.setattr(batch, "upscale_bucket", upscale_bucket)
    places = ("s3://a/in", "s3://a/out")
    words = (
        "--device cpu --precision float32 --ensemble --consistency --levels -5..9 --labels nearest "
        "--metadata strip --tile 64 --json"
    )
    code, out, _ = rayscale("upscale", *places, *words.split())
    assert code == 1
    assert json.loads(out) == {"format": 1, "error": "not_found", "message": "no such bucket"}
    ((found, given),) = handed
    assert found == places
    assert (given["model"], given["device"]) == ("edsr-baseline-x2", "cpu")
    assert given["options"] == Options(
        precision="float32", ensemble=True, consistency=True, levels=(-5, 9), labels="nearest",
        metadata="strip", tile=64,
    )  # fmt: skip
    (tmp_path / "w.pt").write_bytes(b"")
    assert rayscale("upscale", *places, "--weights", tmp_path / "w.pt")[0] == 1
    assert (given["weights"], handed[1][1]["weights"]) == (None, tmp_path / "w.pt")
    assert rayscale("upscale", *places, "--device", "cuda:1")[0] == 2
    assert len(handed) == 2


def test_weights_from_a_file(rayscale, photo, tmp_path):
    torch.manual_seed(0)
    model = create_model("edsr-baseline", scale=2, blocks=1, filters=4)
    digest = save_model(model, tmp_path / "mine.safetensors")
    code, _, err = rayscale(
        "upscale",
        photo,
        tmp_path / "o.png",
        "-m",
        "edsr-baseline",
        "--weights",
        tmp_path / "mine.safetensors",
    )
    assert code == 0
    assert digest in err
    assert _read(tmp_path / "o.png").shape == (40, 60, 3)


def test_degrade_is_the_benchmark_rule(rayscale, photo, tmp_path):
    assert rayscale("degrade", photo, tmp_path / "lr.png", "--scale", 4)[0] == 0
    np.testing.assert_array_equal(_read(tmp_path / "lr.png"), degrade(_read(photo), 4))


def test_models_json_has_the_fixed_form(rayscale):
    code, out, _ = rayscale("models", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert rows["edsr-baseline"]["scales"] == [2, 3, 4]
    assert rows["edsr-baseline"]["parameters"] == {"2": 1369859, "3": 1554499, "4": 1517571}
    assert rows["edsr-baseline"]["halo"]["2"] == 36
    assert rows["mdsr"]["parameters"] == {"2": 7953987, "3": 7953987, "4": 7953987}
    assert set(rows) >= {"bilinear", "bicubic", "edsr", "mdsr-baseline"}
    (first, *_) = rows["aplus"]["bundled"]
    assert first["name"] == "aplus-x2"
    assert "luma" in first["summary"]
    assert first["figures"][0]["protocol"] == "edsr-paper-y"
    _, out, _ = rayscale("models")
    assert f"Set5 {first['figures'][0]['psnr']:.2f}" in out


def test_settings_show_every_limit_with_its_variable(rayscale, monkeypatch):
    _, out, _ = rayscale("settings")
    assert "RAYSCALE_MAX_INPUT_PIXELS=64000000" in out
    assert "RAYSCALE_SERVE_MAX_MODELS=4" in out
    assert (
        "# RAYSCALE_MEMORY_BYTES=   # bytes" in out
    )  # as in a file of variables, where None would be a value
    assert "None" not in out
    _, out, _ = rayscale("settings", "--json")
    told = json.loads(out)
    assert told["max_input_bytes"] == 32 * 1024 * 1024
    assert told["serve_threads"] == 2


def test_settings_show_no_key(rayscale, monkeypatch):
    monkeypatch.setenv("RAYSCALE_SERVE_API_KEYS", "a-key-that-nobody-may-see")
    for form in ([], ["--json"]):
        code, out, _ = rayscale("settings", *form)
        assert code == 0
        assert "nobody-may-see" not in out


def test_help_teaches(rayscale):
    _, out, _ = rayscale("--help")
    for command in (
        "upscale",
        "degrade",
        "evaluate",
        "models",
        "prepare",
        "train",
        "register",
        "serve",
        "up",
        "down",
        "demo",
    ):
        assert command in out
    _, out, _ = rayscale("upscale", "--help")
    assert "rayscale upscale photo.png big.png" in out


@pytest.mark.parametrize("ending", ["tif", "png"])
def test_what_a_reader_notes_is_shown_and_listed(rayscale, tmp_path, monkeypatch, ending):
    """Near infrared that its writer marked as alpha, by windows; a failure of a file is no note."""
    rasterio = pytest.importorskip("rasterio", reason="needs the extra geo")
    pixels = np.random.default_rng(0).integers(1, 255, (4, 20, 30), dtype=np.uint8)
    profile = {"driver": "GTiff", "width": 30, "height": 20, "count": 4, "dtype": "uint8"}
    with rasterio.open(
        tmp_path / "naip.tif", "w", photometric="rgb", alpha="yes", crs="EPSG:32611", **profile
    ) as scene:
        scene.write(pixels)
    command = ("upscale", tmp_path / "naip.tif", tmp_path / f"b.{ending}", "-m", "bicubic")
    code, out, err = rayscale(*command, "--json")
    if ending == "png":
        assert (code, json.loads(out)["done"]) == (1, [])
        return
    assert code == 0, err
    (text,) = json.loads(out)["done"][0]["notes"]
    assert text.startswith("band 4 is marked as alpha")
    assert f"note: {text}" in err


def test_degrade_does_not_mix_in_what_lies_under_transparent_pixels(rayscale, tmp_path):
    planes = np.zeros((24, 24, 4), np.uint8)
    planes[6:18, 6:18] = (250, 220, 40, 255)
    Image.fromarray(planes).save(tmp_path / "logo.png")
    assert rayscale("degrade", tmp_path / "logo.png", tmp_path / "small.png", "-s", 4)[0] == 0
    small = np.asarray(Image.open(tmp_path / "small.png")).astype(int)
    assert np.abs(small[small[..., 3] > 0][:, :3] - (250, 220, 40)).max() <= 1
