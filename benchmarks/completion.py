"""Completion without a rank beside what asks for one: planted problems and MovieLens-100k.

    python benchmarks/completion.py planted [--problems matrix20 matrix10 cp hierarchical] [--seeds 0 1 2 3 4]
    python benchmarks/completion.py movielens [--seeds 0 1 2 3 4]
    python benchmarks/completion.py tables            # writes what was found into docs/completion.md

Every method sees the same entries, is tuned on the same held-out tenth of them with its whole grid below, is then
fitted to all entries with what was best, and gets the same processor time at most (a grid is left where it is when
that is spent). Results are kept in a file of lines, one per method and seed, so a run can be continued.
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
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

import ranklens as rl
from ranklens.completers.biases import fit_biases
from ranklens.completers.observed import Observed

NOISE = 0.01  # standard deviation; entries are of order one
BUDGET = 100.0  # seconds of processor time for a method on a problem
STARTS = (0, 1, 2)
RESULTS = Path(__file__).parent / "completion_results.jsonl"
PAGE = Path(__file__).parents[1] / "docs" / "completion.md"
Array = np.ndarray


@dataclass(frozen=True)
class Problem:
    """A planted tensor, how much of it is seen, and the true rank."""

    target: Callable[[int], torch.Tensor]
    seen: float
    rank: int


PROBLEMS = {
    "matrix20": Problem(lambda seed: rl.targets.low_rank_matrix((200, 200), 5, seed=seed), 0.2, 5),
    "matrix10": Problem(lambda seed: rl.targets.low_rank_matrix((200, 200), 5, seed=seed), 0.1, 5),
    "cp": Problem(lambda seed: rl.targets.cp((30, 30, 30), 5, seed=seed), 0.1, 5),
    "hierarchical": Problem(lambda seed: rl.targets.hierarchical((12,) * 4, 3, seed=seed), 0.1, 3),
}
TITLES = {
    "matrix20": "200 x 200, rank 5, 20% seen",
    "matrix10": "200 x 200, rank 5, 10% seen",
    "cp": "30 x 30 x 30, CP rank 5, 10% seen",
    "hierarchical": "12 x 12 x 12 x 12, hierarchical rank 3, 10% seen",
}


# ---------------------------------------------------------------------------------------------------------------------
# what a user would install or write; each is (seen, settings) -> the whole tensor


def soft_impute(seen: Observed, share: float, sweeps: int = 500, change: float = 1e-5) -> Array:
    """Shrink singular values by a share of the largest, put the seen entries back, repeat."""
    X, where = np.zeros(seen.shape), tuple(seen.indices.numpy().T)
    values, filled = seen.values.numpy(), np.zeros(seen.shape)
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
    # by eigenvectors of X X^T: a singular value above the threshold is far from where squaring would lose it
    squared, U = np.linalg.eigh(X @ X.T)
    s = np.sqrt(np.maximum(squared, 0))
    kept = s > threshold
    return (U[:, kept] * (1 - threshold / s[kept])) @ (U[:, kept].T @ X)


def truncated_svd(seen: Observed, rank: int) -> Array:
    """Put zeros into the holes, keep `rank` singular values, divide by the share that is seen."""
    X = np.zeros(seen.shape)
    X[tuple(seen.indices.numpy().T)] = seen.values.numpy()
    U, s, V = np.linalg.svd(X, full_matrices=False)
    return (U[:, :rank] * s[:rank]) @ V[:rank] * (X.size / len(seen))


def matrix_als(seen: Observed, rank: int, ridge: float, start: int) -> Array:
    """Ridge regressions, all rows of one factor at a time."""
    return _als(seen, rank, ridge, start, sweeps=200)


def cp_als(seen: Observed, rank: int, ridge: float, start: int) -> Array:
    """The same for a CP factorization."""
    return _als(seen, rank, ridge, start, sweeps=300)


def _als(seen: Observed, rank: int, ridge: float, start: int, sweeps: int) -> Array:
    made = np.random.default_rng(start)
    index, y = seen.indices.numpy(), seen.values.numpy()
    factors = [made.standard_normal((d, rank)) for d in seen.shape]
    ones, entries = np.ones(len(y)), np.arange(len(y))
    of_row = [sp.csr_matrix((ones, (index[:, n], entries)), shape=(d, len(y))) for n, d in enumerate(seen.shape)]
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


def masked_parafac(seen: Observed, rank: int, steps: int, start: int) -> Array:
    """Masked parafac of tensorly."""
    from tensorly import cp_to_tensor
    from tensorly.decomposition import parafac

    X, mask = _masked(seen)
    return np.asarray(
        cp_to_tensor(parafac(X, rank, n_iter_max=steps, init="random", random_state=start, mask=mask, tol=1e-9))
    )


def masked_tucker(seen: Observed, rank: int, steps: int) -> Array:
    """Masked Tucker of tensorly, all ranks alike."""
    from tensorly import tucker_to_tensor
    from tensorly.decomposition import tucker

    X, mask = _masked(seen)
    return np.asarray(tucker_to_tensor(tucker(X, [rank] * X.ndim, n_iter_max=steps, mask=mask, tol=1e-9)))


def gcp(seen: Observed, rank: int, steps: int, start: int) -> Array:
    """Generalized CP of pyttb with a mask, L-BFGS-B."""
    import pyttb
    from pyttb.gcp.handles import Objectives
    from pyttb.gcp.optimizers import LBFGSB

    X, mask = _masked(seen)
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


def tree_lbfgs(seen: Observed, rank: int, start: int) -> Array:
    """A hierarchical factorization of the given widths, fitted by L-BFGS from a start of order one."""
    net = rl.init.scaled_(rl.hierarchical(seen.shape, rank), 1.0, seed=start)
    optimizer = torch.optim.LBFGS(
        net.parameters(), max_iter=2000, history_size=20, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (net.entries(seen.indices) - seen.values).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return net.tensor().detach().numpy()


def least_nuclear_norm(seen: Observed) -> Array:
    """The exact convex solution, rl.nuclear_norm_completion."""
    task = rl.Completion(seen.indices, seen.values, seen.shape)
    return rl.nuclear_norm_completion(task, tolerance=1e-4, steps=3000).matrix.numpy()


def conic_nuclear_norm(seen: Observed) -> Array:
    """The same by cvxpy and SCS."""
    import cvxpy

    X = cvxpy.Variable(seen.shape)
    i, j = seen.indices.numpy().T
    cvxpy.Problem(cvxpy.Minimize(cvxpy.normNuc(X)), [X[i, j] == seen.values.numpy()]).solve(
        solver="SCS", max_iters=500, eps=1e-4
    )
    return X.value


def _masked(seen: Observed) -> tuple[Array, Array]:
    X, mask = np.zeros(seen.shape), np.zeros(seen.shape, dtype=bool)
    X[tuple(seen.indices.numpy().T)] = seen.values.numpy()
    mask[tuple(seen.indices.numpy().T)] = True
    return X, mask


def unfolded(method: Callable[..., Array], modes: int) -> Callable[..., Array]:
    """A method for matrices on the matricization of the first `modes` modes against the others."""

    def run(seen: Observed, *settings: Any) -> Array:
        shape = (math.prod(seen.shape[:modes]), math.prod(seen.shape[modes:]))
        flat = np.ravel_multi_index(tuple(seen.indices.numpy().T), seen.shape)
        pairs = np.stack(np.unravel_index(flat, shape), axis=1)
        return method(Observed(torch.from_numpy(pairs), seen.values, shape), *settings).reshape(seen.shape)

    return run


@dataclass(frozen=True)
class Method:
    """A name, what it is told ("true", "twice", or nothing), and a grid of settings."""

    name: str
    told: str
    run: Callable[..., Array]
    grid: tuple[tuple[Any, ...], ...]
    note: str


SHARES = tuple((s,) for s in (0.3, 0.1, 0.03, 0.01, 0.003, 0.001))
SHRINKAGES = (0.9, 0.7, 0.5, 0.4, 0.3, 0.2)  # of ratings, which are mostly noise
ALS_RIDGES = (1e-3, 1e-2, 0.1, 1.0)


def methods(problem: str) -> Iterator[Method]:
    """All baselines of a problem with their grids."""
    rank = PROBLEMS[problem].rank
    for told, r in (("true", rank), ("twice", 2 * rank)):
        if problem.startswith("matrix"):
            yield Method("ALS", told, matrix_als, tuple(itertools.product((r,), ALS_RIDGES, STARTS)), "ridge x start")
            yield Method("truncated SVD", told, truncated_svd, ((r,),), "")
        elif problem == "cp":
            yield Method("CP by ALS", told, cp_als, tuple(itertools.product((r,), ALS_RIDGES, STARTS)), "ridge x start")
        if problem in ("cp", "hierarchical"):
            components = r if problem == "cp" else {3: 9, 6: 18}[r]  # two bonds of 3 below a bond of 3 make 9
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
# runs


def planted(name: str, seed: int) -> Iterator[dict[str, Any]]:
    """All methods on one planted problem."""
    problem = PROBLEMS[name]
    target = problem.target(seed)
    task = rl.Completion.sample(target, observed=round(problem.seen * target.numel()), noise=NOISE, seed=seed)
    seen = Observed(task.indices, task.values, task.shape)
    train, held_out = seen.split(0.1, seed)
    truth = target.numpy()

    def off(found: Array) -> float:
        return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))

    begun = time.process_time()
    found, rank = _ours(name, seen, seed)
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
            error = off(method.run(seen, *best))
        tried = f"{len(errors)} of {len(method.grid)} tried; {best}"
        yield _row(name, seed, method.name, method.told, error, time.process_time() - begun, method.note, tried)


def _ours(name: str, seen: Observed, seed: int) -> tuple[Array, str]:
    if name.startswith("matrix"):
        X = np.full(seen.shape, np.nan)
        X[tuple(seen.indices.numpy().T)] = seen.values.numpy()
        completer = rl.MatrixCompleter(random_state=seed).fit(X)
        return completer.left_ @ completer.right_.T, f"rank {completer.rank_}"
    tensor = rl.TensorCompleter(seen.shape, name, random_state=seed).fit(seen.indices, seen.values)
    net = tensor.network_
    return np.zeros(seen.shape) if net is None else net.tensor().detach().numpy(), str(list(tensor.widths_.values()))


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
    """MovieLens-100k, 80/20 by seed."""
    found = rl.data.ratings()
    return Observed(found.indices, found.values, found.shape).split(0.2, seed)


def movielens(seed: int) -> Iterator[dict[str, Any]]:
    """RMSE, clipped to 1..5, of ours, the damped biases alone, soft-impute and ALS of what the biases leave."""
    train, test = ratings(seed)
    fitted, held_out = train.split(0.1, seed)

    def off(prediction: Array, on: Observed) -> float:
        return float(np.sqrt(np.mean((np.clip(prediction, 1, 5) - on.values.numpy()) ** 2)))

    for depth in (3, 2):
        begun, wall = time.process_time(), time.perf_counter()
        X = sp.csr_matrix((train.values.numpy(), tuple(train.indices.numpy().T)), shape=train.shape)
        completer = rl.MatrixCompleter(depth=depth, biases=True, random_state=seed).fit(X)
        what = f"rank {completer.rank_}, {time.perf_counter() - wall:.0f} s by the clock"
        error = off(completer.predict(test.indices.numpy()), test)
        yield _row("movielens", seed, f"ranklens, depth {depth}", "", error, time.process_time() - begun, "none", what)
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
# the page


def kept() -> list[dict[str, Any]]:
    """What was found so far; a later line replaces an earlier one of the same method and seed."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    rows = {(r["problem"], r["method"], r["told"], r["seed"]): r for r in map(json.loads, lines)}
    return list(rows.values())


