"""What the theorems predict, to be held against what a run measures."""

from ranklens.theory.counterexample import (
    Bounds2x2,
    SolutionDeterminant,
    bounds_2x2,
    solution_determinant,
    unobserved_bound,
)
from ranklens.theory.rank_bounds import min_cut_bound, pruning_bound, separation_rank
from ranklens.theory.rates import (
    alignment,
    component_rate,
    conserved,
    end_gradient,
    escape_time,
    measured_rate,
    singular_value_rate,
)

__all__ = [
    "Bounds2x2",
    "SolutionDeterminant",
    "alignment",
    "bounds_2x2",
    "component_rate",
    "conserved",
    "end_gradient",
    "escape_time",
    "measured_rate",
    "min_cut_bound",
    "pruning_bound",
    "separation_rank",
    "singular_value_rate",
    "solution_determinant",
    "unobserved_bound",
]
