"""Every container tells what made it, where its own readers look."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image as Pillow

from rayscale.imaging import Image, Provenance, read_image, write_image

PROVENANCE = Provenance("edsr/3", "0f" * 32, {"scale": 2, "ensemble": False})


def test_the_same_value_is_the_same_text():
    told = json.loads(PROVENANCE.to_json())
    assert told["model"] == "edsr/3"
    assert told["weights"] == "0f" * 32
    assert told["scale"] == 2
    assert told["software"].startswith("rayscale ")
    other = Provenance("edsr/3", "0f" * 32, {"ensemble": False, "scale": 2})
    assert other.to_json() == PROVENANCE.to_json()


def test_measures_are_told_but_are_no_parameters():
    measured = PROVENANCE.with_measures(residual={"max": 0.5}).with_parameters(tile=9)
    assert json.loads(measured.to_json())["residual"] == {"max": 0.5}
    assert measured.parameters == {"scale": 2, "ensemble": False, "tile": 9}


@pytest.mark.parametrize("container", ["png", "jpeg", "tiff", "webp"])
def test_pictures_carry_it_as_a_remark(container):
    image = Image(np.zeros((9, 8, 3), np.uint8), container, text={"Title": "roof"})
    data = write_image(image, PROVENANCE)
    assert data == write_image(image, PROVENANCE)
    assert "0f" * 32 in " ".join(read_image(data).text.values())
    assert "roof" in " ".join(read_image(data).text.values())
    if container == "png":
        assert json.loads(Pillow.open(io.BytesIO(data)).text["rayscale"])["model"] == "edsr/3"
    assert write_image(image) == write_image(image, None)
