"""Compare completion without a given rank with methods that need one, on planted problems and on MovieLens-100k.

    python benchmarks/completion.py planted [--problems matrix20 matrix10 cp hierarchical] [--seeds 0 1 2 3 4]
    python benchmarks/completion.py movielens [--seeds 0 1 2 3 4]
    python benchmarks/completion.py tables            # writes the results into docs/completion.md

All methods are given the same observed entries. A method with settings is tuned by a grid search on a held-out tenth of
them, and then fitted to all observed entries with the best settings. A grid search ends early when its processor time
is spent. Results are appended to a file with one line per method and seed, so that a run can be continued.
"""

import argparse
import itertools
import json
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

import ranklens as rl
from ranklens.completers.biases import fit_biases
from ranklens.completers.observed import Observed

# Standard deviation of the noise of observed entries, which are of order one.
NOISE = 0.01
# Seconds of processor time after which the grid search of a method on a problem ends.
BUDGET = 100.0
# Seeds of the initial values that a grid search tries.
STARTS = (0, 1, 2)
# Nominal shares of the intervals whose coverage is measured.
COVERED = (0.5, 0.8, 0.9, 0.95)
RESULTS = Path(__file__).parent / "completion_results.jsonl"
PAGE = Path(__file__).parents[1] / "docs" / "completion.md"
Array = np.ndarray


@dataclass(frozen=True)
class Problem:
    """A planted tensor.

    Attributes:
        target: returns the tensor for a seed.
        observed: share of the entries that are observed.
        rank: the true rank.
    """

    target: Callable[[int], torch.Tensor]
    observed: float
    rank: int


PROBLEMS = {
    "matrix20": Problem(lambda seed: rl.targets.low_rank_matrix((200, 200), 5, seed=seed), 0.2, 5),
    "matrix10": Problem(lambda seed: rl.targets.low_rank_matrix((200, 200), 5, seed=seed), 0.1, 5),
    "cp": Problem(lambda seed: rl.targets.cp((30, 30, 30), 5, seed=seed), 0.1, 5),
    "hierarchical": Problem(lambda seed: rl.targets.hierarchical((12,) * 4, 3, seed=seed), 0.1, 3),
}
TITLES = {
    "matrix20": "200 x 200, rank 5, 20% observed",
    "matrix10": "200 x 200, rank 5, 10% observed",
    "cp": "30 x 30 x 30, CP rank 5, 10% observed",
    "hierarchical": "12 x 12 x 12 x 12, hierarchical rank 3, 10% observed",
}


# ---------------------------------------------------------------------------------------------------------------------
# Baselines: methods that a user would install or write. Each maps observed entries and settings to all entries.


def soft_impute(observed: Observed, share: float, sweeps: int = 500, change: float = 1e-5) -> Array:
    """Return the result of soft-impute: repeatedly restore observed entries and shrink singular values."""
    X, where = np.zeros(observed.shape), tuple(observed.indices.numpy().T)
    values, filled = observed.values.numpy(), np.zeros(observed.shape)
    X[where] = values
    threshold = share * np.linalg.norm(X, 2)
    for _ in range(sweeps):
        before = filled
        X = filled.copy()
        X[where] = values
        filled = _shrunk(X, threshold)
        if np.linalg.norm(filled - before) <= change * max(np.linalg.norm(before), 1e-12):
            break
    return filled


def _shrunk(X: Array, threshold: float) -> Array:
    """Return a matrix with all singular values reduced by a threshold, and at least 0."""
    # Eigenvectors of X X^T suffice: singular values that are so small that squaring loses them are cut off anyway.
    squared, U = np.linalg.eigh(X @ X.T)
    s = np.sqrt(np.maximum(squared, 0))
    kept = s > threshold
    return (U[:, kept] * (1 - threshold / s[kept])) @ (U[:, kept].T @ X)


def truncated_svd(observed: Observed, rank: int) -> Array:
    """Return `rank` singular values of the matrix with zeros for unobserved entries, divided by the observed share."""
    X = np.zeros(observed.shape)
    X[tuple(observed.indices.numpy().T)] = observed.values.numpy()
    U, s, V = np.linalg.svd(X, full_matrices=False)
    return (U[:, :rank] * s[:rank]) @ V[:rank] * (X.size / len(observed))


def matrix_als(observed: Observed, rank: int, ridge: float, start: int) -> Array:
    """Return a matrix of a given rank by alternating least squares with a ridge penalty."""
    return _als(observed, rank, ridge, start, sweeps=200)


