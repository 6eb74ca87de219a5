"""Completion without a rank: scikit-learn estimators over small starts, early stopping and a polish."""

from ranklens.completers.matrix import MatrixCompleter as MatrixCompleter
from ranklens.completers.tensor import TensorCompleter as TensorCompleter
