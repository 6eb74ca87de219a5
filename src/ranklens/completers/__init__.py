"""Completion of matrices and tensors without a given rank, by scikit-learn estimators."""

from ranklens.completers.matrix import MatrixCompleter as MatrixCompleter
from ranklens.completers.regressor import EntryRegressor as EntryRegressor
from ranklens.completers.tensor import TensorCompleter as TensorCompleter
