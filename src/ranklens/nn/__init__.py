"""Tensor networks as layers: the circuits that factorizations are, and layers of any model that are factored."""

from ranklens.nn.circuits import ArithmeticCircuit, LinearCircuit, circuit, product_pool
from ranklens.nn.composed import Composition
from ranklens.nn.overparameterize import collapse, overparameterize

__all__ = [
    "ArithmeticCircuit",
    "Composition",
    "LinearCircuit",
    "circuit",
    "collapse",
    "overparameterize",
    "product_pool",
]