def cp_als(observed: Observed, rank: int, ridge: float, start: int) -> Array:
    """Return a CP factorization of a given rank by alternating least squares with a ridge penalty."""
    return _als(observed, rank, ridge, start, sweeps=300)


def _als(observed: Observed, rank: int, ridge: float, start: int, sweeps: int) -> Array:
    made = np.random.default_rng(start)
    index, y = observed.indices.numpy(), observed.values.numpy()
    factors = [made.standard_normal((d, rank)) for d in observed.shape]
    ones, entries = np.ones(len(y)), np.arange(len(y))
    of_row = [sp.csr_matrix((ones, (index[:, n], entries)), shape=(d, len(y))) for n, d in enumerate(observed.shape)]
    penalty, before = (ridge + 1e-9) * np.eye(rank), math.inf
    for _ in range(sweeps):
        for n in range(len(factors)):
            E = np.prod([factors[m][index[:, m]] for m in range(len(factors)) if m != n], axis=0)
            grams = (of_row[n] @ (E[:, :, None] * E[:, None]).reshape(len(y), -1)).reshape(-1, rank, rank)
            factors[n] = np.linalg.solve(grams + penalty, (of_row[n] @ (E * y[:, None]))[:, :, None])[:, :, 0]
        fit = np.sum(np.prod([factor[index[:, n]] for n, factor in enumerate(factors)], axis=0), axis=1)
        after = float(np.mean((fit - y) ** 2))
        if after > before * (1 - 1e-4):
            break
        before = after
    letters = "abcd"[: len(factors)]
    return np.einsum(",".join(f"{x}r" for x in letters) + "->" + letters, *factors, optimize=True)


def masked_parafac(observed: Observed, rank: int, steps: int, start: int) -> Array:
    """Return the masked CP factorization of tensorly."""
    from tensorly import cp_to_tensor
    from tensorly.decomposition import parafac

    X, mask = _masked(observed)
    return np.asarray(
        cp_to_tensor(parafac(X, rank, n_iter_max=steps, init="random", random_state=start, mask=mask, tol=1e-9))
    )


def masked_tucker(observed: Observed, rank: int, steps: int) -> Array:
    """Return the masked Tucker factorization of tensorly, with equal ranks of all modes."""
    from tensorly import tucker_to_tensor
    from tensorly.decomposition import tucker

    X, mask = _masked(observed)
    return np.asarray(tucker_to_tensor(tucker(X, [rank] * X.ndim, n_iter_max=steps, mask=mask, tol=1e-9)))


def gcp(observed: Observed, rank: int, steps: int, start: int) -> Array:
    """Return the masked generalized CP factorization of pyttb, by L-BFGS-B."""
    import pyttb
    from pyttb.gcp.handles import Objectives
    from pyttb.gcp.optimizers import LBFGSB

    X, mask = _masked(observed)
    made = np.random.default_rng(start)
    factors = [made.standard_normal((d, rank)) for d in X.shape]
    found, _, _ = pyttb.gcp_opt(
        pyttb.tensor(X),
        rank,
        Objectives.GAUSSIAN,
        LBFGSB(maxiter=steps, iprint=-1),
        init=pyttb.ktensor(factors),
        mask=pyttb.tensor(mask.astype(float)),
        printitn=0,
    )
    return np.asarray(found.full().data)


