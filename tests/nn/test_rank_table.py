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


def test_names_cannot_command_the_terminal_and_what_was_skipped_is_listed():
    made = {"a\x1b[2J": torch.eye(3), "b": torch.ones(3, 3).int(), **{f"bias{k}": torch.ones(2) for k in range(5)}}
    text = rank_table.text(rl.nn.rank_profile(made))
    assert "\x1b" not in text
    assert "a\\x1b[2J" in text
    assert "not measured: has fewer than two axes: bias0, bias1, bias2 and 2 more" in text
    assert "not measured: has entries of torch.int32" in text


def test_experts_have_a_line_for_all_and_one_for_each():
    made = {"experts": torch.stack([torch.eye(4, 3), 2 * torch.eye(4, 3)])}
    lines = rank_table.text(rl.nn.rank_profile(made)).splitlines()
    assert [line.split("  ")[0] for line in lines[1:4]] == ["experts", "experts[0]", "experts[1]"]
    assert "2 of 4 x 3" in lines[1]
    assert "medians" in lines[-1]


def checkpoints(folder):
    W = torch.randn(12, 12, generator=torch.Generator().manual_seed(0))
    names = [f"layers.0.attn.{part}_proj.weight" for part in "qkvo"]
    save_file({name: W.clone() for name in names}, folder / "before.safetensors")
    later = {name: W + torch.outer(torch.ones(12), torch.arange(12.0)) for name in names}
    save_file(later, folder / "after.safetensors")
    return str(folder / "after.safetensors"), str(folder / "before.safetensors")


def test_two_checkpoints_are_compared(tmp_path):
    after, before = checkpoints(tmp_path)
    answer = CliRunner().invoke(app, ["rank", after, "--against", before, "--out", str(tmp_path / "c.csv")])
    assert answer.exit_code == 0, answer.output
    head, first, *_ = answer.output.splitlines()
    assert head.split()[:4] == ["weight", "shape", "change", "rank"]
    assert first.split()[4:6] == [f"{12**0.5 * sum(k * k for k in range(12)) ** 0.5 / norm(before):.1%}", "1"]
    assert pd.read_csv(tmp_path / "c.csv")["numerical_rank"].tolist() == [1] * 4
    assert CliRunner().invoke(app, ["rank", after, "--against", before, "--out", "x.png"]).exit_code == 2


def norm(path):
    (first, *_) = rl.nn.load_weights(path).values()
    return float(first.norm())


def test_products_are_measured_by_head(tmp_path):
    after, _ = checkpoints(tmp_path)
    answer = CliRunner().invoke(app, ["rank", after, "--products", "--heads", "3"])
    assert answer.exit_code == 0, answer.output
    assert "layers.0.attn QK[2]" in answer.output
    assert "layers.0.attn OV[0]" in answer.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--products"], "the number of attention heads is not known"),
        (["--heads", "3"], "--heads 3 is given without --products"),
        (["--products", "--against", "x"], "give one of them"),
        (["--layouts", "x.json"], "--layouts x.json is given without --products"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, options, said):
    after, _ = checkpoints(tmp_path)
    answer = CliRunner().invoke(app, ["rank", after, *options])
    assert answer.exit_code == 2
    assert said in answer.output


def test_a_table_of_layouts_is_read(tmp_path):
    after, _ = checkpoints(tmp_path)
    weights = rl.nn.load_weights(after)
    renamed = {name.replace("_proj.weight", "_mat"): x for name, x in weights.items()}
    save_file(renamed, tmp_path / "own.safetensors")
    table = tmp_path / "layouts.json"
    table.write_text('[{"query": "q_mat", "key": "k_mat", "value": "v_mat", "output": "o_mat"}]')
    command = ["rank", str(tmp_path / "own.safetensors"), "--products", "--heads", "3"]
    answer = CliRunner().invoke(app, [*command, "--layouts", str(table)])
    assert answer.exit_code == 0, answer.output
    assert "layers.0.attn QK[2]" in answer.output
    table.write_text('[{"querry": "q"}]')
    answer = CliRunner().invoke(app, [*command, "--layouts", str(table)])
    assert answer.exit_code == 2
    assert "layouts.json is no table of layouts" in answer.output


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