def table(problem: str) -> str:
    """Median and every seed, the best first."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in kept():
        if row["problem"] == problem:
            groups.setdefault((row["method"], row["told"]), []).append(row)
    lines = [
        "| method | told the rank | median | seeds | processor seconds, median | grid |",
        "|---|---|---:|---|---:|---|",
    ]
    for (method, told), rows in sorted(groups.items(), key=lambda item: statistics.median(r["error"] for r in item[1])):
        each = ", ".join(f"{r['error']:.4f}" for r in sorted(rows, key=lambda r: r["seed"]))
        said = {"": "no", "true": "yes", "twice": "twice the true one"}[told]
        what = "; ".join(dict.fromkeys(r["what"] for r in rows)) if method.startswith("ranklens") else rows[0]["grid"]
        middle = statistics.median(r["error"] for r in rows)
        seconds = statistics.median(r["seconds"] for r in rows)
        lines.append(f"| {method} | {said} | **{middle:.4f}** | {each} | {seconds:.0f} | {what} |")
    return "\n".join(lines)


def verdict(problem: str) -> str:
    """Ours over the best baseline that is told the rank, and over the best that is told twice the rank."""
    found: dict[str, dict[str, list[float]]] = {"": {}, "true": {}, "twice": {}}
    for row in kept():
        if row["problem"] == problem:
            found[row["told"]].setdefault(row["method"], []).append(row["error"])
    ours = statistics.median(found[""]["ranklens"])
    ratios = [
        f"{ours / min(statistics.median(errors) for errors in found[told].values()):.2f} x the best that is told {said}"
        for told, said in (("true", "the rank"), ("twice", "twice the rank"))
        if found[told]
    ]
    return f"Median error {ours:.4f}: " + ", ".join(ratios) + "."


def write_tables() -> None:
    """Put the tables between their marks on the page."""
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
