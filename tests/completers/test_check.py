import numpy as np
import pandas as pd
import pytest
import torch

import ranklens as rl
from ranklens.completers.check import check_arguments, check_positions, seed_of


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 1}, "depth is 1; it must be at least 2"),
        ({"scale": 0.0}, "scale is 0.0"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"held_out": 1.0}, "held_out is 1.0; it is a fraction of the observed entries"),
        ({"width": 0}, "width is 0"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0; it must be a finite number above 0"),
        ({"max_steps": 0}, "max_steps is 0"),
    ],
)
def test_arguments_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        rl.MatrixCompleter(**settings).fit(np.eye(4))


def test_the_seed_is_an_integer_or_drawn_from_what_is_given():
    assert check_arguments(rl.TensorCompleter((2, 2), random_state=7)) == 7
    assert seed_of(np.int32(5)) == 5
    assert seed_of(np.random.RandomState(0)) == seed_of(np.random.RandomState(0))
    assert seed_of(np.random.default_rng(0)) == seed_of(np.random.default_rng(0))
    assert len({seed_of(None) for _ in range(5)}) > 1
    for wrong in (True, 1.0, "a"):
        with pytest.raises(TypeError, match="pass an integer"):
            seed_of(wrong)


def test_positions_come_back_as_int64():
    wanted = torch.tensor([[0, 1], [2, 3]])
    for indices in (wanted.tolist(), wanted.numpy().astype(np.uint8), pd.DataFrame(wanted.numpy(), columns=["b", "a"])):
        assert torch.equal(check_positions(indices, (3, 4)), wanted)


def test_wrong_positions_are_named():
    with pytest.raises(ValueError, match="index 4 in row 0 is outside mode 1 of size 4"):
        check_positions([[0, 4]], (3, 4))
    with pytest.raises(ValueError, match="index -1 in row 1 is outside mode 0"):
        check_positions([[0, 0], [-1, 0]], (3, 4))
    with pytest.raises(TypeError, match="positions are integers"):
        check_positions([[0.0, 1.0]], (3, 4))
    with pytest.raises(ValueError, match=r"indices have shape \(1, 3\)"):
        check_positions([[0, 1, 2]], (3, 4))
