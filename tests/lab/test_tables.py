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
        ("1,2\n3,four", "which is no number"),
        ("1,2\n3,inf", "infinite numbers"),
        ("\n".join([",".join(["1"] * 300)] * 300), "cells are completed"),
    ],
)
def test_what_is_no_table_is_told(text, message):
    with pytest.raises(ValueError, match=message):
        read_table(text)


def test_numbers_that_pandas_leaves_alone_are_numbers():
    """Whole numbers too large for 64 bits, and numbers and holes beside a line separator, which is a blank."""
    text = "99999999999999999999,\u20282,\u2028\n3,4\u2028,5\n6,7,8"
    np.testing.assert_array_equal(read_table(text), [[1e20, 2, np.nan], [3, 4, 5], [6, 7, 8]])
    with pytest.raises(ValueError, match="column 2 has a cell 'four', which is no number"):
        read_table("99999999999999999999,\u20282\n3,four")


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
    assert errors["depth 3"] < 1e-3 < errors["least nuclear norm"]
    filled = read_table(found["filled"]).to_numpy()
    assert np.abs(filled - true).max() < 0.1


@pytest.mark.parametrize("text", ["1,5;2,5;\n3,5;;4,5", "\ufeffa\tb\tc\n1,5\t2,5\t\n3,5\t?\t4,5", "1.5;2.5;\n3.5;;4.5"])
def test_decimal_commas_are_read(text):
    np.testing.assert_array_equal(read_table(text).to_numpy(), [[1.5, 2.5, np.nan], [3.5, np.nan, 4.5]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2\n3,<b>", "column 2 has a cell '<b>'"),
        ("x,y\nrow,2\nrow,3", "column 'x' has a cell 'row'"),
        ("1e200,2\n3,4", "a number of size 1.0e\\+200; sizes from 1e-100 to 1e\\+100"),
        ("1e-200,0\n0,0", "sizes from"),
    ],
)
def test_what_cannot_be_completed_is_told_by_its_place(text, message):
    with pytest.raises(ValueError, match=message):
        read_table(text)


LOW = torch.outer(torch.arange(1.0, 9.0), torch.ones(6))


@pytest.fixture
def file(tmp_path):
    def write(weights):
        path = tmp_path / "weights.safetensors"
        path.write_bytes(weights if isinstance(weights, bytes) else save(weights))
        return path

    return write


def test_a_checkpoint_is_profiled(file):
    random = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    found = profile(file({"low": LOW, "random": random, "bias": torch.ones(3)}))
    ranks = {layer["name"]: layer["effective_rank"] for layer in found["layers"]}
    assert ranks["low"] == pytest.approx(1.0)
    assert ranks["random"] > 4
    assert "bias" in found["skipped"]
    spectrum = {layer["name"]: layer["spectrum"] for layer in found["layers"]}
    assert spectrum["low"][0] == 1.0
    assert max(spectrum["low"][1:]) < 1e-6


@pytest.mark.parametrize("content", [b"", b"nonsense", save({"low": LOW})[:-40]], ids=["empty", "nonsense", "cut"])
def test_what_is_no_checkpoint_is_told_without_its_path(file, content):
    path = file(content)
    with pytest.raises(ValueError, match="this is no safetensors file") as told:
        profile(path)
    assert str(path) not in str(told.value)


def test_weights_that_are_too_large_are_listed(file, monkeypatch):
    monkeypatch.setattr("ranklens.lab.tables.MOST_WORK", 8 * 6 * 6)
    found = profile(file({"low": LOW, "large": torch.ones(8, 7)}))
    assert [layer["name"] for layer in found["layers"]] == ["low"]
    assert "is 8 x 7, too large" in found["skipped"]["large"]
    with pytest.raises(ValueError, match="no weight can be measured here: large is 8 x 7"):
        profile(file({"large": torch.ones(8, 7)}))
    with pytest.raises(ValueError, match="none of the 1 tensors"):
        profile(file({"bias": torch.ones(8)}))
