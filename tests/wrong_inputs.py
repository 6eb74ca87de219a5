"""Every function of the front door with wrong inputs; run as a script, in a Python without the suite's type checker.

`python wrong_inputs.py quick` tries one wrong value for every argument, `full` tries all of them. Printed is a JSON
object with the calls that neither worked nor raised a TypeError or ValueError of the package that names the argument,
and with the messages of the calls that are given on standard input, as a JSON list.
"""

import json
import math
import re
import signal
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

import ranklens as rl

# What users pass by mistake: a missing value, text, numbers of other kinds, empty and complex arrays, huge counts.
WRONG = {
    "object()": object(),
    "None": None,
    "'text'": "text",
    "nan": math.nan,
    "inf": math.inf,
    "-1": -1,
    "0": 0,
    "1.5": 1.5,
    "1j": 1j,
    "[]": [],
    "[1, 'a']": [1, "a"],
    "{}": {},
    "True": True,
    "10**30": 10**30,
    "array of text": np.array(["a"]),
    "complex tensor": torch.zeros(2, dtype=torch.complex128),
    "empty tensor": torch.zeros(0),
    "frame of text": pd.DataFrame({"a": ["b"]}),
}
# Seconds after which a call hangs.
LIMIT = 20
F64 = torch.float64
# Two regions of images of 8 x 8 pixels: top, left, height and width.
BOXES = (0, 0, 2, 2), (4, 4, 2, 2)
# The edges of a graph: a path over three vertices.
PATH = [(0, 1), (1, 2)]
FOLDER = Path(tempfile.mkdtemp())


def matrix(size=4):
    return torch.arange(1.0, size * size + 1, dtype=F64).reshape(size, size) / size + torch.eye(size, dtype=F64)


def net():
    return rl.deep_matrix((4, 4), depth=2, std=0.5)


def cp_net():
    return rl.cp((3, 3, 3), rank=2, std=0.5)


def task():
    return rl.Completion.sample(matrix(), observed=8)


def cp_task():
    return rl.Completion.sample(torch.ones(3, 3, 3, dtype=F64), observed=9)


def sensing():
    rng = torch.Generator().manual_seed(0)
    operators = torch.randn(6, 3, 3, dtype=F64, generator=rng)
    return rl.DenseSensing(operators, (operators * torch.eye(3, dtype=F64)).sum((1, 2)))


def flow():
    return rl.gradient_flow(net(), task(), until_loss=0.5)


def tracked():
    return rl.gradient_flow(net(), task(), until_time=0.1, track={"off": lambda x: x.imbalance()})


def model():
    made = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    with torch.no_grad():
        for k, p in enumerate(made.parameters()):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(k)))
    return made


def hierarchies():
    return rl.nn.overparameterize(nn.Linear(4, 4), kind="hierarchical", tensorize=((2, 2), (2, 2)))


def convolutions():
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 1))


def attention():
    return {f"a.{kind}_proj.weight": torch.ones(4, 4) for kind in "qkvo"}


def weights_file():
    torch.save(model().state_dict(), FOLDER / "weights.pt")
    return FOLDER / "weights.pt"


def saved_model():
    return rl.nn.compress(model(), rank=2).save(FOLDER / "model.safetensors")


def table():
    full = np.outer(np.arange(8.0) + 1, np.arange(6.0) + 1)
    return np.where(np.random.default_rng(0).random((8, 6)) < 0.3, np.nan, full)


def positions():
    return np.argwhere(np.ones((3, 3, 3)))


def ratings():
    rng = np.random.default_rng(0)
    return pd.DataFrame({"user": rng.integers(0, 5, 40), "item": rng.integers(0, 4, 40)}), rng.normal(size=40)


def pixels():
    return torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def pictures():
    return rl.data.Labelled((pixels()[:, 0] * 255).to(torch.uint8), torch.tensor([0, 1, 0, 1]))


def features():
    return torch.rand(5, 4, 2, dtype=F64, generator=torch.Generator().manual_seed(0))


def tree():
    return rl.ModeTree.adjacent(4)


def parameters():
    return [nn.Parameter(torch.ones(2, 2))]