def tree_lbfgs(observed: Observed, rank: int, start: int) -> Array:
    """Return a hierarchical factorization of a given width, fitted by L-BFGS from an initial tensor of order one."""
    net = rl.init.scaled_(rl.hierarchical(observed.shape, rank), 1.0, seed=start)
    optimizer = torch.optim.LBFGS(
        net.parameters(), max_iter=2000, history_size=20, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (net.entries(observed.indices) - observed.values).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return net.tensor().detach().numpy()


def least_nuclear_norm(observed: Observed) -> Array:
    """Return the matrix of least nuclear norm with the observed entries, by `rl.nuclear_norm_completion`."""
    task = rl.Completion(observed.indices, observed.values, observed.shape)
    return rl.nuclear_norm_completion(task, tolerance=1e-4, steps=3000).matrix.numpy()


def conic_nuclear_norm(observed: Observed) -> Array:
    """Return the matrix of least nuclear norm with the observed entries, by cvxpy and SCS."""
    import cvxpy

    X = cvxpy.Variable(observed.shape)
    i, j = observed.indices.numpy().T
    cvxpy.Problem(cvxpy.Minimize(cvxpy.normNuc(X)), [X[i, j] == observed.values.numpy()]).solve(
        solver="SCS", max_iters=500, eps=1e-4
    )
    return X.value


def _masked(observed: Observed) -> tuple[Array, Array]:
    X, mask = np.zeros(observed.shape), np.zeros(observed.shape, dtype=bool)
    X[tuple(observed.indices.numpy().T)] = observed.values.numpy()
    mask[tuple(observed.indices.numpy().T)] = True
    return X, mask


def unfolded(method: Callable[..., Array], modes: int) -> Callable[..., Array]:
    """Return a method for tensors that applies one for matrices to the matricization of the first `modes` modes."""

    def run(observed: Observed, *settings: Any) -> Array:
        shape = (math.prod(observed.shape[:modes]), math.prod(observed.shape[modes:]))
        flat = np.ravel_multi_index(tuple(observed.indices.numpy().T), observed.shape)
        pairs = np.stack(np.unravel_index(flat, shape), axis=1)
        return method(Observed(torch.from_numpy(pairs), observed.values, shape), *settings).reshape(observed.shape)

    return run


@dataclass(frozen=True)
class Method:
    """A baseline with its settings.

    Attributes:
        name: name in the tables.
        told: which rank it is given: "true", "twice" the true one, or "" for none.
        run: the method.
        grid: settings that are tried.
        note: what varies in the grid.
    """

    name: str
    told: str
    run: Callable[..., Array]
    grid: tuple[tuple[Any, ...], ...]
    note: str


# Thresholds of singular values over the largest.
SHARES = tuple((s,) for s in (0.3, 0.1, 0.03, 0.01, 0.003, 0.001))
# For ratings, which are mostly noise.
SHRINKAGES = (0.9, 0.7, 0.5, 0.4, 0.3, 0.2)
# Weights of the ridge penalty.
ALS_RIDGES = (1e-3, 1e-2, 0.1, 1.0)


def methods(problem: str) -> Iterator[Method]:
    """Yield the baselines of a planted problem."""
    rank = PROBLEMS[problem].rank
    for told, r in (("true", rank), ("twice", 2 * rank)):
        if problem.startswith("matrix"):
            yield Method("ALS", told, matrix_als, tuple(itertools.product((r,), ALS_RIDGES, STARTS)), "ridge x start")
            yield Method("truncated SVD", told, truncated_svd, ((r,),), "")
        elif problem == "cp":
            yield Method("CP by ALS", told, cp_als, tuple(itertools.product((r,), ALS_RIDGES, STARTS)), "ridge x start")
        if problem in ("cp", "hierarchical"):
            components = r if problem == "cp" else {3: 9, 6: 18}[r]  # a hierarchical rank of 3 allows CP rank 9
            grid = tuple(itertools.product((components,), (200, 1000), STARTS))
            yield Method("tensorly parafac, mask", told, masked_parafac, grid, "steps x start")
            yield Method("pyttb gcp_opt, mask", told, gcp, grid, "steps x start")
        if problem == "hierarchical":
            yield Method("hierarchical by L-BFGS", told, tree_lbfgs, tuple((r, s) for s in range(6)), "start")
            yield Method("tensorly tucker, mask", told, masked_tucker, ((r, 200), (r, 1000)), "steps")
            grid = tuple(itertools.product((r,), ALS_RIDGES, STARTS))
            yield Method("ALS of the matricization", told, unfolded(matrix_als, 2), grid, "ridge x start")
    split = {"cp": 1, "hierarchical": 2}.get(problem)
    yield Method("soft-impute", "", soft_impute if split is None else unfolded(soft_impute, split), SHARES, "threshold")
    if split is None:
        yield Method("nuclear norm, rl", "", least_nuclear_norm, ((),), "")
        yield Method("nuclear norm, cvxpy", "", conic_nuclear_norm, ((),), "")


# ---------------------------------------------------------------------------------------------------------------------
# Runs


def planted(name: str, seed: int) -> Iterator[dict[str, Any]]:
    """Yield a row of results for every method on one planted problem."""
    problem = PROBLEMS[name]
    target = problem.target(seed)
    task = rl.Completion.sample(target, observed=round(problem.observed * target.numel()), noise=NOISE, seed=seed)
    observed = Observed(task.indices, task.values, task.shape)
    train, held_out = observed.split(0.1, seed)
    truth = target.numpy()

    def off(found: Array) -> float:
        return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))

    begun = time.process_time()
    found, rank = _ours(name, observed, seed)
    yield _row(name, seed, "ranklens", "", off(found), time.process_time() - begun, "none", rank)
    for method in methods(name):
        begun, errors = time.process_time(), {}
        for settings in method.grid:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    trial = method.run(train, *settings)
                except (np.linalg.LinAlgError, ValueError, FloatingPointError) as error:
                    print(f"  {method.name} {settings}: {error}")
                    continue
            errors[settings] = float(np.mean((trial[tuple(held_out.indices.numpy().T)] - held_out.values.numpy()) ** 2))
            if time.process_time() - begun > BUDGET:
                break
        best = min(errors, key=lambda key: errors[key] if math.isfinite(errors[key]) else math.inf)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            error = off(method.run(observed, *best))
        tried = f"{len(errors)} of {len(method.grid)} tried; {best}"
        yield _row(name, seed, method.name, method.told, error, time.process_time() - begun, method.note, tried)


