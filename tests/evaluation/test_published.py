from __future__ import annotations

import csv

import pytest

from rayscale.evaluation.published import figures, find, set_name


def test_figures_of_the_papers_third_table():
    edsr = find("Set5", 2, "edsr+", "edsr-paper-y")
    assert edsr is not None
    assert (edsr.psnr, edsr.ssim) == (38.20, 0.9606)
    assert "Table 3" in edsr.source
    mdsr = find("DIV2K", 4, "mdsr", "div2k-rgb")
    assert mdsr is not None
    assert (mdsr.psnr, mdsr.ssim) == (29.26, 0.9016)


def test_the_published_srcnn_is_the_larger_network():
    larger = find("Set5", 2, "srcnn-955", "edsr-paper-y")
    assert larger is not None
    assert (larger.psnr, larger.ssim) == (36.66, 0.9542)
    assert find("Set5", 2, "srcnn", "edsr-paper-y") is None  # 9-1-5: another network


def test_a_figure_is_never_shown_under_another_protocol_scale_or_system():
    assert find("Set5", 2, "edsr", "rgb").source.startswith("BasicSR")
    assert find("Set5", 2, "vdsr", "rgb") is None
    assert find("Set5", 2.5, "bicubic", "edsr-paper-y") is None
    assert find("Set5", 2, "srresnet", "edsr-paper-y") is None  # the paper has it for x4 only
    assert find("DIV2K", 2, "bicubic", "edsr-paper-y") is None


def test_better_systems_have_better_figures():
    """A slip of the pen in the file would break the order that the paper shows everywhere."""
    table = [key for key in figures() if key[3] != "rgb"]
    for dataset, scale, model, protocol in table:
        bicubic = find(dataset, scale, "bicubic", protocol)
        if model != "bicubic":
            assert figures()[dataset, scale, model, protocol].psnr > bicubic.psnr
        if f"{model}+" in {key[2] for key in table}:
            better = find(dataset, scale, f"{model}+", protocol)
            assert better.psnr > figures()[dataset, scale, model, protocol].psnr
    for dataset, scale, model, protocol in table:
        larger = figures().get((dataset, scale + 1, model, protocol))
        assert larger is None or larger.psnr < figures()[dataset, scale, model, protocol].psnr


def test_the_file_is_the_table_of_the_paper(shared_data):
    with (shared_data / "published_table3.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        dataset = row["dataset"].split()[0]
        protocol = "div2k-rgb" if dataset == "DIV2K" else "edsr-paper-y"
        system = row["method"].replace("srcnn", "srcnn-955")
        figure = find(dataset, int(row["scale"]), system, protocol)
        assert figure is not None
        assert (figure.psnr, figure.ssim) == (float(row["psnr_db"]), float(row["ssim"]))
    assert len(rows) == sum("Table 3" in figure.source for figure in figures().values())


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("s3://bucket/benchmarks/set5/x2", "Set5"),
        ("/data/Set14/x{scale}", "Set14"),
        ("DIV2K_valid/x2", "DIV2K"),
        ("s3://bucket/scans/x1.5/", "scans"),
        ("x2", "x2"),
    ],
)
def test_sets_are_known_by_their_folders(uri, name):
    assert set_name(uri) == name