def descend(**given):
    made = given.get("net")
    trained = made if isinstance(made, rl.TensorNetwork) else net()
    rl.gradient_descent(optimizer=torch.optim.SGD(trained.parameters(), lr=0.01), **given)


def fitted(kind, *data, **options):
    return kind(**{"max_steps": 5, "posterior": 0, **options}).fit(*data)


def fit_matrix(**options):
    fitted(rl.MatrixCompleter, table(), **options)


def fit_tensor(shape=(3, 3, 3), **options):
    rl.TensorCompleter(shape, **{"max_steps": 5, "posterior": 0, **options}).fit(positions(), np.arange(27.0))


def fit_entries(**options):
    fitted(rl.EntryRegressor, *ratings(), **options)


def penalize(**options):
    penalty = rl.nn.LocalityPenalty(**{"patches": rl.nn.PatchPairs(2), **options})
    for _ in range(2):
        penalty(convolutions(), pixels())


def monitor(**options):
    made = rl.nn.RankMonitor(**{"model": model(), **options})
    made.remove() if hasattr(made, "remove") else None


def error(a):
    return float(a)


def number(tensor):
    return 1.0


def case(function, **valid):
    """Return a function with valid arguments."""
    return function, valid


warnings.simplefilter("ignore")
torch.set_num_threads(1)
NET, RECORD = net(), tracked()
MATRIX, ENTRIES = fitted(rl.MatrixCompleter, table()), fitted(rl.EntryRegressor, *ratings())
TENSOR = fitted(lambda **options: rl.TensorCompleter((3, 3, 3), **options), positions(), np.arange(27.0))
STORE = FOLDER / "store"
rl.sweep(error, {"a": [1]}, store=STORE, jobs=1)