def _ours(name: str, observed: Observed, seed: int) -> tuple[Array, str]:
    if name.startswith("matrix"):
        X = np.full(observed.shape, np.nan)
        X[tuple(observed.indices.numpy().T)] = observed.values.numpy()
        completer = rl.MatrixCompleter(random_state=seed).fit(X)
        return completer.predict(X), f"rank {completer.rank_}"
    tensor = rl.TensorCompleter(observed.shape, name, random_state=seed).fit(observed.indices, observed.values)
    whole = tensor.predict(np.argwhere(np.ones(observed.shape))).reshape(observed.shape)
    return whole, str(list(tensor.widths_.values()))


def _row(problem: str, seed: int, method: str, told: str, error: float, seconds: float, note: str, what: str) -> dict:
    return {
        "problem": problem,
        "seed": seed,
        "method": method,
        "told": told,
        "error": error,
        "seconds": seconds,
        "grid": note,
        "what": what,
    }


def ratings(seed: int) -> tuple[Observed, Observed]:
    """Return training and test entries of MovieLens-100k, split 80 to 20 by the seed."""
    found = rl.data.ratings()
    return Observed(found.indices, found.values, found.shape).split(0.2, seed)


def movielens_features() -> tuple[Any, Any]:
    """Return features of the users and the films, as frames by position; None for both if their files are missing."""
    import pandas as pd

    folder = rl.data.folder() / "ml-100k"
    if not (folder / "ml-100k.user").exists():
        print(f"  features are left out: there is no ml-100k.user in {folder}")
        return None, None
    users, items = (
        pd.read_csv(folder / f"ml-100k.{kind}", sep="\t").set_index(f"{kind}_id:token") for kind in ("user", "item")
    )
    users, items = (frame.set_axis(frame.index - 1).sort_index() for frame in (users, items))
    ages = pd.cut(users["age:token"], [0, 18, 24, 30, 36, 42, 50, 120]).astype(str)
    towns = users["zip_code:token"].astype(str).str[0]
    users = pd.DataFrame(
        {"age": ages, "gender": users["gender:token"], "job": users["occupation:token"], "town": towns}
    )
    years = pd.to_numeric(items["release_year:token"], errors="coerce")
    years = pd.cut(years, [0, 1940, 1950, 1960, 1970, 1980, 1985, 1990, 1992, 1993, 1994, 1995, 1996, 2000]).astype(str)
    kinds = items["class:token_seq"].fillna("").str.get_dummies(sep=" ").astype(float)
    return users, kinds.assign(year=years)


def my_fm(train: Observed, test: Observed, fitted: Observed, held_out: Observed, seed: int) -> Array:
    """Return the predictions of Bayesian matrix factorization by myFM, of rank 10 with 200 iterations."""
    import myfm

    offset = np.array([0, train.shape[0]])

    def design(observed: Observed) -> sp.csr_matrix:
        columns = observed.indices.numpy() + offset
        rows = np.repeat(np.arange(len(columns)), 2)
        return sp.csr_matrix((np.ones(columns.size), (rows, columns.ravel())), (len(columns), sum(train.shape)))

    made = myfm.MyFMRegressor(rank=10, random_seed=seed)
    groups = [0] * train.shape[0] + [1] * train.shape[1]
    made.fit(design(train), train.values.numpy(), n_iter=200, grouping=groups)
    return made.predict(design(test))


