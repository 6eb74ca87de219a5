"""Problems: what is observed of a tensor, and the loss of fitting it."""

from ranklens.problems.completion import Completion as Completion
from ranklens.problems.problem import Split as Split
from ranklens.problems.sensing import DenseSensing as DenseSensing
from ranklens.problems.sensing import Sensing as Sensing

__all__ = ["Completion", "DenseSensing", "Sensing", "Split"]
