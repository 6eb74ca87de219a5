"""Components that wait for each other are counted with one exception, and the rank is read off the last norms."""

import numpy as np
import pytest

from ranklens import studies
from ranklens.studies.cp import tensor_dynamics as study

SETTINGS = study.PRESETS["tiny"]


@pytest.fixture(scope="module")
def record():
    return studies.perform("tensor_dynamics", SETTINGS)


@pytest.mark.parametrize(("delay", "share"), [(3, 1.0), (0, 0.0)])
def test_components_that_wait_for_each_other_count_and_others_do_not(record, delay, share):
    """Two component norms are steps from 0 to 1; the second one comes `delay` rows after the first."""
    drawn = record.copy(deep=True)
    row = np.arange(drawn.sizes["row"])
    drawn["component"].values[:] = 1e-6
    drawn["component"].values[0, :, :2] = np.stack([np.clip(row - 5, 0, 1), np.clip(row - 5 - delay, 0, 1)], axis=1)
    waiting, rank = study.claims(drawn)[2:4]
    assert waiting.measured == share
    assert rank.measured == pytest.approx(1e-6)


def test_the_flow_ends_at_its_loss_with_as_many_components_as_the_target(record, tolerance):
    assert float(record.loss[0, -1]) == pytest.approx(SETTINGS.until_loss, rel=tolerance["flow"])
    final = np.sort(record.component.values[0, -1])[::-1]
    assert final[SETTINGS.rank] < 0.1 * final[SETTINGS.rank - 1]