def surprise_svd(train: Observed, test: Observed, fitted: Observed, held_out: Observed, seed: int) -> Array:
    """Return the predictions of Surprise's SVD, with the settings that were best on a held-out tenth."""
    import pandas as pd
    from surprise import SVD, Dataset, Reader

    def run(known: Observed, asked: Observed, settings: dict[str, Any]) -> Array:
        frame = pd.DataFrame(known.indices.numpy()).assign(value=known.values.numpy())
        made = SVD(random_state=seed, **settings)
        made.fit(Dataset.load_from_df(frame, Reader(rating_scale=(1, 5))).build_full_trainset())
        return np.array([made.predict(u, v).est for u, v in asked.indices.tolist()])

    grid = [
        {"n_factors": k, "n_epochs": n, "reg_all": r} for k, n, r in ((50, 60, 0.1), (100, 40, 0.08), (20, 20, 0.02))
    ]
    best = min(grid, key=lambda g: float(np.mean((run(fitted, held_out, g) - held_out.values.numpy()) ** 2)))
    return run(train, test, best)


PEERS: dict[str, Callable[[Observed, Observed, Observed, Observed, int], Array]] = {
    "myFM, rank 10, 200 iterations": my_fm,
    "Surprise SVD, tuned": surprise_svd,
}


