"""The accelerator script at a toy size on the CPU: its jobs run in order, its results are whole, and it resumes."""

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def accelerator(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    sys.modules.pop("accelerator", None)
    import accelerator

    return accelerator


def run(accelerator, folder, *jobs):
    arguments = ["--toy", "--device", "cpu", "--minutes", "1", "--out", str(folder), "--only", *jobs]
    assert accelerator.main(arguments) == 0
    return json.loads((folder / "results.json").read_text())


def test_flow_ensemble_and_order_784(accelerator, tmp_path, capsys):
    found = run(accelerator, tmp_path, "flow", "ensemble", "order_784")
    assert [found[name]["done"] for name in ("flow", "ensemble", "order_784")] == [True] * 3
    assert found["flow"]["rows"][0]["stopped"] == "loss"
    assert {row["dtype"] for row in found["ensemble"]["rows"]} == {"torch.float32", "torch.float64"}
    assert found["order_784"]["rows"][0]["steps"] == 20
    assert (tmp_path / "accelerator.png").stat().st_size > 0
    printed = capsys.readouterr().out
    assert printed.index("flow:") < printed.index("ensemble:") < printed.index("order_784:")
    again = run(accelerator, tmp_path, "flow", "ensemble", "order_784")
    assert again == found, "finished jobs are not run twice"


@pytest.mark.slow
def test_training_continues_from_its_checkpoints(accelerator, tmp_path):
    found = run(accelerator, tmp_path, "pairs", "pathfinder")
    for name in ("pairs", "pathfinder"):
        assert [row["weight"] for row in found[name]["rows"]] == [0.0, {"pairs": 1.0, "pathfinder": 9.0}[name]]
    path = tmp_path / "results.json"
    path.write_text(json.dumps({}))
    again = run(accelerator, tmp_path, "pairs")
    for one, other in zip(found["pairs"]["rows"], again["pairs"]["rows"], strict=True):
        assert one["loss"] == other["loss"], "the curves of the checkpoints are returned"
