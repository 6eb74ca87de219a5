"""Measure how many unobserved entries of planted problems lie in the intervals that completers predict.

    python benchmarks/calibration.py [--seeds 0 1 2 3 4 5 6 7 8 9]

Factors, biases and noise are Gaussian, and a random share of the entries is observed. The central 50, 80, 90 and 95%
intervals of `predict(..., return_std=True)` are compared with the noisy entries that were not observed.
"""

import argparse
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

import ranklens as rl

Array = np.ndarray
COVERED = (0.5, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Problem:
    """A planted problem.

    Attributes:
        shape: sizes of the modes; two for a matrix.
        rank: number of components.
        share: share of the entries that is observed.
        noise: standard deviation of the noise.
        biases: whether rows and columns have biases.
    """

    shape: tuple[int, ...]
    rank: int
    share: float
    noise: float
    biases: bool = False

    def make(self, seed: int) -> tuple[Array, Array]:
        """Return the noisy entries, and which of them are observed."""
        made = np.random.default_rng(seed)
        if len(self.shape) == 2:
            rows, columns = self.shape
            whole = made.normal(size=(rows, self.rank)) @ made.normal(size=(self.rank, columns)) / self.rank**0.5
            whole += self.biases * (3 + made.normal(size=(rows, 1)) + made.normal(size=columns))
        else:
            whole = np.einsum("ir,jr,kr->ijk", *(made.normal(size=(d, self.rank)) for d in self.shape))
        noisy = whole + self.noise * made.normal(size=whole.shape)
        return noisy, made.random(whole.shape) < self.share


PROBLEMS = {
    "matrix 200 x 150, rank 3, 30% observed, noise 0.3": Problem((200, 150), 3, 0.3, 0.3),
    "matrix 300 x 100, rank 2 and biases, 20% observed, noise 1": Problem((300, 100), 2, 0.2, 1.0, biases=True),
    "CP 40 x 30 x 20, rank 3, 20% observed, noise 0.5": Problem((40, 30, 20), 3, 0.2, 0.5),
}


def coverage(problem: Problem, seed: int) -> tuple[Array, bool]:
    """Return the shares of unobserved entries in the intervals, and whether they come from a posterior."""
    noisy, seen = problem.make(seed)
    completer: rl.MatrixCompleter | rl.TensorCompleter
    if len(problem.shape) == 2:
        completer = rl.MatrixCompleter(random_state=seed).fit(np.where(seen, noisy, np.nan))
    else:
        completer = rl.TensorCompleter(problem.shape, family="cp", random_state=seed).fit(
            np.argwhere(seen), noisy[seen]
        )
    means, deviations = completer.predict(np.argwhere(~seen), return_std=True)
    sizes = np.abs(noisy[~seen] - means) / deviations
    shares = [np.mean(sizes < NormalDist().inv_cdf((1 + covered) / 2)) for covered in COVERED]
    return np.array(shares), completer.posterior_


def rows(seeds: list[int]) -> Iterator[str]:
    """Yield a row of the table for every problem."""
    for name, problem in PROBLEMS.items():
        found = [coverage(problem, seed) for seed in seeds]
        shares = np.stack([each for each, _ in found])
        worst = np.abs(shares - COVERED).max(axis=1)
        kept = sum(posterior for _, posterior in found)
        means = " / ".join(f"{share:.1%}" for share in shares.mean(axis=0))
        yield f"| {name} | {means} | {100 * np.median(worst):.1f}, {100 * worst.max():.1f} | {kept} of {len(seeds)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(10)))
    print(
        "| problem | mean coverage | largest deviation of a fit: median, largest | posterior used |\n|---|---|---|---|"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for row in rows(parser.parse_args().seeds):
            print(row, flush=True)


if __name__ == "__main__":
    main()
