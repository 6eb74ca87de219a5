"""Predictions and bounds of the theorems, to compare with measurements along runs."""

from ranklens.theory.connectivity import observation_components
from ranklens.theory.counterexample import (
    Bounds2x2,
    SolutionDeterminant,
    bounds_2x2,
    solution_determinant,
    unobserved_bound,
)
from ranklens.theory.leading import leading_factor
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
from ranklens.theory.unbalanced import (
    Sandwich,
    balanced_from,
    lambda_balanced_,
    lambda_balanced_velocity,
    relative_imbalance,
    sandwich,
)
from ranklens.theory.weight_memory import memory_rank, memory_steps

__all__ = [
    "Bounds2x2",
    "Sandwich",
    "SolutionDeterminant",
    "alignment",
    "balanced_from",
    "bounds_2x2",
    "component_rate",
    "conserved",
    "end_gradient",
    "escape_time",
    "lambda_balanced_",
    "lambda_balanced_velocity",
    "leading_factor",
    "measured_rate",
    "memory_rank",
    "memory_steps",
    "min_cut_bound",
    "observation_components",
    "pruning_bound",
    "relative_imbalance",
    "sandwich",
    "separation_rank",
    "singular_value_rate",
    "solution_determinant",
    "unobserved_bound",
]
