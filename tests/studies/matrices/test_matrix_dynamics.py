"""Learning one at a time is counted as it is defined, and the recorded flow fits its observed entries."""

import numpy as np
import pytest

from ranklens import studies
from ranklens.studies.matrices import matrix_dynamics as study

SETTINGS = study.PRESETS["tiny"]


@pytest.fixture(scope="module")
def record():
    return studies.perform("matrix_dynamics", SETTINGS)


def test_the_flow_ends_at_its_loss_with_values_of_the_norm(record, tolerance):
    assert float(record.loss[0, -1]) == pytest.approx(SETTINGS.until_loss, rel=tolerance["flow"])
    norm = float(np.sqrt((record.singular.values[0, -1] ** 2).sum()))
    assert norm == pytest.approx(SETTINGS.size, rel=0.1)  # that of the target, recovered but for a few percent


@pytest.mark.parametrize(("delay", "share"), [(3, 1.0), (0, 0.0)])
def test_values_that_wait_for_each_other_count_and_others_do_not(record, delay, share):
    """Two singular values are steps from 0 to 1; the second one comes `delay` rows after the first."""
    drawn = record.copy(deep=True)
    row = np.arange(drawn.sizes["row"])
    curves = np.stack([np.clip(row - 5, 0, 1), np.clip(row - 5 - delay, 0, 1)], axis=1)
    drawn["singular"].values[:] = 1e-6
    drawn["singular"].values[0, :, :2] = curves
    waiting = next(claim for claim in study.claims(drawn) if "one at a time" in claim.statement)
    assert waiting.measured == share
