"""Gradient flow and gradient descent of networks, and the records that they return."""
