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
    assert "order: flow, ensemble, order_784" in printed.splitlines()[0]
    places = [printed.index(f"{name}: {what}") for name in found for what in ("up to", "done in")]
    assert places == sorted(places)
    again = run(accelerator, tmp_path, "order_784", "ensemble", "flow")
    assert again == found, "finished jobs are not run twice"
    printed = capsys.readouterr().out
    assert [line.split(",")[0] for line in printed.splitlines()[1:]] == [f"{name}: done before" for name in found]


def test_results_of_another_size_are_not_taken_for_those_of_this_one(accelerator, tmp_path, capsys):
    (tmp_path / "results.json").write_text(json.dumps({"flow": {"toy": False, "rows": [], "done": True}}))
    with pytest.raises(SystemExit):
        run(accelerator, tmp_path, "flow")
    assert "holds results of full size; choose another folder" in capsys.readouterr().err


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
