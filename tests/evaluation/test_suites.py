from __future__ import annotations

import numpy as np
import pytest

from rayscale.evaluation import SUITES
from rayscale.evaluation.suites import MEASURES
from rayscale.imaging.fidelity import ergas, sam
from rayscale.resampling import degrade, enlarge

HR = np.random.default_rng(5).integers(2000, 9000, (24, 24, 13), dtype=np.uint16)


@pytest.mark.parametrize("suite", SUITES)
def test_a_perfect_result_has_the_best_of_every_measure(suite):
    found = SUITES[suite](HR, HR, degrade(HR, 2), 2)
    best = {name: np.inf if MEASURES[name].higher else 0 for name in found} | {"frc": 2}
    # The source is rounded, and a displacement is found to 1/100 of a pixel.
    assert found == pytest.approx(best, abs=0.02)


@pytest.mark.parametrize("suite", SUITES)
def test_interpolation_is_worse_in_every_measure_of_the_reference(suite):
    lr = degrade(HR, 2)
    found = SUITES[suite](enlarge(lr, 2), HR, lr, 2)
    assert all(found[name] > 0 for name in found if name != "spatial")
    assert found["frc"] > 2
    if suite == "satellite":
        assert found["sam"] == sam(enlarge(lr, 2), HR)
        assert found["ergas"] == ergas(enlarge(lr, 2), HR, 2)
        assert found["cpsnr"] < 60
