"""Rank profiles as text, as figures and in files."""

import subprocess
import sys

import pandas as pd
import pytest
import torch
from layer_cases import SAME_SINGLE
from safetensors.torch import save_file
from typer.testing import CliRunner

import ranklens as rl
from ranklens.cli import app
from ranklens.nn import rank_table


@pytest.mark.parametrize("suffix", [".csv", ".json", ".nc"])
def test_the_command(tmp_path, suffix):
    file, out = tmp_path / "net.safetensors", tmp_path / f"ranks{suffix}"
    save_file({"layer.weight": torch.outer(torch.arange(1.0, 5.0), torch.ones(3)), "layer.bias": torch.ones(4)}, file)
    answer = CliRunner().invoke(app, ["rank", str(file), "--out", str(out)])
    assert answer.exit_code == 0, answer.output
    assert "layer.weight  4 x 3" in answer.output
    read = {".csv": pd.read_csv, ".json": pd.read_json, ".nc": lambda path: rl.load(path).to_dataframe().reset_index()}
    assert float(read[suffix](out)["effective_rank"].iloc[0]) == pytest.approx(1.0)
    assert CliRunner().invoke(app, ["rank", str(file), "--out", str(tmp_path / "ranks.png")]).exit_code == 0
    assert (tmp_path / "ranks.png").read_bytes().startswith(b"\x89PNG")
    assert CliRunner().invoke(app, ["rank", str(tmp_path / "none.pt")]).exit_code == 2
    assert CliRunner().invoke(app, ["rank", str(file), "--out", str(tmp_path / "x.txt")]).exit_code == 2


def profile():
    weights = {"wide": torch.eye(3, 5), "layer.low": torch.outer(torch.arange(1.0, 5.0), torch.ones(3))}
    return rl.nn.rank_profile(weights, energy=0.9)


def test_the_text_has_the_measures_of_every_weight_and_of_random_matrices():
    found = profile()
    head, wide, low, *_, last = rank_table.text(found).splitlines()
    assert head.split("  ")[0] == "weight"
    assert "rank at 0.9" in head
    random = found.random_effective_rank.values
    assert wide.split() == [
        *["wide", "3", "x", "5", "3.0", f"({random[0]:.1f})", "3.0", f"({float(found.random_stable_rank[0]):.1f})"],
        *["3", "3", f"({int(found.random_rank_kept[0])})", "100%"],  # three components of 8 entries save nothing
    ]
    assert low.split()[4:6] == ["1.0", f"({random[1]:.1f})"]
    assert low.split()[-1] == "58%"  # 4 + 3 entries in place of 12
    assert last == "in parentheses: a random matrix of that shape"


def test_the_figure_shows_relative_effective_ranks_and_spectra():
    ranks, spectra = rank_table.picture(profile()).axes
    assert [bar.get_width() for bar in ranks.patches] == pytest.approx([1.0, 1 / 3], rel=SAME_SINGLE)
    assert [label.get_text() for label in ranks.get_yticklabels()] == ["wide", "layer.low"]
    assert sorted(len(line.get_xdata()) for line in spectra.lines) == [3, 3]
    assert all(max(line.get_ydata()) == 1 for line in spectra.lines)


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"table\.txt is not a \.csv, \.json, \.nc, \.png or \.svg file"):
        rank_table.write(profile(), tmp_path / "table.txt")
    assert not list(tmp_path.iterdir())
    svg = rank_table.write(profile(), tmp_path / "table.svg")
    assert "<svg" in svg.read_text()


MEASURED = """
import sys, torch, ranklens as rl
rl.nn.rank_profile(torch.nn.Linear(4, 3))
print([name for name in ("matplotlib", "ranklens.drawing", "ranklens.theory") if name in sys.modules])
"""


def test_measuring_ranks_imports_no_plotting():
    answer = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
