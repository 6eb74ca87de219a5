import numpy as np
import pytest

from ranklens.lab.experiment import Experiment
from ranklens.lab.knobs import Knobs
from ranklens.lab.script import script

pytestmark = pytest.mark.filterwarnings("ignore::ranklens.dynamics.record.StoppedEarly")

CASES = {
    "matrix": Knobs(size=5, rank=1, start=0.05, imbalance=0.5, noise=0.1),
    "fraction": Knobs(size=5, rank=1, depth=2.5, start=0.05),
    "example of depth 2.5": Knobs(family="example", depth=2.5, start=0.01),
    "example": Knobs(family="example", start=0.01),
    "cp": Knobs("cp", 3, 4, 0, 0.1, rank=1, observed=0.8),
    "hierarchical": Knobs("hierarchical", 4, 3, 3, 0.3, rank=1, observed=0.8, seed=2),
    "train": Knobs("train", 3, 4, 3, 0.2, rank=1, observed=0.8),
    "einsum": Knobs("einsum", size=4, width=3, start=0.2, rank=1, einsum="abr, rc -> abc", observed=0.8),
    "one factor, which has no imbalance": Knobs(size=4, depth=1.0, rank=1, start=0.1, imbalance=1.0),
    "adam": Knobs(size=4, rank=1, start=0.1, optimizer="adam"),
    "spectral": Knobs(size=4, rank=1, start=0.1, optimizer="spectral"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_python_makes_the_same_run(name, tolerance):
    names = {}
    exec(script(CASES[name]), names)
    wanted = Experiment(CASES[name]).run(lambda _: None)
    for quantity in ("loss", "sigma"):
        np.testing.assert_allclose(names["run"][quantity], wanted[quantity], rtol=tolerance["rounding"], atol=0)
