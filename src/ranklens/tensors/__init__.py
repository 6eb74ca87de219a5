"""Tensor networks and what is measured of tensors: layouts, contraction, families, initial values, ranks."""