# Names of the functions, each with the function and valid arguments.
CALLS = {
    "deep_matrix": case(rl.deep_matrix, shape=(4, 4), depth=2, width=4, std=0.1, seed=0, dtype=F64, device="cpu"),
    "cp": case(rl.cp, shape=(3, 3), rank=2, std=0.1, seed=0, dtype=F64, device="cpu"),
    "hierarchical": case(rl.hierarchical, shape=(3,) * 4, width=2, tree=None, std=0.1, seed=0, dtype=F64, device="cpu"),
    "tensor_train": case(rl.tensor_train, shape=(3, 3, 3), rank=2, std=0.1, seed=0, dtype=F64, device="cpu"),
    "tensor_ring": case(rl.tensor_ring, shape=(3, 3, 3), rank=2, std=0.1, seed=0, dtype=F64, device="cpu"),
    "tucker": case(rl.tucker, shape=(3, 3, 3), rank=2, std=0.1, seed=0, dtype=F64, device="cpu"),
    "TensorNetwork": case(rl.TensorNetwork, equation="ar,rb->ab", nodes=[matrix(), matrix()]),
    "TensorNetwork.entries": case(lambda **k: net().entries(**k), indices=[[0, 1]], check=True),
    "TensorNetwork.evaluate": case(lambda **k: net().evaluate(**k), vectors=torch.ones(2, 2, 4, dtype=F64)),
    "TensorNetwork.order": case(lambda **k: cp_net().order(**k), bond="r"),
    "TensorNetwork.slice_norms": case(lambda **k: cp_net().slice_norms(**k), bond="r"),
    "TensorNetwork.component_norms": case(lambda **k: cp_net().component_norms(**k), bond="r"),
    "TensorNetwork.gradients": case(
        lambda loss: (n := net()).gradients(n.tensor().sum() if loss is None else loss), loss=None
    ),
    "TensorNetwork.with_nodes": case(lambda **k: net().with_nodes(**k), nodes=[matrix(), matrix()]),
    "TensorNetwork.freeze": case(lambda nodes: net().freeze(nodes), nodes=0),
    "stack": case(rl.stack, nets=[net(), net()], step_sizes=[1.0, 1.0]),
    "truncate": case(rl.truncate, net=cp_net(), widths={"r": 1}),
    "ModeTree": case(rl.ModeTree, children_of=tree().children_of),
    "ModeTree.adjacent": case(rl.ModeTree.adjacent, n=4, pool=2),
    "ModeTree.distant": case(rl.ModeTree.distant, n=4, pool=2),
    "ModeTree.square": case(rl.ModeTree.square, side=2, pool=2),
    "ModeTree.nested": case(rl.ModeTree.nested, groups=((0, 1), (2, 3))),
    "ModeTree.children": case(lambda **k: tree().children(**k), node=(0, 1)),
    "ModeTree.parent": case(lambda **k: tree().parent(**k), node=(0, 1)),
    "Completion": case(
        rl.Completion,
        indices=[[0, 0], [1, 1]],
        values=[1.0, 2.0],
        shape=(2, 2),
        target=None,
        loss="mse",
        duplicates="error",
    ),
    "Completion.sample": case(rl.Completion.sample, target=matrix(), observed=8, noise=0.1, seed=0, loss="mse"),
    "Completion.counterexample": case(rl.Completion.counterexample, d=2, z=1.0, z2=1.0, eps=0.0, loss="half_sse"),
    "Completion.split": case(lambda **k: task().split(**k), fraction=0.2, seed=0),
    "Completion.subset": case(lambda **k: task().subset(**k), rows=torch.tensor([0, 1])),
    "Completion.error": case(lambda **k: task().error(**k), tensor=matrix()),
    "Completion.loss": case(lambda **k: task().loss(**k), tensor=matrix()),
    "Completion.predict": case(lambda **k: task().predict(**k), tensor=matrix()),
    "Sensing": case(rl.Sensing, vectors=[matrix(), matrix()], values=[1.0, 2.0, 3.0, 4.0], target=None, loss="mse"),
    "DenseSensing": case(
        rl.DenseSensing, operators=torch.ones(3, 2, 2, dtype=F64), values=[1.0, 2.0, 3.0], target=None, loss="mse"
    ),
    "gradient_flow": case(
        lambda **k: rl.gradient_flow(**{"until_loss": 0.1, "until_evaluations": 40, **k}),
        net=net(),
        task=task(),
        until_loss=0.1,
        until_time=5.0,
        until_evaluations=40,
        times=[1.0, 2.0],
        rtol=1e-4,
        atol=1e-6,
        track={"a": number},
        progress=None,
        resume=None,
    ),
    "gradient_descent": case(
        descend,
        net=net(),
        task=task(),
        steps=3,
        every=1,
        until_loss=0.1,
        batch_size=2,
        seed=0,
        track={"a": number},
        resume=None,
        progress=None,
    ),
    "gradient_descent, optimizer": case(
        lambda **k: rl.gradient_descent(NET, task(), steps=2, **k), optimizer=torch.optim.SGD(NET.parameters(), lr=0.01)
    ),
    "guess_and_check": case(
        lambda **k: rl.guess_and_check(**{"guesses": 100, "enough": 10, **k}),
        losses=lambda z: z[:, 0],
        size=2,
        level=0.5,
        guesses=100,
        enough=10,
        population=None,
        seed=0,
        dtype=F64,
    ),
    "random_product": case(rl.random_product, shape=(3, 4), depth=2, width=5, normalized=True),
    "end_matrix_flow": case(
        lambda **k: rl.end_matrix_flow(**{"until_loss": 0.1, "until_evaluations": 40, **k}),
        start=0.1 * torch.eye(4, dtype=F64),
        task=task(),
        depth=2.5,
        logarithmic=False,
        until_loss=0.1,
        until_time=5.0,
        until_evaluations=50,
        times=[1.0],
        rtol=1e-4,
        atol=1e-5,
        track={"a": number},
        progress=None,
    ),
    "nuclear_norm_completion": case(rl.nuclear_norm_completion, task=task(), tolerance=1e-2, steps=50),
    "nuclear_norm_psd": case(rl.nuclear_norm_psd, task=sensing(), tolerance=1e-2, steps=50),
    "singular_values": case(rl.singular_values, W=matrix()),
    "effective_rank": case(rl.effective_rank, W=matrix()),
    "stable_rank": case(rl.stable_rank, W=matrix()),
    "numerical_rank": case(rl.numerical_rank, W=matrix(), rtol=1e-3),
    "schatten_norm": case(rl.schatten_norm, W=matrix(), p=1.5),
    "nuclear_norm": case(rl.nuclear_norm, W=matrix()),
    "distance_to_rank": case(rl.distance_to_rank, W=matrix(), rank=1),
    "matricize": case(rl.matricize, T=torch.ones(2, 3, 4, dtype=F64), modes=[0], order=None),
    "hierarchical_rank": case(rl.hierarchical_rank, T=torch.ones(3, 3, 3, 3, dtype=F64), tree=tree(), rtol=1e-3),
    "entanglement_entropy": case(rl.entanglement_entropy, T=torch.ones(2, 2, 2, dtype=F64), modes=[0], order=None),
    "cp_rank_estimate": case(
        rl.cp_rank_estimate, T=torch.ones(2, 2, 2, dtype=F64), rtol=1e-3, largest=2, starts=1, sweeps=20, seed=0
    ),
    "measures.effective_rank_of": case(rl.measures.effective_rank_of, spectrum=torch.ones(3, dtype=F64)),
    "measures.stable_rank_of": case(rl.measures.stable_rank_of, spectrum=torch.ones(3, dtype=F64)),
    "measures.entropy": case(rl.measures.entropy, weights=torch.ones(3, dtype=F64)),
    "measures.rank_cutoff": case(rl.measures.rank_cutoff, dtype=F64, shape=(3, 4)),
    "save": case(rl.save, thing=net(), path=FOLDER / "a.safetensors"),
    "load": case(rl.load, path=rl.save(net(), FOLDER / "b.safetensors")),
    "plot": case(rl.plot, run=flow(), ends=False),
    "sweep": case(
        rl.sweep,
        what=error,
        over={"a": [1, 2]},
        fixed=None,
        preset="laptop",
        executor="local",
        store=None,
        jobs=1,
        address=None,
        progress=None,
    ),
    "open_store": case(rl.open_store, path=STORE, what=None),
    "targets.low_rank_matrix": case(rl.targets.low_rank_matrix, shape=(4, 4), rank=2, norm=1.0, seed=0),
    "targets.cp": case(rl.targets.cp, shape=(3, 3, 3), rank=2, norm=1.0, seed=0),
    "targets.hierarchical": case(rl.targets.hierarchical, shape=(3,) * 4, rank=2, norm=1.0, tree=None, seed=0),
    "init.normal_": case(rl.init.normal_, net=net(), std=0.1, mean=0.0, seed=0),
    "init.scaled_": case(rl.init.scaled_, net=net(), scale=0.1, seed=0),
    "init.balance_": case(rl.init.balance_, net=net(), tolerance=1e-12),
    "init.product_": case(rl.init.product_, net=net(), W0=matrix()),
    "losses.Loss": case(
        rl.losses.Loss, name="mine", elementwise=torch.sub, reduction="mean", smooth=True, derivative=None
    ),
    "losses.huber": case(rl.losses.huber, delta=1.0),
    "losses.mse": case(rl.losses.mse, prediction=torch.ones(2), value=torch.ones(2)),
    "losses.half_sse": case(rl.losses.half_sse, prediction=torch.ones(2), value=torch.ones(2)),
    "losses.l1": case(rl.losses.l1, prediction=torch.ones(2), value=torch.ones(2)),
    "theory.alignment": case(rl.theory.alignment, net=cp_net(), task=cp_task(), bond="r"),
    "theory.balanced_from": case(rl.theory.balanced_from, record=RECORD, name="off", share=0.1),
    "theory.bounds_2x2": case(rl.theory.bounds_2x2, loss=0.1),
    "theory.component_rate": case(rl.theory.component_rate, net=cp_net(), task=cp_task(), bond="r"),
    "theory.conserved": case(rl.theory.conserved, net=cp_net(), bond="r"),
    "theory.end_gradient": case(rl.theory.end_gradient, net=net(), task=task()),
    "theory.escape_time": case(rl.theory.escape_time, net=net(), task=task()),
    "theory.lambda_balanced_": case(rl.theory.lambda_balanced_, net=net(), W0=matrix(), imbalance=0.1),
    "theory.lambda_balanced_velocity": case(
        rl.theory.lambda_balanced_velocity, W=matrix(), gradient=matrix(), imbalance=0.1
    ),
    "theory.leading_factor": case(rl.theory.leading_factor, net=cp_net(), task=cp_task()),
    "theory.measured_rate": case(rl.theory.measured_rate, net=net(), task=task(), quantity=lambda x: x.tensor().sum()),
    "theory.min_cut_bound": case(rl.theory.min_cut_bound, net=cp_net(), modes=[0]),
    "theory.observation_components": case(rl.theory.observation_components, task=task()),
    "theory.pruning_bound": case(rl.theory.pruning_bound, net=cp_net(), widths={"r": 1}),
    "theory.relative_imbalance": case(rl.theory.relative_imbalance, net=cp_net(), bond="r"),
    "theory.sandwich": case(rl.theory.sandwich, net=cp_net(), task=cp_task(), bond="r"),
    "theory.separation_rank": case(rl.theory.separation_rank, net=cp_net(), modes=[0], rtol=1e-6),
    "theory.singular_value_rate": case(
        rl.theory.singular_value_rate, net=rl.init.product_(net(), matrix()), task=task(), balanced=True
    ),
    "theory.solution_determinant": case(rl.theory.solution_determinant, task=rl.Completion.counterexample()),
    "theory.unobserved_bound": case(rl.theory.unobserved_bound, loss=0.1, z=1.0, z2=1.0, eps=0.0),
    "optim.Spectral": case(rl.optim.Spectral, params=parameters(), lr=0.1),
    "optim.SignDescent": case(rl.optim.SignDescent, params=parameters(), lr=0.1),
    "optim.GroupRMSprop": case(rl.optim.GroupRMSprop, params=parameters(), lr=0.1, beta=0.9, eps=1e-8, members=None),
    "optim.SharedAdam": case(rl.optim.SharedAdam, params=parameters(), lr=0.1, betas=(0.9, 0.99), eps=1e-8),
    "MatrixCompleter": case(
        fit_matrix,
        depth=2,
        scale=None,
        width=3,
        biases=False,
        held_out=0.1,
        max_steps=5,
        learning_rate=0.01,
        patience=3.0,
        batch_size=None,
        device=None,
        posterior=0,
        implicit=False,
        row_features=None,
        column_features=None,
        random_state=0,
    ),
    "MatrixCompleter.fit": case(lambda X: fitted(rl.MatrixCompleter, X), X=table()),
    "MatrixCompleter.transform": case(MATRIX.transform, X=table()),
    "MatrixCompleter.predict": case(MATRIX.predict, X=table(), return_std=False),
    "MatrixCompleter.score": case(MATRIX.score, X=table()),
    "TensorCompleter": case(
        fit_tensor,
        shape=(3, 3, 3),
        family="cp",
        scale=None,
        width=2,
        biases=False,
        held_out=0.1,
        max_steps=5,
        learning_rate=0.01,
        patience=5.0,
        batch_size=None,
        device=None,
        posterior=0,
        smooth=None,
        random_state=0,
    ),
    "TensorCompleter.fit": case(
        lambda **k: (
            fitted(lambda **o: rl.TensorCompleter((3, 3, 3), **o), *k.values())
            if set(k) == {"indices", "values"}
            else None
        ),
        indices=positions(),
        values=np.arange(27.0),
    ),
    "TensorCompleter.predict": case(TENSOR.predict, indices=positions(), return_std=False),
    "TensorCompleter.score": case(TENSOR.score, indices=positions(), values=np.arange(27.0)),
    "EntryRegressor": case(
        fit_entries,
        depth=2,
        width=2,
        biases=True,
        held_out=0.1,
        max_steps=5,
        learning_rate=0.01,
        patience=3.0,
        batch_size=None,
        device=None,
        posterior=0,
        implicit=False,
        features=None,
        time=None,
        bins=3,
        smooth=None,
        random_state=0,
    ),
    "EntryRegressor.fit": case(
        lambda X, y, sample_weight: rl.EntryRegressor(max_steps=5, posterior=0).fit(X, y, sample_weight=sample_weight),
        X=ratings()[0],
        y=ratings()[1],
        sample_weight=None,
    ),
    "EntryRegressor.predict": case(ENTRIES.predict, X=ratings()[0], return_std=False),
    "EntryRegressor.recommend": case(ENTRIES.recommend, label=0, n=2, exclude=()),
    "nn.attention_products": case(rl.nn.attention_products, model=attention(), heads=2, energy=0.99, progress=None),
    "nn.circuit": case(rl.nn.circuit, net=cp_net(), shared=False),
    "nn.collapse": case(rl.nn.collapse, model=rl.nn.overparameterize(model(), depth=2)),
    "nn.compress": case(rl.nn.compress, model=model(), energy=0.9),
    "nn.compress, rank": case(lambda **k: rl.nn.compress(model(), **k), rank=2),
    "nn.compress, tolerance": case(lambda **k: rl.nn.compress(model(), **k), tolerance=0.2),
    "nn.compress, budget": case(
        lambda **k: rl.nn.compress(model(), **{"data": None, "budget": 0.9, **k}),
        budget=0.9,
        data=torch.ones(8, 6),
        order=None,
        per="parameters",
        importance=None,
        recalibrate=False,
    ),
    "nn.compress, batch": case(lambda **k: rl.nn.compress(model(), rank=2, **k), batch=torch.ones(8, 6)),
    "nn.compressibility": case(rl.nn.compressibility, model=model(), data=torch.ones(8, 6), error=0.1),
    "nn.factorable": case(rl.nn.factorable, model=model(), where=None),
    "nn.KernelChain": case(rl.nn.KernelChain, shapes=[(3, 1, 3, 3), (2, 3, 1, 1)], dtype=torch.float32, device="cpu"),
    "nn.load_weights": case(rl.nn.load_weights, path=weights_file()),
    "nn.locality_penalty": case(
        rl.nn.locality_penalty,
        model=convolutions(),
        x=pixels(),
        y=None,
        patches=BOXES,
        output=None,
        generator=None,
        eps=1e-8,
        fraction=1.0,
        concatenated=False,
    ),
    "nn.LocalityPenalty": case(
        penalize, patches=rl.nn.PatchPairs(2), weight=1.0, every=1, fraction=1.0, seed=0, eps=1e-8
    ),
    "nn.locality_profile": case(
        rl.nn.locality_profile,
        model=convolutions(),
        data=pixels(),
        size=2,
        distances=[2],
        pairs=1,
        templates=2,
        seed=0,
        control=False,
        batch_size=64,
    ),
    "nn.overparameterize": case(
        rl.nn.overparameterize,
        model=model(),
        depth=2,
        kind="matrix",
        width=None,
        where=None,
        init="keep",
        tensorize=None,
        seed=0,
    ),
    "nn.pareto": case(rl.nn.pareto, model=model(), score=None, energies=(1.0, 0.5), batch=None),
    "nn.PatchPairs": case(rl.nn.PatchPairs, size=2, distance=0, most=None, adjacent=False),
    "nn.product_pool": case(rl.nn.product_pool, x=torch.ones(2, 4, 3), windows=[[0, 1], [2, 3]]),
    "nn.prune": case(rl.nn.prune, model=hierarchies(), tolerance=0.1),
    "nn.rank_difference": case(
        rl.nn.rank_difference,
        before=model(),
        after=model(),
        leading=2,
        far=0.5,
        energy=0.99,
        seed=0,
        device="cpu",
        progress=None,
    ),
    "nn.rank_profile": case(rl.nn.rank_profile, model=model(), energy=0.99, seed=0, device="cpu", progress=None),
    "nn.RankMonitor": case(
        monitor, model=model(), every=2, share=0.1, activations=(), queue=4, updates=False, log=None
    ),
    "nn.register_layer": case(rl.nn.register_layer, kind=type("Mine", (nn.Linear,), {}), plain=None),
    "nn.resnet": case(rl.nn.resnet, depth=18, channels=3, outputs=1, seed=0),
    "nn.restore": case(rl.nn.restore, model=model(), path=saved_model()),
    "nn.separation_rank": case(
        rl.nn.separation_rank,
        f=convolutions(),
        x=pixels(),
        region=BOXES[0],
        against=BOXES[1],
        templates=2,
        centre=True,
        batch_size=64,
    ),
    "data.arrange": case(rl.data.arrange, weights=torch.ones(4, 4, dtype=F64), tree=tree()),
    "data.canonical_entanglement": case(
        rl.data.canonical_entanglement, features=features(), tree=tree(), weights=torch.ones(5, dtype=F64)
    ),
    "data.correlations": case(rl.data.correlations, values=features()[:, :, 0]),
    "data.data_tensor": case(rl.data.data_tensor, features=features(), weights=torch.ones(5, dtype=F64)),
    "data.entanglement": case(rl.data.entanglement, features=features(), modes=[0], weights=torch.ones(5, dtype=F64)),
    "data.unreachable": case(
        rl.data.unreachable, features=features(), tree=tree(), width=1, weights=torch.ones(5, dtype=F64)
    ),
    "data.images": case(rl.data.images, name="digits"),
    "data.Labelled": case(rl.data.Labelled, images=pictures().images, labels=pictures().labels),
    "data.Images": case(rl.data.Images, train=pictures(), test=pictures(), largest=255),
    "data.Strokes": case(
        rl.data.Strokes, dash=2.5, gap=1.5, thickness=1.0, spacing=8.0, radius=1.5, bend=0.8, margin=3.0
    ),
    "data.pathfinder": case(
        rl.data.pathfinder, count=1, length=4, side=60, strokes=None, distractors=0, contrast=1.0, seed=0
    ),
    "data.trace": case(rl.data.trace, images=rl.data.pathfinder(1, 4, 60, distractors=0).images, radius=1.5, reach=3.2),
    "data.shapes": case(rl.data.shapes, count=2, side=16, seed=0),
    "data.same_class": case(
        rl.data.same_class, images=pictures(), count=2, distance=0, canvas=(64, 64), like=None, seed=0
    ),
}
CALLS |= {
    "StateSpace": case(rl.StateSpace, A=[0.5, 0.1], B=[1.0, 3.0], C=[1.0, 1.0]),
    "next_component": case(rl.next_component, net=cp_net(), task=cp_task(), starts=1, seed=0),
    "greedy_learning": case(
        rl.greedy_learning, net=cp_net(), task=cp_task(), by="start", most=1, until_loss=0.1, starts=1, seed=0
    ),
    "measures.hankel": case(rl.measures.hankel, response=[1.0, 2.0, 3.0], rows=2),
    "measures.hankel_rank": case(rl.measures.hankel_rank, response=[1.0, 2.0, 3.0], rows=2, rtol=1e-3),
    "problems.Sequences": case(
        rl.problems.Sequences,
        inputs=[[1.0, 0.0], [0.0, 1.0]],
        values=[1.0, 2.0],
        model=rl.StateSpace([0.5, 0.1]),
        everything=False,
        loss="mse",
    ),
    "theory.memory_steps": case(rl.theory.memory_steps, lr=0.1, weight_decay=0.1, tolerance=0.1),
    "theory.memory_rank": case(rl.theory.memory_rank, batch_size=4, lr=0.1, weight_decay=0.1, tolerance=0.01, uses=1),
    "nn.graph_separation_rank": case(
        rl.nn.graph_separation_rank, edges=PATH, vertices=3, side=[0], depth=1, width=2, features=2, target=None
    ),
    "nn.walk_bound": case(rl.nn.walk_bound, edges=PATH, vertices=3, side=[0], depth=2, target=None),
    "nn.walk_index": case(rl.nn.walk_index, edges=PATH, vertices=3, side=[0], length=1, target=None),
    "nn.random_order": case(rl.nn.random_order, edges=PATH, vertices=3, seed=0),
    "nn.resistance_order": case(rl.nn.resistance_order, edges=PATH, vertices=3, seed=0),
    "nn.walk_index_order": case(rl.nn.walk_index_order, edges=PATH, vertices=3, length=1),
    "data.vertex_task": case(
        rl.data.vertex_task,
        vertices=40,
        classes=2,
        degree=4.0,
        same=0.8,
        spread=1.0,
        features=3,
        signal=1.0,
        shares=(0.5, 0.2),
        seed=0,
    ),
}
# Functions that need data from elsewhere when their arguments are right; so these are only given wrong ones.
UNREACHABLE = {
    "data.ratings": case(rl.data.ratings, name="text"),
    "data.fetch": case(rl.data.fetch, name="text"),
    "data.fetch, home": case(lambda home: rl.data.fetch("ml-100k", home=home), home="text"),
}


