"""Problems: what is observed of a tensor, and the loss of fitting it."""

from ranklens.problems.completion import Completion as Completion
from ranklens.problems.problem import BatchedProblem as BatchedProblem
from ranklens.problems.problem import Problem as Problem
from ranklens.problems.problem import Split as Split
from ranklens.problems.problem import TensorProblem as TensorProblem
from ranklens.problems.sensing import DenseSensing as DenseSensing
from ranklens.problems.sensing import Sensing as Sensing
from ranklens.problems.sequences import Sequences as Sequences

__all__ = ["BatchedProblem", "Completion", "DenseSensing", "Problem", "Sensing", "Sequences", "Split", "TensorProblem"]
