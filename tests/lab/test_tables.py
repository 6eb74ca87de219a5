import numpy as np
import pytest
import torch
from safetensors.torch import save

from ranklens.lab.tables import complete, profile, read_table


@pytest.mark.parametrize("text", ["1,2,\n4,?,6\n", "1;2;\n4;na;6", "1\t2\t\n4\tNaN\t6\n\n", "a,b,c\r\n1,2,\r\n4,,6"])
def test_tables_of_every_form(text):
    found = read_table(text).to_numpy()
    np.testing.assert_array_equal(np.isnan(found), [[False, False, True], [False, True, False]])
    assert found[1, 2] == 6.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the table is empty"),
        ("1,2,3", "from 2 x 2"),
        ("1,2\n3,four", "cells that are no numbers"),
        ("1,2\n3,inf", "infinite"),
        ("\n".join([",".join(["1"] * 300)] * 300), "cells are completed"),
    ],
)
def test_what_is_no_table_is_told(text, message):
    with pytest.raises(ValueError, match=message):
        read_table(text)


@pytest.mark.slow
def test_a_table_of_low_rank_is_filled():
    drawn = np.random.default_rng(0)
    true = drawn.normal(size=(20, 2)) @ drawn.normal(size=(2, 15))
    holes = drawn.random(true.shape) < 0.3
    text = "\n".join(
        ",".join("" if hole else f"{x:.9g}" for x, hole in zip(*row, strict=True))
        for row in zip(true, holes, strict=True)
    )
    found = complete(text)
    errors = {way["name"]: way["error"] for way in found["ways"]}
    assert found["holes"] == int(holes.sum())
    assert errors["depth 3"] < 0.05 < errors["least nuclear norm"]
    filled = read_table(found["filled"]).to_numpy()
    assert np.abs(filled - true).max() < 0.1


def test_a_checkpoint_is_profiled():
    low = torch.outer(torch.arange(1.0, 9.0), torch.ones(6))
    found = profile(
        save(
            {"low": low, "random": torch.randn(8, 6, generator=torch.Generator().manual_seed(0)), "bias": torch.ones(3)}
        )
    )
    ranks = {layer["name"]: layer["effective_rank"] for layer in found["layers"]}
    assert ranks["low"] == pytest.approx(1.0)
    assert ranks["random"] > 4
    assert "bias" in found["skipped"]
    spectrum = {layer["name"]: layer["spectrum"] for layer in found["layers"]}
    assert spectrum["low"][0] == 1.0
    assert max(spectrum["low"][1:]) < 1e-6
    with pytest.raises(ValueError, match="this is no safetensors file"):
        profile(b"nonsense")