# What functions return, protocols, and modules that other functions make: nobody calls these by hand.
MADE_BY_OTHERS = {
    "nn": {"ArithmeticCircuit", "Composition", "Compression", "LinearCircuit", "Separation", "WalkBound"},
    "theory": {"Bounds2x2", "Sandwich", "SolutionDeterminant"},
    "data": {"Pathfinder", "Ratings", "SameClass", "Shapes", "VertexTask", "folder"},
    "measures": {"CPRankEstimate"},
    "problems": {"BatchedProblem", "Problem", "Split", "TensorProblem"},
}


def missing():
    """Return the functions of the front door that have no case."""
    known = {call.partition(",")[0] for call in CALLS | UNREACHABLE}
    found = [name for name in rl.__all__ if callable(getattr(rl, name)) and name not in known]
    for room in ("data", "init", "losses", "measures", "nn", "optim", "problems", "targets", "theory"):
        inside = getattr(rl, room)
        for name in set(dir(inside) if room in ("init", "targets", "losses") else inside.__all__) - MADE_BY_OTHERS.get(
            room, set()
        ):
            own = getattr(getattr(inside, name), "__module__", "").startswith("ranklens")
            if callable(getattr(inside, name)) and own and not {name, f"{room}.{name}"} & known:
                found.append(f"{room}.{name}")
    return sorted(found)


