import numpy as np
import pytest
import torch

from ranklens.lab.experiment import Experiment, unfolded
from ranklens.lab.knobs import Knobs
from ranklens.tensors import measures

pytestmark = pytest.mark.filterwarnings("ignore::ranklens.dynamics.record.StoppedEarly")

SMALL = {
    "matrix": Knobs(size=6, rank=1, start=0.05),
    "fraction": Knobs(size=6, rank=1, depth=2.5, start=0.05),
    "example": Knobs(family="example", start=0.01),
    "cp": Knobs("cp", 3, 4, 6, 0.1, rank=1, observed=0.8),
    "hierarchical": Knobs("hierarchical", 4, 3, 3, 0.3, rank=1, observed=0.8),
    "train": Knobs("train", 3, 4, 3, 0.2, rank=1, observed=0.8),
    "einsum": Knobs("einsum", size=4, width=3, start=0.2, rank=1, einsum="abr,rc->abc", observed=0.8),
    "adam": Knobs(size=4, rank=1, start=0.1, optimizer="adam"),
}


@pytest.mark.parametrize("name", SMALL)
def test_every_family_runs_and_is_measured(name):
    experiment = Experiment(SMALL[name])
    record = experiment.run(lambda _: None)
    assert record.attrs["stopped"] in ("loss", "steps")
    assert record.sizes[record.loss.dims[0]] == len(record.length)
    assert (np.diff(record.length.values) >= 0).all()
    spectrum = measures.singular_values(unfolded(experiment.end))
    assert float(record.nuclear[-1]) == pytest.approx(float(spectrum.sum()))
    assert float(record.effective_rank[-1]) == pytest.approx(float(measures.effective_rank_of(spectrum)))


@pytest.mark.parametrize("name", ["matrix", "fraction", "cp"])
def test_the_rate_of_the_law_is_the_slope_of_the_curve(name):
    """Balanced or nearly so, and away from the start the curves' central differences follow the law."""
    record = Experiment(SMALL[name]).run(lambda _: None)
    top = int(record.sigma[-1].values.argmax())
    time, size, rate = record.time.values, record.sigma[:, top].values, record.rate[:, top].values
    rows = [
        k
        for k in np.flatnonzero(np.isfinite(rate))
        if 0.3 * size.max() < size[k] < 0.8 * size.max() and k + 1 < len(time)
    ]
    assert rows
    for k in rows:
        before, after = (
            (size[k] - size[k - 1]) / (time[k] - time[k - 1]),
            (size[k + 1] - size[k]) / (time[k + 1] - time[k]),
        )
        assert min(before, after) * 0.9 <= rate[k] <= max(before, after) * 1.1


def test_too_large_networks_are_refused():
    with pytest.raises(ValueError, match="parameters, more than 40000"):
        Experiment(Knobs(size=64, width=128, depth=6.0))
    with pytest.raises(ValueError, match="einsum 'abcd,abcd->' makes too large a network"):
        Experiment(Knobs("einsum", size=64, einsum="abcd,abcd->"))


def test_imbalance_leaves_the_product():
    one, other = Experiment(Knobs(size=4)), Experiment(Knobs(size=4, imbalance=2.0))
    assert torch.allclose(one.end, other.end)
    assert float(other.net.imbalance()) > 10 * float(one.net.imbalance())