def movielens(seed: int) -> Iterator[dict[str, Any]]:
    """Yield a row of results for every method on MovieLens-100k.

    The error is the root mean squared error over test ratings, with predictions clipped to 1 to 5. The baselines are
    damped biases alone, and soft-impute and alternating least squares of the residuals of the biases.
    """
    train, test = ratings(seed)
    fitted, held_out = train.split(0.1, seed)

    def off(prediction: Array, on: Observed) -> float:
        return float(np.sqrt(np.mean((np.clip(prediction, 1, 5) - on.values.numpy()) ** 2)))

    i, j = train.indices.numpy().T
    X = sp.csr_matrix((train.values.numpy(), (i, j)), shape=train.shape)
    users, items = movielens_features()
    variants: dict[str, dict[str, Any]] = {
        "ranklens": {},
        "ranklens, without implicit feedback": {"implicit": False},
        "ranklens, least squares only": {"posterior": 0},
    }
    if users is not None:
        variants["ranklens, with features of users and films"] = {"row_features": users, "column_features": items}
    for name, settings in variants.items():
        begun, wall = time.process_time(), time.perf_counter()
        completer = rl.MatrixCompleter(biases=True, random_state=seed, **settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some films have no rating in the training set
            completer.fit(X)
        means, deviations = completer.predict(test.indices.numpy(), return_std=True)
        seconds, wall = time.process_time() - begun, time.perf_counter() - wall
        sizes = np.abs(test.values.numpy() - means) / deviations
        shares = [float(np.mean(sizes < NormalDist().inv_cdf((1 + share) / 2))) for share in COVERED]
        what = f"rank {completer.rank_}, {wall:.0f} s by the clock"
        if completer.posterior_:
            what += ", intervals cover " + " ".join(f"{share:.1%}" for share in shares)
        yield _row("movielens", seed, name, "", off(means, test), seconds, "none", what)
    for name, peer in PEERS.items():
        begun = time.process_time()
        try:
            found = peer(train, test, fitted, held_out, seed)
        except ImportError as error:
            print(f"  {name} is left out: {error}; install it by pip install -e .[bench]")
            continue
        yield _row("movielens", seed, name, "yes", off(found, test), time.process_time() - begun, "", "")
    begun = time.process_time()
    dampings = (1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0)
    best = min(dampings, key=lambda d: off(fit_biases(fitted, d).at(held_out.indices).numpy(), held_out))
    biases = fit_biases(train, best)
    base = biases.at(test.indices).numpy()
    yield _row(
        "movielens", seed, "biases alone", "", off(base, test), time.process_time() - begun, "damping", str(best)
    )
    part = fit_biases(fitted, best)
    left, left_out = fitted.minus(part.at(fitted.indices)), part.at(held_out.indices).numpy()
    rest = train.minus(biases.at(train.indices))
    grids: dict[str, tuple[Callable[..., Array], tuple[tuple[Any, ...], ...]]] = {
        "biases + soft-impute (nuclear norm)": (soft_impute, tuple((share, 100, 1e-3) for share in SHRINKAGES)),
        "biases + ALS, rank 5": (matrix_als, tuple((5, ridge, 0) for ridge in (3.0, 10.0, 20.0, 40.0))),
        "biases + ALS, rank 20": (matrix_als, tuple((20, ridge, 0) for ridge in (3.0, 10.0, 20.0, 40.0))),
    }
    for name, (method, grid) in grids.items():
        begun = time.process_time()

        def tried(settings: tuple[Any, ...], method: Callable[..., Array] = method) -> float:
            return off(left_out + method(left, *settings)[tuple(held_out.indices.numpy().T)], held_out)

        settings = min(grid, key=tried)
        error = off(base + method(rest, *settings)[tuple(test.indices.numpy().T)], test)
        yield _row("movielens", seed, name, "", error, time.process_time() - begun, "ridge or threshold", str(settings))


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def kept() -> list[dict[str, Any]]:
    """Return the rows of all runs so far; of several with equal problem, method and seed, the last one."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    rows = {(r["problem"], r["method"], r["told"], r["seed"]): r for r in map(json.loads, lines)}
    return list(rows.values())


def table(problem: str) -> str:
    """Return the table of a problem, with the median and all seeds of every method, the best first."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in kept():
        if row["problem"] == problem:
            groups.setdefault((row["method"], row["told"]), []).append(row)
    lines = [
        "| method | given the rank | median | seeds | processor seconds, median | grid |",
        "|---|---|---:|---|---:|---|",
    ]
    for (method, told), rows in sorted(groups.items(), key=lambda item: statistics.median(r["error"] for r in item[1])):
        each = ", ".join(f"{r['error']:.4f}" for r in sorted(rows, key=lambda r: r["seed"]))
        said = {"": "no", "yes": "yes", "true": "yes", "twice": "twice the true one"}[told]
        what = "; ".join(dict.fromkeys(r["what"] for r in rows)) if method.startswith("ranklens") else rows[0]["grid"]
        middle = statistics.median(r["error"] for r in rows)
        seconds = statistics.median(r["seconds"] for r in rows)
        lines.append(f"| {method} | {said} | **{middle:.4f}** | {each} | {seconds:.0f} | {what} |")
    return "\n".join(lines)


def verdict(problem: str) -> str:
    """Return the median error of ranklens, over the best baselines that are given the rank or twice the rank."""
    found: dict[str, dict[str, list[float]]] = {"": {}, "true": {}, "twice": {}}
    for row in kept():
        if row["problem"] == problem:
            found[row["told"]].setdefault(row["method"], []).append(row["error"])
    ours = statistics.median(found[""]["ranklens"])
    ratios = [
        f"{ours / min(statistics.median(errors) for errors in found[told].values()):.2f} x the best given {said}"
        for told, said in (("true", "the rank"), ("twice", "twice the rank"))
        if found[told]
    ]
    return f"Median error {ours:.4f}: " + ", ".join(ratios) + "."


def write_tables() -> None:
    """Write the tables between their marks on the page."""
    page = PAGE.read_text(encoding="utf-8")
    problems = {row["problem"] for row in kept()}
    text = {}
    text["planted"] = "\n\n".join(
        f"**{TITLES[name]}.** {verdict(name)}\n\n{table(name)}" for name in TITLES if name in problems
    )
    text["movielens"] = table("movielens") if "movielens" in problems else ""
    for mark, content in text.items():
        before, rest = page.split(f"<!-- {mark} -->")
        _, after = rest.split(f"<!-- end of {mark} -->")
        page = f"{before}<!-- {mark} -->\n{content}\n<!-- end of {mark} -->{after}"
    PAGE.write_text(page, encoding="utf-8")
    print(page)


def main() -> None:
    """Run the chosen part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("planted", "movielens", "tables"))
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    chosen = parser.parse_args()
    if chosen.what == "tables":
        return write_tables()
    for seed in chosen.seeds:
        runs = [planted(name, seed) for name in chosen.problems] if chosen.what == "planted" else [movielens(seed)]
        for row in itertools.chain.from_iterable(runs):
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(
                f"{row['problem']} seed {seed}: {row['method']} {row['told']} {row['error']:.5f} "
                f"({row['seconds']:.1f} s) {row['what']}",
                flush=True,
            )
    return None


if __name__ == "__main__":
    main()
