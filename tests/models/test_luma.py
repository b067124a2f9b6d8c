from __future__ import annotations

import torch

from rayscale.models.systems import create_model

# MATLAB's rgb2ycbcr for RGB in [0, 1].
TO_YCBCR = torch.tensor(
    [[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]],
    dtype=torch.float64,
)
OFFSET = torch.tensor([16.0, 128.0, 128.0], dtype=torch.float64)[:, None, None]


def network(random_weights):
    return random_weights(create_model("vdsr", filters=4, blocks=3)).double()


def test_a_colour_image_is_its_luma_enlarged_and_its_chroma_interpolated(reference, random_weights):
    model, image = network(random_weights), torch.rand(2, 3, 6, 9, dtype=torch.float64)
    ycbcr = (torch.einsum("yc,nchw->nyhw", TO_YCBCR, image) + OFFSET) / 255
    large = reference.bicubic(ycbcr, 3)
    with torch.no_grad():
        large[:, :1] = model(ycbcr[:, :1].contiguous(), 3)
        expected = torch.einsum("cy,nyhw->nchw", TO_YCBCR.inverse(), large * 255 - OFFSET)
        found = model(image, 3)
    assert (found - expected).abs().max() <= 1e-5


def test_the_network_learns_luma(random_weights):
    model, image = network(random_weights), torch.rand(2, 3, 6, 9, dtype=torch.float64)
    ycbcr = (torch.einsum("yc,nchw->nyhw", TO_YCBCR, image) + OFFSET) / 255
    assert torch.allclose(model.training_view(image), ycbcr[:, :1])
    grey = image[:, :1]
    assert model.training_view(grey) is grey


def test_bands_are_enlarged_one_by_one(random_weights):
    model, image = network(random_weights), torch.rand(2, 5, 6, 9, dtype=torch.float64)
    with torch.no_grad():
        together = model(image, 2)
        for band in range(5):
            alone = model(image[:, band : band + 1], 2)
            assert torch.allclose(together[:, band : band + 1], alone)
