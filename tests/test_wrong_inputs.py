"""Wrong inputs of the front door, in a Python without the suite's type checker, which would raise first."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("wrong_inputs.py")
# Calls, each with a part of its message, which names the culprit and the remedy.
CALLS = {
    "rl.cp((3, 4), rank=2).entries(torch.ones(1, 2))": "indices are torch.float32; mode indices are integers",
    "rl.cp((3, 4), rank=2).entries('00')": "indices is of type str; pass a tensor, a numpy array or nested lists",
    "rl.cp((3, 4), rank=2.5)": "rank is 2.5; it must be an integer",
    "rl.cp((3, 4), rank=True)": "rank is True; it must be an integer",
    "rl.cp((3, 4), rank=2, seed='a')": "seed is 'a', a str",
    "rl.TensorNetwork('ab,bc->ac', [torch.ones(2, 2), None])": "nodes[1] is None; pass a tensor",
    "rl.TensorNetwork('ab,bc->ac', [torch.ones(2, 2), [[1]]])": "node 1 is torch.float64 on cpu, node 0 torch.float32",
    "rl.init.normal_(torch.ones(2, 2))": "net is of type Tensor; pass a rl.TensorNetwork",
    "rl.init.scaled_([torch.ones(2, 2)])": "net is of type list; pass a rl.TensorNetwork",
    "rl.init.product_(torch.nn.Linear(2, 2), torch.eye(2))": "net is of type Linear; pass a rl.TensorNetwork",
    "rl.init.balance_(None)": "net is of type NoneType; pass a rl.TensorNetwork",
    "rl.truncate(torch.ones(2, 2), {})": "net is of type Tensor; pass a rl.TensorNetwork",
    "rl.ModeTree.adjacent(4.0)": "n is 4.0; it must be an integer",
    "rl.ModeTree.nested(('a', 1))": "'a' is neither a mode number",
    "rl.effective_rank(torch.ones(2, 2).long())": "W is torch.int64; pass floating-point numbers",
    "rl.effective_rank([['a']])": "W has entries of dtype <U1; pass real numbers",
    "rl.Completion(torch.zeros(1, 2).long(), ['1'], (2, 2))": "values has entries of dtype <U1; pass real numbers only",
    "rl.Completion(torch.zeros(1, 2).long(), None, (2, 2))": "values is None; pass a tensor",
    "rl.Completion.sample(torch.ones(2, 2) * 1j, 3)": "target has complex numbers",
    "rl.Completion.sample(torch.ones(2, 2), 3.0)": "observed is 3.0; it must be an integer",
    "rl.gradient_flow(rl.cp((2, 2)), 3)": "task is 3; it must be a Problem (an object with loss)",
    "rl.gradient_flow(rl.cp((2, 2)), task, until_evaluations=float('nan'))": "until_evaluations is nan; it must be an",
    "rl.end_matrix_flow([['a']], task, depth=2)": "start has entries of dtype <U1",
    "rl.Completion(torch.zeros(1, 2).long(), torch.ones(1) > 0, (2, 2))": "values are torch.bool",
    "rl.Completion(torch.zeros(1, 2), torch.ones(1), (2, 2))": "indices are torch.float32",
    "rl.Completion(torch.zeros(1, 2).long(), torch.ones(1), (2, 2), loss=3)": "loss is 3; it must be a text, a Loss",
    "rl.gradient_flow(rl.cp((2, 2), dtype=torch.float32), task)": "a flow needs float64",
    "rl.gradient_flow(rl.stack([rl.cp((2, 2))]), task)": "net is of type Ensemble; it must be a TensorNetwork",
    "rl.gradient_descent(rl.cp((2, 2)), task, torch.optim.SGD)": "optimizer is of type type; it must be an Optimizer",
    "rl.gradient_flow(rl.cp((2, 2)), task, track=rl.effective_rank)": "track is of type function",
    "rl.gradient_flow(rl.cp((2, 2)), task, track={'x': 3})": "track['x'] is a int; pass a function",
    "rl.Completion(task.indices, task.values, (2, 2), duplicates='first')": "duplicates is 'first'; it must be one of",
    "rl.nuclear_norm_psd(task)": "task is a Completion; pass a rl.DenseSensing",
    "rl.data.Labelled(torch.zeros(2, 8, 8).byte(), torch.zeros(3).long())": "there are 2 images and 3 labels",
    "rl.nn.circuit('ab,bc->ac')": "net is 'ab,bc->ac'; it must be a TensorNetwork",
    "rl.nn.rank_profile(3)": "model is 3; it must be a Module, a dictionary, a text or a path",
    "rl.MatrixCompleter(depth=2.5).fit([[1.0, 2.0]])": "depth is 2.5; it must be an integer",
    "rl.MatrixCompleter(scale='small').fit([[1.0, 2.0]])": "scale is 'small'; it must be a number",
    "rl.TensorCompleter((2, 2), random_state='one').fit([[0, 1]], [1.0])": "random_state is 'one'",
    "rl.save(3, 'x')": "thing is 3; pass a TensorNetwork",
    "rl.plot(3)": "run is a int; pass a record (xarray.Dataset) or a list of records",
    "rl.plot([3])": "run is a list of int; pass a record",
}


@pytest.mark.parametrize("extent", ["quick", pytest.param("full", marks=pytest.mark.slow)])
def test_every_wrong_input_is_refused_by_the_name_of_its_argument_or_works(extent, tmp_path):
    command = [sys.executable, str(SCRIPT), extent]
    answer = subprocess.run(
        command, input=json.dumps(list(CALLS)), capture_output=True, text=True, check=True, cwd=tmp_path
    )
    found = json.loads(answer.stdout.splitlines()[-1])
    assert found["tried"] > (400 if extent == "quick" else 8000)
    assert found["wrong"] == []
    assert found["missing"] == []
    told = found["told"]
    assert {call: told[call] for call, message in CALLS.items() if message not in told[call]} == {}
