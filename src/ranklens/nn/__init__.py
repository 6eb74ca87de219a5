"""Tensor networks as layers: the circuits that factorizations are, and back."""

from ranklens.nn.circuits import ArithmeticCircuit, LinearCircuit, circuit, product_pool

__all__ = ["ArithmeticCircuit", "LinearCircuit", "circuit", "product_pool"]