class Late(BaseException):
    """A call has run for LIMIT seconds."""


def late(*_):
    raise Late


def outcome(function, given, name):
    """Return "" if a call works or raises an error of the package that names an argument, or else what went wrong."""
    signal.alarm(LIMIT)
    try:
        function(**given)
    except Late:
        return f"runs for more than {LIMIT} s"
    except BaseException as found:
        frame = traceback.extract_tb(found.__traceback__)[-1]
        ours = "ranklens" in Path(frame.filename).parts and (frame.line or "").startswith("raise")
        named = re.search(rf"\b{name}\b", str(found))
        if isinstance(found, TypeError | ValueError) and ours and named:
            return ""
        return f"{type(found).__name__} at {Path(frame.filename).name}:{frame.lineno}: {str(found)[:160]}"
    finally:
        signal.alarm(0)
    return ""


def trials(wrong):
    """Yield the name of a function, of an argument and of a wrong value, and what went wrong."""
    for call, (function, valid) in (CALLS | UNREACHABLE).items():
        for name in valid:
            for shown, value in wrong.items():
                yield f"{call}: {name} = {shown}", outcome(function, valid | {name: value}, name)
        if call in CALLS and len(wrong) > 1:
            yield f"{call}: valid", outcome(function, valid, "no argument is wrong")


def told(calls):
    """Return the messages of the errors of some calls, in Python, which may use `task`."""
    found = {}
    names = {"rl": rl, "torch": torch, "task": rl.Completion(torch.zeros(1, 2).long(), torch.ones(1), (2, 2))}
    for call in calls:
        try:
            eval(call, names)
            found[call] = "nothing was raised"
        except (TypeError, ValueError) as error:
            found[call] = str(error)
    return found


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, late)
    chosen = WRONG if sys.argv[1] == "full" else dict([next(iter(WRONG.items()))])
    unknown = missing()
    only = sys.argv[2] if len(sys.argv) > 2 else ""
    for kept in (CALLS, UNREACHABLE):
        for other in [call for call in kept if not call.startswith(only)]:
            del kept[other]
    tried = list(trials(chosen))
    wrong = [f"{call}: {why}" for call, why in tried if why]
    print(json.dumps({"tried": len(tried), "wrong": wrong, "missing": unknown, "told": told(json.load(sys.stdin))}))
